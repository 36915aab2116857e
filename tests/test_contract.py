"""A plug-in that does not keep to the contract is told so in one sentence that names its class."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from recourse_gen import RecourseGenerator, registry
from recourse_gen.backbone import Backbone
from recourse_gen.rows import Rows

Table = tuple[pd.DataFrame, np.ndarray]


class Plugin(Backbone):
    """Keeps to the contract: one weight, samples anywhere."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        return self.weight.square().expand(len(cost_weight))

    def sample(self, factual: Rows, *, num_samples: int, noise: Any, feasible: Any = None, **options: Any) -> Rows:
        sizes = torch.tensor([len(feature.levels) for feature in self.schema.tokens], device=factual.cat.device)
        cat = (noise.uniform(num_samples, len(sizes)) * sizes).long()
        drawn = Rows(noise.uniform(num_samples, len(self.schema.numbers)), cat)
        return drawn if feasible is None else feasible.settle(self.schema, factual, drawn)


@pytest.fixture
def fit(
    monkeypatch: pytest.MonkeyPatch, table: Table, classifier: Any, small: dict[str, Any]
) -> Callable[..., RecourseGenerator]:
    """A generator with a backbone class, fitted for a moment."""

    def fitted(cls: type[Backbone], **methods: Any) -> RecourseGenerator:
        made = type("Odd", (cls,), methods)
        monkeypatch.setattr(registry, "load", lambda name: made)
        settings = {**small, "backbone_options": None, "training": {**small["training"], "steps": 2}}
        return RecourseGenerator(**settings).fit(*table, classifier=classifier)

    return fitted


def altered(change: Callable[[Rows], Any]) -> Callable[..., Any]:
    return lambda self, factual, **options: change(Plugin.sample(self, factual, **options))


def spoilt(part: str, value: Any) -> Callable[[Rows], Rows]:
    def spoil(drawn: Rows) -> Rows:
        getattr(drawn, part)[-1, -1, -1] = value
        return drawn

    return spoil


SAMPLES: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "nan": (spoilt("num", torch.nan), "finite numbers, got nan"),
    "infinite": (spoilt("num", torch.inf), "finite numbers, got inf"),
    "beyond the levels": (spoilt("cat", 10_000), "tokens from 0 to [0-9]+ for 'age', got 10000"),
    "below the levels": (spoilt("cat", -1), "tokens from 0 to [0-9]+ for 'age', got -1"),
    "one sample": (lambda d: Rows(d.num[:, 0], d.cat[:, 0]), r"num float32 \(2, 8, 2\), got float32 \(2, 2\)"),
    "too few": (lambda d: Rows(d.num[:, 1:], d.cat[:, 1:]), r"num float32 \(2, 8, 2\), got float32 \(2, 7, 2\)"),
    "int32": (lambda d: Rows(d.num, d.cat.int()), r"cat int64 \(2, 8, 5\), got int32 \(2, 8, 5\)"),
    "float tokens": (lambda d: Rows(d.num, d.cat.float()), r"cat int64 .*got float32"),
    "float64": (lambda d: Rows(d.num.double(), d.cat), r"num float32 .*got float64"),
    "numpy": (lambda d: Rows(d.num.cpu().numpy(), d.cat), "num float32 .*got a ndarray"),
    "none": (lambda d: None, "Rows, got None"),
    "tuple": (tuple, "Rows, got a tuple"),
    "gradient": (lambda d: Rows(d.num.requires_grad_(), d.cat), "without a gradient"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_wrong_samples_are_named(fit: Callable[..., Any], denied: pd.DataFrame, case: str) -> None:
    change, sentence = SAMPLES[case]
    generator = fit(Plugin, sample=altered(change))
    with pytest.raises(ValueError, match=rf"^Odd\.sample must return .*{sentence}"):
        generator.generate(denied.iloc[:2], candidates=8)


LOSSES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "scalar": (lambda loss: loss.mean(), r"got float32 \(\)"),
    "none": (lambda loss: None, "got None"),
    "detached": (lambda loss: loss.detach(), "with a gradient, got one without"),
    "whole": (lambda loss: loss.long(), "got int64"),
    "column": (lambda loss: loss[:, None], r"got float32 \(128, 1\)"),
    "float64": (lambda loss: loss.double(), "got float64"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_wrong_losses_are_named_at_once(fit: Callable[..., Any], case: str) -> None:
    change, sentence = LOSSES[case]
    with pytest.raises(ValueError, match=rf"^Odd\.forward must return a loss per pair, float32 \(128,\).*{sentence}"):
        fit(Plugin, forward=lambda self, *given: change(Plugin.forward(self, *given)))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [(None, "got None"), (torch.zeros(3, 3), r"got float32 \(3, 3\)"), (torch.zeros(2).long(), "got int64")],
)
def test_a_wrong_log_prob_is_named(fit: Callable[..., Any], denied: pd.DataFrame, found: Any, sentence: str) -> None:
    generator = fit(Plugin, log_prob=lambda self, factual, counterfactual, cost_weight: found)
    with pytest.raises(ValueError, match=rf"^Odd\.log_prob must return nats, float32 .*{sentence}"):
        generator.generate(denied)


class Blind(Plugin):
    def sample(self, factual: Rows, *, num_samples: int, cost_weight: Tensor, noise: Any) -> Rows:
        raise NotImplementedError


class Weightless(Plugin):
    def forward(self, factual: Rows, counterfactual: Rows) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("Blind", "sample must take .*'feasible'"), ("Weightless", "forward must take .*cost_weight")],
)
def test_methods_that_cannot_be_called_are_named_before_the_training(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    entry = EntryPoint("odd", f"{__name__}:{name}", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(ValueError, match=rf"^{name}\.{sentence}"):
        registry.load("odd")


def with_a_layer(self: Any, schema: Any) -> None:
    self.layer = torch.nn.Linear(1, 1)


def with_nothing(self: Any, schema: Any) -> None:
    self.schema = schema


def without_a_schema(self: Any, schema: Any) -> None:
    torch.nn.Module.__init__(self)


@pytest.mark.parametrize("start", [with_a_layer, with_nothing, without_a_schema])
def test_a_constructor_that_leaves_the_base_class_out(schema: Any, start: Any) -> None:
    with pytest.raises(ValueError, match=r"^Odd.__init__ must call super\(\).__init__\(schema\) first"):
        registry.build(type("Odd", (Plugin,), {"__init__": start}), schema, {}, 0)


def test_what_keeps_to_the_contract_answers(fit: Callable[..., Any], denied: pd.DataFrame) -> None:
    def log_prob(self: Any, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        return torch.full_like(cost_weight, -3.0)

    report = fit(Plugin, log_prob=log_prob).generate(denied.iloc[:20]).report
    assert (report["status"] == "ok").any()
    assert (report.loc[report["status"] == "ok", "log_likelihood"] == -3.0).all()
