"""Generators whose law is known, without training."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.backbone import Backbone
from recourse_gen.rows import Rows

Table = tuple[pd.DataFrame, np.ndarray | None]
Sample = Callable[..., Rows]


class Stub(Backbone):
    """Draws by a function of (the factuals, keyword arguments of `sample`)."""

    def __init__(self, schema: Any, draw: Sample) -> None:
        super().__init__(schema)
        self.draw = draw

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, factual: Rows, **options: Any) -> Rows:
        return self.draw(factual, **options)


def on_cpu(generator: RecourseGenerator) -> Backbone:
    """The generator's backbone, where a `Stub`, which has no tensors, is asked."""
    assert generator.model is not None
    return deepcopy(generator.model).cpu()


def in_place_of(generator: RecourseGenerator, draw: Sample) -> RecourseGenerator:
    """A generator like this one whose backbone draws otherwise."""
    other = object.__new__(RecourseGenerator)
    other.__dict__.update(generator.__dict__)
    other.model = Stub(generator.schema, draw)
    return other


def fit(table: Table, classifier: Any, **settings: Any) -> RecourseGenerator:
    rules = settings.pop("rules", Constraints())
    settings = {"audit": {"n_estimators": 2, "n_jobs": 1}, "pairs": {"top_k": 50}, **settings}
    return RecourseGenerator("exact", **settings).fit(*table, classifier=classifier, constraints=rules)
