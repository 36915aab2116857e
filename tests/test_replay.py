"""Samplers on a GPU: they never wait for the device while they draw, and a recorded call answers like a plain one."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones import replay
from recourse_gen import Constraints, Schema, registry
from recourse_gen.backbone import Backbone
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

LEARNED = ("ar", "flow", "diffusion")
COLUMNS = {"mixed": ["income", "savings", "late", "job", "age"], "tokens": ["late", "job"], "numbers": ["income"]}
RULES = {
    "none": None,
    "free": Constraints(),
    "some": Constraints(immutable=["job"], monotone={"late": "decrease"}, ranges={"income": (30.0, 60.0)}),
    "tied": Constraints(max_changes=1),
}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Question:
    """A backbone with its first weights, people of a table and their rules."""

    def __init__(self, name: str, frame: pd.DataFrame, rules: Constraints | None) -> None:
        self.schema = Schema.infer(frame, kinds={c: "continuous" for c in ("income", "savings") if c in frame})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: Backbone = registry.load(name)(self.schema).eval()
        self.rows = TableTransform(self.schema).fit(frame).encode(frame)
        self.rules = None if rules is None else rules.compile(self.schema, frame, self.rows)

    def __call__(
        self, people: int, *, count: int = 3, device: str = "cpu", first: int = 0, noise: Noise | None = None, **kw: Any
    ) -> Rows:
        at = torch.arange(first, first + people)
        rows = self.rows.take(at).to(device)
        rules = None if self.rules is None else self.rules.take(at.numpy()).to(device)
        weight = torch.full((people,), 5.0, device=device)
        noise = Noise.of(rows, 1) if noise is None else noise
        return self.model.sample(rows, num_samples=count, cost_weight=weight, feasible=rules, noise=noise, **kw)


@pytest.fixture
def ask(table: tuple[pd.DataFrame, np.ndarray]) -> Callable[..., Question]:
    def build(name: str, columns: str = "mixed", rules: str = "some") -> Question:
        known, asked = COLUMNS[columns], RULES[rules]
        if asked is not None and columns != "mixed":
            asked = Constraints()
        return Question(name, table[0][known], asked)

    return build


class Apart(TorchDispatchMode):
    """Nothing may be read from the device, which has no values here, or brought to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        devices = {part.device.type for part in tree_leaves((args, kwargs, answer)) if isinstance(part, torch.Tensor)}
        assert len(devices) < 2, f"{func} on {devices}"
        return answer


def to_meta(model: torch.nn.Module) -> None:
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, part in held.items():
                if part is not None:
                    held[name] = (
                        torch.nn.Parameter(part.to("meta"), part.requires_grad)
                        if held is module._parameters
                        else part.to("meta")
                    )


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.01])
@pytest.mark.parametrize("rules", ["none", "some"])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", LEARNED)
def test_a_draw_neither_asks_the_device_nor_brings_it_anything(
    name: str, columns: str, rules: str, temperature: float, ask: Callable[..., Question], monkeypatch: Any
) -> None:
    asked = ask(name, columns, rules)
    to_meta(asked.model)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    drawn = []

    def watched(self: replay.Replay, draw: replay.Draw, *_: Any) -> replay.Draw:
        def call(*given: Any) -> Rows:
            with Apart():
                drawn.append(draw(*given))
            return drawn[-1]

        return call

    monkeypatch.setattr(replay.Replay, "__call__", watched)
    keys = torch.zeros(4, 2, dtype=torch.int64, device="meta")
    answer = asked(4, device="meta", noise=Noise(keys), temperature=temperature)
    assert len(drawn) == 1
    assert answer.num.shape[:2] == (4, 3)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", LEARNED)
def test_a_loss_stays_on_the_device(name: str, columns: str, ask: Callable[..., Question], monkeypatch: Any) -> None:
    asked = ask(name, columns)
    to_meta(asked.model)
    asked.model.train()
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    rows = asked.rows.take(torch.arange(8)).to("meta")
    with Apart():
        asked.model(rows, rows, torch.full((8,), 5.0, device="meta")).mean().backward()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[replay.Recording]:
    """Recording on a CPU: the call is made anew on the inputs that stay, and its answer put where the first lies."""
    made: list[replay.Recording] = []

    def record(call: Callable[[], Rows], inputs: list[torch.Tensor], pool: Any) -> replay.Recording:
        answer = call()

        def play() -> None:
            for mine, new in zip(answer, call(), strict=True):
                mine.copy_(new)

        made.append(replay.Recording(inputs, play, answer, pool))
        return made[-1]

    monkeypatch.setattr(replay, "DEVICES", ("cpu",))
    monkeypatch.setattr(replay, "record", record)
    return made


def same(one: Rows, other: Rows) -> None:
    assert torch.equal(one.cat, other.cat)
    torch.testing.assert_close(one.num, other.num)


@pytest.mark.parametrize("rules", ["none", "some"])
@pytest.mark.parametrize("name", LEARNED)
def test_replayed_calls_answer_like_plain_ones(
    name: str, rules: str, ask: Callable[..., Question], recorded: list[replay.Recording], monkeypatch: Any
) -> None:
    asked = ask(name, rules=rules)
    calls = [(5, 0), (5, 20), (5, 40), (9, 0), (10, 30), (5, 3)]
    answers = [asked(people, first=first) for people, first in calls]
    assert len(recorded) == 2, "of five people, and of nine filled up to ten"
    monkeypatch.setattr(replay, "DEVICES", ())
    for (people, first), answer in zip(calls, answers, strict=True):
        same(answer, asked(people, first=first))


@pytest.mark.parametrize("name", LEARNED)
def test_what_makes_another_call(
    name: str, ask: Callable[..., Question], recorded: list[replay.Recording], monkeypatch: Any
) -> None:
    asked = ask(name)
    for options in ({}, {"count": 4}, {"temperature": 0.3}, {"noise": Noise.of(asked.rows.take(torch.arange(4)), 9)}):
        for _ in range(3):
            asked(4, **options)
    # One stream goes on from call to call, so that each of the last three is of a kind of its own.
    assert len(recorded) == 3
    before = asked(4)
    with torch.no_grad():
        next(asked.model.parameters()).mul_(3.0)
    after = [asked(4) for _ in range(3)]
    assert len(recorded) == 4
    assert not torch.equal(before.num, after[0].num)
    monkeypatch.setattr(replay, "DEVICES", ())
    for answer in after:
        same(answer, asked(4))


@pytest.mark.parametrize("name", LEARNED)
def test_steps_that_no_weight_counts_are_noticed(
    name: str, ask: Callable[..., Question], recorded: list[replay.Recording]
) -> None:
    """Neither what was recorded nor what follows from the weights outlives a step of a fused optimizer."""
    asked = ask(name)
    before = [asked(4) for _ in range(3)][-1]
    optimizer = torch.optim.AdamW(asked.model.parameters(), 0.1, fused=True)
    counted = [part._version for part in asked.model.parameters()]
    asked.model(asked.rows, asked.rows, torch.full((len(asked.rows.cat),), 5.0)).mean().backward()
    optimizer.step()
    assert counted == [part._version for part in asked.model.parameters()]
    after = asked(4)
    assert not torch.equal(before.num, after.num)
    asked.model = copy.deepcopy(asked.model)
    same(after, asked(4))


@pytest.mark.parametrize("name", LEARNED)
def test_a_stream_goes_on_after_a_replayed_call(
    name: str, ask: Callable[..., Question], recorded: list[replay.Recording], monkeypatch: Any
) -> None:
    asked = ask(name)
    rows = asked.rows.take(torch.arange(4))
    asked(4), asked(4)
    streams = [Noise.of(rows, 1), Noise.of(rows, 1)]
    asked(4, noise=streams[0])
    assert len(recorded) == 1
    monkeypatch.setattr(replay, "DEVICES", ())
    asked(4, noise=streams[1])
    assert streams[0].draws == streams[1].draws > 0
    assert torch.equal(streams[0].uniform(2, 3), streams[1].uniform(2, 3))


@pytest.mark.parametrize("name", LEARNED)
def test_tied_columns_are_drawn_plainly(
    name: str, ask: Callable[..., Question], recorded: list[replay.Recording]
) -> None:
    asked = ask(name, rules="tied")
    for _ in range(3):
        asked(4)
    assert not recorded


def test_the_last_kinds_of_calls_are_kept(
    ask: Callable[..., Question], recorded: list[replay.Recording], monkeypatch: Any
) -> None:
    monkeypatch.setattr(replay, "_KEPT", 2)
    asked = ask("ar")
    for people in (1, 1, 2, 2, 3, 3, 3, 1, 1):
        asked(people)
    assert len(recorded) == 4


def test_copies_begin_without_recordings(ask: Callable[..., Question], recorded: list[replay.Recording]) -> None:
    asked = ask("flow")
    first, _ = (asked(4) for _ in range(2))
    for other in (copy.deepcopy(asked.model), pickle.loads(pickle.dumps(asked.model))):
        asked.model = other
        same(asked(4), first)
    assert len(recorded) == 1


def test_sizes_are_few_and_little_larger() -> None:
    sizes = [replay.filled(batch) for batch in range(1, 5000)]
    assert all(batch <= size <= 1.25 * batch for batch, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 50


@gpu
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", LEARNED)
def test_a_gpu_answers_like_a_cpu(name: str, columns: str, rules: str, ask: Callable[..., Question]) -> None:
    """Up to rounding, which may carry a draw over the border between two levels."""
    asked = ask(name, columns, rules)
    plain = {(people, first): asked(people, first=first, count=50) for people, first in ((40, 0), (40, 50), (3, 7))}
    asked.model.cuda()
    for _ in range(3):
        for (people, first), answer in plain.items():
            there = asked(people, first=first, count=50, device="cuda").to("cpu")
            assert (there.cat == answer.cat).float().mean() > 0.99 if answer.cat.numel() else True
            assert ((there.num - answer.num).abs() < 1e-3).float().mean() > 0.99 if answer.num.numel() else True
    assert bool(asked.model.replay._known) == (asked.rules is None or not asked.rules.tied)


@gpu
@pytest.mark.parametrize("name", LEARNED)
def test_recordings_share_memory_and_keep_apart(name: str, ask: Callable[..., Question]) -> None:
    asked = ask(name)
    asked.model.cuda()
    sizes = (1, 40, 7, 100, 20)
    first = {people: asked(people, count=20, device="cuda") for people in sizes}
    for _ in range(3):
        for people in sizes:
            same(asked(people, count=20, device="cuda"), first[people])
