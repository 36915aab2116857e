"""Every registered backbone keeps the contract, and the suite notices when one does not."""

import importlib.util
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recourse_gen import registry
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.testing import CHECKS, Subject, check_backbone, run_check, subject_of

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "my_backbone" / "my_backbone.py"


def example() -> ModuleType:
    """The example's module, without installing it."""
    spec = importlib.util.spec_from_file_location("my_backbone_example", EXAMPLE)
    assert getattr(spec, "loader", None) is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Mixture: Any = example().MyBackbone


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are so small here that threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def subject(name: str) -> Subject:
    return subject_of(Mixture if name == "example" else name)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", [*registry.names(), "example"])
def test_backbone(name: str, check: str) -> None:
    run_check(check, subject(name))


class Broken(Mixture):
    """The example; each subclass breaks one promise. `sample` takes what it does not touch as it comes."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema, width=8, components=2)


class ScalarLoss(Broken):
    def forward(self, *batch: Any) -> Tensor:
        return super().forward(*batch).mean()


class InfiniteLoss(Broken):
    def forward(self, *batch: Any) -> Tensor:
        return super().forward(*batch) * math.inf


class FlatLoss(Broken):
    def forward(self, *batch: Any) -> Tensor:
        return 100 + 1e-3 * super().forward(*batch)


class Unused(Broken):
    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.unused = nn.Parameter(torch.ones(3))


class NoGradient(Unused):
    def forward(self, *batch: Any) -> Tensor:
        return super().forward(*batch) + 0 * self.unused.sum()


class SqueezesOneSample(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        one = how["num_samples"] == 1
        return Rows(*(part[:, 0] if one else part for part in super().sample(factual, **how)))


class Altered(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return self.altered(*super().sample(factual, **how))


class ShortTokens(Altered):
    def altered(self, num: Tensor, cat: Tensor) -> Rows:
        return Rows(num, cat.int())


class OutOfRange(Altered):
    def altered(self, num: Tensor, cat: Tensor) -> Rows:
        return Rows(num * 1.5, cat)


class CarriesGradient(Altered):
    def altered(self, num: Tensor, cat: Tensor) -> Rows:
        return Rows(num + 0 * self.keep.sum(), cat)


class SeedBlind(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "noise": Noise.of(factual, 0)})


class Restless(Broken):
    calls = 0

    def sample(self, factual: Rows, **how: Any) -> Rows:
        Restless.calls += 1
        return super().sample(factual, **{**how, "noise": Noise.of(factual, Restless.calls)})


class OneCostWeight(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "cost_weight": torch.full_like(how["cost_weight"], 3.0)})


class Inverted(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "temperature": 1 / how.get("temperature", 1.0)})


class OneTemperature(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "temperature": 1.0})


class TorchRandom(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        drawn = super().sample(factual, **how)
        return Rows((drawn.num + torch.rand(drawn.num.shape)) / 2, drawn.cat)


class ForkedTorchRandom(TorchRandom):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        with torch.random.fork_rng(devices=[]):
            return super().sample(factual, **how)


class NumpyRandom(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        np.random.random()  # noqa: NPY002
        return super().sample(factual, **how)


class PythonRandom(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        random.random()
        return super().sample(factual, **how)


class EndsInEval(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        self.eval()
        return super().sample(factual, **how)


class Counts(Broken):
    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.register_buffer("calls", torch.tensor(0))

    def sample(self, factual: Rows, **how: Any) -> Rows:
        self.calls += 1
        return super().sample(factual, **how)


class MeanOfTheBatch(Altered):
    def altered(self, num: Tensor, cat: Tensor) -> Rows:
        return Rows((num + num.mean(0)) / 2, cat)


class PlaceInTheBatch(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        place = torch.arange(factual.batch_size)
        return super().sample(factual, **{**how, "noise": Noise(torch.stack([place, place], 1))})


class LastSampleFirst(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return Rows(*(part.flip(1) for part in super().sample(factual, **how)))


class ForgetsTheFirstSample(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "noise": Noise(how["noise"].keys)})


class LosesABuffer(Broken):
    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.register_buffer("offset", torch.randn(()), persistent=False)

    def _mixture(self, factual: Rows, cost_weight: Tensor) -> Any:
        return super()._mixture(factual, cost_weight * self.offset.exp())


class Unnormalised(Broken):
    def log_prob(self, *batch: Any) -> Tensor:
        return -self(*batch) + math.log(2)


class AnotherLaw(Broken):
    def log_prob(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        return -self(factual, counterfactual, 10 * cost_weight)


class Unbound(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        return super().sample(factual, **{**how, "feasible": None})


class BlindTo(Broken):
    ignored: ClassVar[dict[str, Any]]

    def sample(self, factual: Rows, **how: Any) -> Rows:
        feasible = how["feasible"] and replace(how["feasible"], **self.ignored)
        return super().sample(factual, **{**how, "feasible": feasible})


BlindToMaxChanges = type("BlindToMaxChanges", (BlindTo,), {"ignored": {"max_changes": None}})
BlindToOrder = type("BlindToOrder", (BlindTo,), {"ignored": {"ordered": []}})
BlindToTogether = type("BlindToTogether", (BlindTo,), {"ignored": {"together": []}})


class MovesAHair(Altered):
    """By one float32, which a search would clip away but counts as a change."""

    def altered(self, num: Tensor, cat: Tensor) -> Rows:
        return Rows(num.nextafter(torch.tensor(0.5)), cat)


class Raises(Broken):
    def sample(self, factual: Rows, **how: Any) -> Rows:
        raise IndexError("no such level")


# Who must fail which check, and a part of what is said.
BROKEN: list[tuple[type, str, str]] = [
    (ScalarLoss, "loss", "must be float32 (B,)"),
    (InfiniteLoss, "loss", "must be finite"),
    (FlatLoss, "learning", "took the loss from"),
    (Unused, "gradients", "'unused' has no part in the loss"),
    (NoGradient, "gradients", "the gradient of unused is always zero"),
    (SqueezesOneSample, "ranges", "must have the shape (1, 1, 3)"),
    (ShortTokens, "ranges", "must be torch.int64"),
    (OutOfRange, "ranges", "must stay in their column's range"),
    (CarriesGradient, "ranges", "must not carry a gradient"),
    (SeedBlind, "seeds", "another seed must give other samples"),
    (Restless, "seeds", "the same seed must give the same samples"),
    (OneCostWeight, "dials", "another λ must give other samples"),
    (Inverted, "dials", "spread more at temperature 0.05"),
    (OneTemperature, "dials", "another temperature must give other samples"),
    (TorchRandom, "global_state", "moved the global generator of torch"),
    (ForkedTorchRandom, "global_state", "depend on the state of a global generator"),
    (NumpyRandom, "global_state", "moved the global generator of NumPy"),
    (PythonRandom, "global_state", "moved the global generator of Python"),
    (EndsInEval, "module_state", "changed train() or eval() mode"),
    (Counts, "module_state", "changed the state_dict"),
    (MeanOfTheBatch, "company", "rows got other samples alone"),
    (PlaceInTheBatch, "company", "rows got other samples"),
    (LastSampleFirst, "count", "depend on how many are drawn"),
    (ForgetsTheFirstSample, "count", "samples 4 to 8"),
    (LosesABuffer, "round_trip", "some state is not in it"),
    (Unnormalised, "log_prob", "sums to a probability of 2.0"),
    (AnotherLaw, "log_prob", "away from log_prob"),
    (Unbound, "constraints", "under {"),
    (BlindToMaxChanges, "constraints", "columns differ from the factual's"),
    (BlindToTogether, "constraints", "'together': [["),
    (MovesAHair, "constraints", "left its bounds"),
    (BlindToOrder, "ordered", "exceeds"),
    (Raises, "ranges", "having raised IndexError: no such level"),
]


@pytest.mark.parametrize(("broken", "check", "part"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_a_broken_promise_is_noticed(broken: type, check: str, part: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run_check(check, subject_of(broken))
    message = str(caught.value)
    assert message.startswith(f"{broken.__name__} fails the check {check!r}")
    assert part in message
    assert "\n" not in message


def test_each_check_is_failed_by_somebody_and_passed_without_the_fault() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)
    check_backbone(Broken, examples=10)


def test_the_whole_suite_stops_at_the_first_failure_and_knows_names() -> None:
    with pytest.raises(AssertionError, match="fails the check 'seeds'"):
        check_backbone(SeedBlind, examples=1)
    with pytest.raises(ValueError, match="unknown backbone 'nobody'"):
        check_backbone("nobody")
