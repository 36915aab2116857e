"""How fast everything is, on the Adult table: `pytest --benchmark`.

Sizes of the networks are the defaults; their training is cut short, because speed does not depend on how well they have
learned. Every result goes to bench/results/throughput-DEVICE.json, which `python -m bench.report` turns into a table.
"""

from __future__ import annotations

import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

import train
from backbones.ar import AutoregressiveBackbone
from bench import floor, reference_sampler
from bench.cells import configure
from recourse_gen import RecourseGenerator, registry, training
from recourse_gen.audit import Auditor
from recourse_gen.checkpoint import replace_file
from recourse_gen.constraints import Feasible
from recourse_gen.nearest import Nearest
from recourse_gen.noise import Noise
from recourse_gen.pairs import PairSupervision
from recourse_gen.rows import Rows

LEARNED = ("ar", "flow", "diffusion")
SIZES = ((1, 1), (1, 10), (1, 100), (100, 10), (200, 10), (1000, 1), (1000, 10), (1000, 100), (10_000, 1), (100_000, 1))
COMPARED = ((1, 10), (200, 10), (1000, 10))  # with the published procedure, in turn: machines differ by the minute
CASES = [
    (sampler, *size)
    for size in SIZES
    for sampler in (("reference", "published", *LEARNED) if size in COMPARED else LEARNED)
]
RESULTS = Path(__file__).parent / "results"
WORLD = ("data=adult", "seed=0", "classifier=gradient_boosting")
PUBLISHED = ("experiment=paper",)
LONG = 10.0  # seconds: from here on, one round says enough

Timed = Callable[..., float]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return training.processes().device


@pytest.fixture(scope="session")
def machine(device: torch.device) -> floor.Machine:
    return floor.measure(device)


@pytest.fixture(scope="session")
def records(machine: floor.Machine, request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """What was timed, written in the place of what an earlier session left if this one ran everything: ratios need one
    run."""
    made: list[dict[str, Any]] = []
    yield made
    path = RESULTS / f"throughput-{re.sub(r'[^a-z0-9]+', '-', machine.device.lower())}.json"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    text = json.dumps({"machine": asdict(machine), "versions": versions, "results": made}, indent=1)
    asked = request.config
    part = asked.option.keyword or asked.option.markexpr or asked.args_source is pytest.Config.ArgsSource.ARGS
    if made and not part and not request.session.testsfailed:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, lambda target: target.write_text(text + "\n"))


@pytest.fixture
def timed(benchmark: Any, records: list[dict[str, Any]], device: torch.device) -> Timed:
    """Times a call, after one warm-up unless one round is asked for, and notes what it handled."""

    def run(what: str, call: Callable[[], Any], rows: int, rounds: int = 5, **about: Any) -> float:
        def finished() -> None:
            call()
            floor.synchronise(device)

        if benchmark.disabled:
            pytest.skip("benchmarks are run by `pytest --benchmark`")
        started = time.perf_counter()
        if rounds > 1:
            finished()
        benchmark.pedantic(finished, rounds=1 if time.perf_counter() - started > LONG else rounds)
        median = float(benchmark.stats.stats.median)
        data = benchmark.stats.stats.data
        p99 = float(np.quantile(data, 0.99)) if len(data) >= 100 else None
        record = {"what": what, "rows": rows, "seconds": median, "p99": p99, "rows_per_second": rows / median, **about}
        benchmark.extra_info |= record
        records.append(record)
        return median

    return run


@pytest.fixture(scope="session")
def given() -> train.World:
    """Adult, with a gradient-boosting classifier."""
    return train.world(configure(WORLD), train.Stopwatch())


@pytest.fixture(scope="session")
def generators(given: train.World) -> Callable[[str], RecourseGenerator]:
    """Fitted generators by name, each of them fitted once."""
    fitted: dict[str, RecourseGenerator] = {}

    def get(name: str) -> RecourseGenerator:
        if name not in fitted:
            settings = PUBLISHED if name == "published" else (f"backbone={name}",)
            steps = 100 if name in LEARNED else 10
            config = configure([*WORLD, *settings, f"training.steps={steps}"])
            world = given if name != "published" else train.world(config, train.Stopwatch())
            # The auditor does not depend on the backbone: the first one serves all.
            known = [mock.patch.object(Auditor, "fit", return_value=other.auditor) for other in fitted.values()]
            with tempfile.TemporaryDirectory() as folder, known[0] if known else nullcontext():
                fitted[name] = train.fit({**config, "run": folder}, world, train.Stopwatch())
        return fitted[name]

    return get


class Question:
    """What a sampler is asked: some people, encoded, with their constraints."""

    def __init__(self, generator: RecourseGenerator, people: pd.DataFrame, device: torch.device) -> None:
        assert generator.model is not None
        rows = generator.transform.encode(people)
        self.model, self.rows = generator.model, rows.to(device)
        self.feasible: Feasible = generator.constraints.compile(generator.schema, people, rows).to(device)
        self.cost_weight = torch.full((len(people),), 10.0, device=device)

    def sample(self, candidates: int) -> Rows:
        return self.model.sample(
            self.rows,
            num_samples=candidates,
            cost_weight=self.cost_weight,
            feasible=self.feasible,
            noise=Noise.of(self.rows, 0),
        )


@pytest.mark.parametrize(("sampler", "batch", "candidates"), CASES)
def test_sampling(
    timed: Timed, generators: Any, given: Any, device: torch.device, sampler: str, batch: int, candidates: int
) -> None:
    """reference: the published procedure with the published network. published: our sampler with the same weights."""
    backbone = "published" if sampler == "reference" else sampler
    asked = Question(generators(backbone), somebody(given, batch), device)
    about = {"backbone": backbone, "batch": batch, "candidates": candidates, "steps": steps(asked.model)}
    if sampler == "reference":
        network = asked.model
        assert isinstance(network, AutoregressiveBackbone)

        def call() -> None:
            reference_sampler.sample(network, asked.rows, num_samples=candidates, cost_weight=asked.cost_weight)

        timed("reference", call, batch, rounds=3 if batch == 1 else 1, **about)
    else:
        rounds = 100 if batch == 1 else 5 if batch * candidates < 100_000 else 1
        timed("sampling", lambda: asked.sample(candidates), batch, rounds=rounds, **about)


@pytest.mark.parametrize("backbone", LEARNED)
def test_share_of_the_floor(
    timed: Timed,
    generators: Any,
    given: Any,
    device: torch.device,
    records: list[dict[str, Any]],
    backbone: str,
) -> None:
    """The network's matrix products at the rate of a large one, measured just before, over the seconds spent in the
    network; in the whole sampler where it is replayed."""
    asked, inside = Question(generators(backbone), somebody(given, 1000), device), []
    with floor.plain():  # what is replayed cannot be looked into
        least = floor.products(lambda: asked.sample(10)) / floor.measure(device).flops

    def call() -> None:
        with floor.Clock(device) as clock:
            asked.sample(10)
        inside.append(clock.seconds)

    whole = timed("floor", call, 1000, backbone=backbone, batch=1000, candidates=10, steps=steps(asked.model))
    network = float(np.median(inside)) or whole
    shares = {"floor_seconds": least, "network_seconds": network, "network_share": network / whole}
    records[-1] |= {**shares, "floor_share": least / network}


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("sparsify", [False, True])
@pytest.mark.parametrize("backbone", registry.names())
def test_generate(
    timed: Timed,
    records: Any,
    generators: Any,
    given: Any,
    device: torch.device,
    backbone: str,
    batch: int,
    sparsify: bool,
) -> None:
    """The whole call: encode, sample, decode, classify, audit, choose, check again; and then sampling alone."""
    generator, people = generators(backbone), denied_rows(given).iloc[:batch].reset_index(drop=True)
    what = "generate, sparse" if sparsify else "generate"
    options = {"candidates": 10, "max_candidates": 10, "sparsify": sparsify}
    about = {"backbone": backbone, "batch": len(people), "candidates": 10}
    rounds = 20 if batch == 1 else 3
    timed(what, lambda: generator.generate(people, **options), len(people), rounds=rounds, **about)
    asked = Question(generator, people, device)
    records[-1]["sampling_seconds"] = float(np.median(floor.seconds(lambda: asked.sample(10), device, rounds)))


def test_pair_building(timed: Timed, records: Any, generators: Any, given: Any, device: torch.device) -> None:
    pairs, denied = generators("ar").pairs, denied_rows(given)
    timed("building pairs", lambda: pairs.of(denied), len(denied), rounds=3, partners=pairs.partners.batch_size)
    records[-1]["peak_bytes"] = floor.peak_memory(lambda: pairs.of(denied), device)


def test_dense_pair_building(timed: Timed, records: Any, generators: Any, given: Any, device: torch.device) -> None:
    """All distances at once, then the K nearest: what `PairSupervision` does in blocks."""
    pairs, denied = generators("ar").pairs, denied_rows(given)

    def call() -> None:
        rows = pairs.transform.encode(denied)
        feasible = pairs.constraints.compile(pairs.transform.schema, denied, rows).to(device)
        rows = rows.to(device)
        costs = torch.cdist(pairs.cost.coordinates(rows), pairs.cost.coordinates(pairs.partners), p=1.0)
        admitted = feasible.admits(pairs.transform.schema, rows, pairs.partners)
        costs.masked_fill(~admitted, torch.inf).topk(pairs.index.shape[1], largest=False)

    timed("building pairs, dense", call, len(denied), rounds=1, partners=pairs.partners.batch_size)
    records[-1]["peak_bytes"] = floor.peak_memory(call, device)


@pytest.mark.parametrize("top_k", [10, 1000])
def test_pair_drawing(timed: Timed, generators: Any, device: torch.device, top_k: int) -> None:
    pairs: PairSupervision = generators("ar").pairs
    size, generator = 100_000, torch.Generator(device).manual_seed(0)
    nearest = object.__new__(PairSupervision)
    nearest.__dict__ |= {**pairs.__dict__, "_found": Nearest(pairs.costs[:, :top_k], pairs.index[:, :top_k])}

    def call() -> None:
        at = torch.randint(len(pairs), (size,), generator=generator, device=device)
        nearest.draw(at, nearest.draw_cost_weight(size, generator), generator)

    timed("drawing pairs", call, size, top_k=top_k)


@pytest.mark.parametrize("backbone", LEARNED)
def test_training_step(timed: Timed, generators: Any, device: torch.device, backbone: str) -> None:
    fitted: RecourseGenerator = generators(backbone)
    pairs, model, size = fitted.pairs, fitted.model, fitted.training_options.batch_size
    assert pairs is not None
    assert model is not None
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    model.train()

    def call() -> None:
        at = torch.randint(len(pairs), (size,), generator=generator, device=device)
        weight = pairs.draw_cost_weight(size, generator)
        model(pairs.factuals.take(at), pairs.draw(at, weight, generator).flatten(), weight).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    timed("training step", call, size, rounds=20, backbone=backbone, batch=size)
    model.eval()


def test_encoding(timed: Timed, generators: Any, given: Any) -> None:
    transform = generators("ar").transform
    timed("encoding", lambda: transform.encode(given.train), len(given.train))


def test_decoding(timed: Timed, generators: Any, given: Any) -> None:
    transform = generators("ar").transform
    rows = transform.encode(given.train)
    timed("decoding", lambda: transform.decode(rows), len(given.train))


def test_auditing(timed: Timed, generators: Any, given: Any) -> None:
    generator = generators("ar")
    rows = generator.transform.encode(given.train.iloc[:5000])
    auditor = generator.auditor
    timed("auditing", lambda: (auditor.consensus(rows), auditor.plausibility(rows)), 5000)


def somebody(given: train.World, batch: int) -> pd.DataFrame:
    """So many training rows, over again if there are fewer."""
    return given.train.iloc[np.arange(batch) % len(given.train)].reset_index(drop=True)


def denied_rows(given: train.World) -> pd.DataFrame:
    return given.train[given.classifier.predict_proba(given.train)[:, 1] <= 0.5]


def steps(model: Any) -> int:
    """Sequential network evaluations per candidate."""
    return getattr(model, "steps", len(model.schema.features))
