"""Precision, gradient accumulation and compilation are Accelerate's, read from its environment."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from trainings import SHORT, TINY, build, same, small_pairs

from recourse_gen import training
from recourse_gen.backbone import Backbone
from recourse_gen.pairs import PairSupervision
from recourse_gen.resumption import FILE, LOG, parse
from recourse_gen.training import TrainingOptions

Train = Callable[..., Backbone]


@pytest.fixture(scope="module")
def pairs() -> PairSupervision:
    return small_pairs()


@pytest.fixture
def train(pairs: PairSupervision, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Train a network without corruption, in an environment of Accelerate's."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    def run(name: str = "ar", folder: Path | None = None, resume: bool = False, **given: Any) -> Backbone:
        for key in [key for key in given if key.isupper()]:
            monkeypatch.setenv(f"ACCELERATE_{key}", given.pop(key))
        reset()
        model = build(name, pairs, corruption=0.0)
        options = TrainingOptions(**{**SHORT, "learning_rate": 1e-3, **given})
        if folder is not None:
            folder.mkdir(exist_ok=True)
        training.fit(model, pairs, options=options, seed=0, folder=folder, resume=resume)
        return model

    yield run
    monkeypatch.undo()
    reset()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["validation_loss"] for line in (folder / LOG).read_text().splitlines()]


def alike(a: Backbone, b: Backbone, tolerance: float) -> bool:
    there = b.state_dict()
    return all(torch.allclose(x, there[name], rtol=0.0, atol=tolerance) for name, x in a.state_dict().items())


def test_accumulated_halves_make_one_update_of_the_same_pairs(train: Train, tmp_path: Path) -> None:
    """Steps, averages and the rate count updates, so that nothing differs but the order of sums."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    one = train(folder=whole, batch_size=16)
    start = build("ar", small_pairs(), corruption=0.0).to(training.processes().device)
    two = train(folder=halves, batch_size=8, GRADIENT_ACCUMULATION_STEPS="2")
    assert alike(one, two, 1e-4)
    assert not alike(one, start, 1e-2)
    assert losses(halves) == pytest.approx(losses(whole), abs=1e-3)
    for folder in (whole, halves):
        record, tensors = parse(folder / FILE)
        assert record["step"] == tensors["average/n_averaged"] == tensors["optimizer/0.step"] == SHORT["steps"]


def test_another_accumulation_is_another_run(train: Train, tmp_path: Path) -> None:
    train(folder=tmp_path)
    with pytest.raises(ValueError, match=r"another gradient accumulation \(1, here 2\)"):
        train(folder=tmp_path, resume=True, GRADIENT_ACCUMULATION_STEPS="2")


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_close_and_leaves_a_float32_network(name: str, train: Train, tmp_path: Path) -> None:
    full, half = tmp_path / "full", tmp_path / "half"
    one = train(name, full)
    two = train(name, half, MIXED_PRECISION="bf16")
    assert not same(one, two)
    assert losses(half) == pytest.approx(losses(full), abs=0.05)
    assert {value.dtype for value in two.parameters()} == {torch.float32}
    assert "forward" not in vars(two)
    with pytest.raises(ValueError, match=r'another mixed precision \("bf16", here "no"\)'):
        train(name, half, resume=True, MIXED_PRECISION="no")


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_compiled_network_learns_the_same(name: str, train: Train) -> None:
    """With the backend that needs no compiler."""
    one = train(name, steps=8)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    two = train(name, steps=8, DYNAMO_BACKEND="EAGER")
    assert counters["stats"]["unique_graphs"] > 0
    assert alike(one, two, 1e-4)
