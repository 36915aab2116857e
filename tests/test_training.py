"""The training loop: budgets, which weights are kept, what is reproducible, and what it leaves alone."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import trainings
from torch import Tensor

from backbones.ar import AutoregressiveBackbone
from recourse_gen import Constraints, registry, training
from recourse_gen.backbone import Backbone
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.resumption import TrainingState
from recourse_gen.rows import Rows
from recourse_gen.training import Trained, TrainingOptions, schedule
from recourse_gen.transform import TableTransform

SMALL: dict[str, Any] = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "bins": 8}
LEARNED = [name for name in registry.names() if not registry.load(name).observed]
SHORT: dict[str, Any] = {"steps": 30, "minutes": 10.0, "batch_size": 32, "validation_pairs": 64, "validate_every": 5}


@pytest.fixture(scope="module")
def pairs(table: tuple[pd.DataFrame, np.ndarray], transform: TableTransform) -> PairSupervision:
    frame, granted = table
    partners = transform.encode(frame[granted == 1])
    options = PairOptions(top_k=30)
    where: dict[str, Any] = {"device": training.processes().device, "constraints": Constraints()}
    return PairSupervision(frame[granted == 0], partners, transform=transform, options=options, **where)


def build(pairs: PairSupervision, seed: int = 0) -> AutoregressiveBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoregressiveBackbone(pairs.transform.schema, **SMALL)


def train(
    pairs: PairSupervision, folder: Path | None = None, seed: int = 0, **options: Any
) -> tuple[Backbone, Trained]:
    model = build(pairs)
    return model, training.fit(model, pairs, options=TrainingOptions(**{**SHORT, **options}), seed=seed, folder=folder)


def log(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def validation_loss(model: Backbone, pairs: PairSupervision, seed: int = 0, **options: Any) -> float:
    _, (factual, counterfactual, weight) = training._split(pairs, TrainingOptions(**{**SHORT, **options}), seed)
    with torch.no_grad():
        return model(factual, counterfactual, weight).mean().item()


def same(a: Backbone, b: Backbone) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_steps_end_a_run(pairs: PairSupervision, tmp_path: Path) -> None:
    _, trained = train(pairs, tmp_path, steps=13)
    assert trained.steps == 13
    assert [record["step"] for record in log(tmp_path)] == [5, 10, 13]


def test_minutes_end_a_run(pairs: PairSupervision) -> None:
    started = time.monotonic()
    _, trained = train(pairs, steps=10**9, minutes=1 / 60)
    assert time.monotonic() - started < 5.0
    assert 1.0 <= trained.seconds < 3.0
    assert trained.steps > 1


def test_training_lowers_the_validation_loss(pairs: PairSupervision) -> None:
    before = validation_loss(build(pairs).to(pairs.device), pairs)
    model, trained = train(pairs, steps=60, learning_rate=1e-2)
    assert validation_loss(model, pairs) < before - 0.2
    assert not model.training
    assert trained.best_step > 0


@pytest.mark.parametrize("name", LEARNED)
def test_same_seed_same_weights(pairs: PairSupervision, name: str) -> None:
    def weights(seed: int) -> Backbone:
        torch.manual_seed(0)
        model = registry.load(name)(pairs.transform.schema)
        torch.rand(next(strays))  # whatever else the process has drawn
        training.fit(model, pairs, options=TrainingOptions(**{**SHORT, "steps": 3}), seed=seed)
        return model

    strays = iter((1, 5, 1))
    one, again, other = weights(0), weights(0), weights(1)
    assert same(one, again)
    assert not same(one, other)


def test_a_slow_start_does_not_change_the_weights(pairs: PairSupervision, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that `steps` ends may be behind the clock at first, as every run is."""
    swift = train(pairs, minutes=1.0)[0]
    clock, asked = time.monotonic, iter([0.0])
    monkeypatch.setattr(training.time, "monotonic", lambda: clock() + next(asked, 4.0))
    assert same(swift, train(pairs, minutes=1.0)[0])


@pytest.mark.parametrize("name", LEARNED)
def test_nothing_global_changes(pairs: PairSupervision, name: str) -> None:
    model = registry.load(name)(pairs.transform.schema)
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    training.fit(model, pairs, options=TrainingOptions(**{**SHORT, "steps": 3}), seed=0)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))  # noqa: NPY002


def test_two_threads_train_as_one_after_the_other() -> None:
    """PyTorch's random state is common to all threads, and losses draw from it."""
    pairs, cls = trainings.small_pairs(), registry.load("flow")
    options = TrainingOptions(**{**trainings.SHORT, "steps": 20})

    def fit(seed: int) -> Backbone:
        model = registry.build(cls, pairs.transform.schema, trainings.TINY["flow"], seed)
        training.fit(model, pairs, options=options, seed=seed)
        return model

    alone, before = [fit(seed) for seed in range(3)], torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(fit, range(3)))
    assert all(map(same, alone, together))
    assert torch.get_rng_state().equal(before)


def test_held_out_factuals_are_not_trained_on(pairs: PairSupervision) -> None:
    options = TrainingOptions(**{**SHORT, "holdout": 0.25})
    train_at, (factual, _, _) = training._split(pairs, options, 0)
    assert len(train_at) == len(pairs) - int(len(pairs) * 0.25)
    kept = pairs.factuals.take(train_at)
    seen = (factual.cat[:, None] == kept.cat).all(-1) & (factual.num[:, None] == kept.num).all(-1)
    assert not seen.any()


def test_one_factual_is_enough(table: tuple[pd.DataFrame, np.ndarray], pairs: PairSupervision) -> None:
    frame, granted = table
    alone = pairs.of(frame[granted == 0].iloc[:1])
    assert train(alone, steps=3)[1].steps == 3


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step / 1000, 0.05) for step in range(1001)]
    assert rates[0] < 0.05
    assert rates[50] == max(rates) == 1.0
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert rates[:51] == sorted(rates[:51])
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[525] == pytest.approx(0.5)
    assert schedule(0.0, 0.0) == 1.0


class Counter(Backbone):
    """A single weight whose loss falls without end, so that plain gradient steps raise it by one each."""

    def __init__(self, schema: Any, loss: float | None = None) -> None:
        super().__init__(schema)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loss = loss

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        loss = -self.weight.expand(factual.batch_size)
        return loss if self.loss is None else loss * self.loss

    def sample(self, *args: Any, **kwargs: Any) -> Rows:
        raise NotImplementedError


class Overshoot(Counter):
    """Training raises the weight past 10, where the validation loss is least."""

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        loss = super().forward(factual, counterfactual, cost_weight)
        return loss if self.training else (loss + 10.0) ** 2


def test_the_kept_weights_are_the_best_ones(pairs: PairSupervision, tmp_path: Path) -> None:
    model, saved = Overshoot(pairs.transform.schema), []
    options = TrainingOptions(**{**SHORT, "steps": 40, "validate_every": 1, "learning_rate": 1.0, "ema": 0.0})
    trained = training.fit(
        model, pairs, options=options, seed=0, folder=tmp_path, save=lambda best: saved.append(best.weight.item())
    )
    losses = [record["validation_loss"] for record in log(tmp_path)]
    assert min(losses) < 0.5 < losses[-1]
    assert trained.best_loss == min(losses) == pytest.approx((model.weight.item() - 10.0) ** 2)
    assert trained.best_step == 1 + losses.index(min(losses))
    assert saved == sorted(saved)
    assert saved[-1] == model.weight.item()


def test_the_kept_weights_reach_the_logged_loss(pairs: PairSupervision, tmp_path: Path) -> None:
    model, trained = train(pairs, tmp_path)
    assert validation_loss(model, pairs) == pytest.approx(trained.best_loss, abs=1e-4)
    assert trained.best_loss == min(record["validation_loss"] for record in log(tmp_path))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_is_exponential_with_a_warm_start(pairs: PairSupervision, decay: float) -> None:
    model, seen = Counter(pairs.transform.schema), []
    options = TrainingOptions(
        **{
            **SHORT,
            "steps": 40,
            "ema": decay,
            "weight_decay": 0.0,
            "warmup": 0.0,
            "validate_every": 1,
            "learning_rate": 1.0,
        }
    )
    trained = training.fit(model, pairs, options=options, seed=0, save=lambda best: seen.append(best.weight.item()))
    # Adam moves by the learning rate exactly while the gradient is constant.
    weights = np.cumsum([schedule(step / 40, 0.0) for step in range(40)])
    average, expected = weights[0], [weights[0]]
    for count, weight in enumerate(weights[1:], start=1):
        keep = min(decay, (1 + count) / (10 + count))
        average = keep * average + (1 - keep) * weight
        expected.append(average)
    np.testing.assert_allclose(seen, expected, rtol=1e-3)
    assert trained.best_step == 40


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(pairs: PairSupervision, loss: float) -> None:
    with pytest.raises(FloatingPointError, match=r"learning_rate"):
        training.fit(Counter(pairs.transform.schema, loss), pairs, options=TrainingOptions(**SHORT), seed=0)


def test_the_log_is_strict_json_even_when_validation_is_not_finite(pairs: PairSupervision, tmp_path: Path) -> None:
    class OnlyTraining(Counter):
        def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
            return super().forward(factual, counterfactual, cost_weight) * (1.0 if self.training else math.nan)

    with pytest.raises(FloatingPointError, match=r"never finite"):
        training.fit(
            OnlyTraining(pairs.transform.schema), pairs, options=TrainingOptions(**SHORT), seed=0, folder=tmp_path
        )
    assert {record["validation_loss"] for record in log(tmp_path)} == {None}


def test_a_budget_that_is_spent_without_a_validation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, write = trainings.small_pairs(), TrainingState.write

    def cut(state: TrainingState, *given: Any) -> None:
        write(state, *given)
        raise InterruptedError

    monkeypatch.setattr(TrainingState, "write", cut)
    with pytest.raises(InterruptedError):
        trainings.train("ar", few, tmp_path, checkpoint_every=0.0)
    with pytest.raises(ValueError, match=r"training.steps=1 and .* ask for no more than the 1 steps"):
        trainings.train("ar", few, tmp_path, steps=1, resume=True)


WRONG = {
    "steps": (0, 1.5, "many"),
    "minutes": (0, -1, "two", math.nan),
    "batch_size": (0, True),
    "learning_rate": (0.0, "fast", math.inf),
    "warmup": (1.0, -0.1),
    "ema": (1.0, None),
    "holdout": (1.0, "some"),
    "weight_decay": (-0.1, "much"),
    "validate_every": (0,),
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in WRONG.items() for value in values])
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"training\.{option}"):
        TrainingOptions(**{option: value})
