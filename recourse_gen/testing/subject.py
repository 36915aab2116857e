"""A backbone class under test: the tables it is tried on, and how it is built and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Constraints, Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.testing.tables import Table, pairs_of, random_frame, table_of

COLUMNS = {
    "numeric-only": ("float", "whole", "atoms"),
    "token-only": ("text", "bool", "int8", "steps"),
    "mixed": ("text", "float", "int8", "category", "whole", "float32"),
}


def require(condition: bool | Tensor, sentence: str) -> None:
    """Raise AssertionError unless the condition holds, also where Python runs without its assert statements."""
    if not bool(condition):
        raise AssertionError(sentence)


@dataclass(frozen=True)
class Subject:
    """A backbone class and its keyword arguments; examples: random tables per check of constraints; seed: of all."""

    backbone: type[Backbone]
    options: Mapping[str, Any]
    examples: int = 25
    seed: int = 0

    @cached_property
    def tables(self) -> dict[str, Table]:
        """A table of 40 rows of each sort."""
        return {sort: table_of(random_frame(makers, 40, self.seed)) for sort, makers in COLUMNS.items()}

    @cached_property
    def learns(self) -> bool:
        """Whether there is something to train: without trainable parameters nothing ever asks for the loss."""
        model = self.blank(self.tables["mixed"])
        return any(parameter.requires_grad for parameter in model.parameters())

    @property
    def observes(self) -> bool:
        """Whether it looks at the training pairs."""
        return self.backbone.observe is not Backbone.observe

    def blank(self, table: Table, weights: int = 0) -> Backbone:
        """A new module, as it is before anything is trained, observed or loaded. weights: seed of its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + weights)
            return self.backbone(table.schema, **self.options).eval()

    def build(self, table: Table, constraints: Constraints | None = None) -> Backbone:
        """A new module that has observed the table's pairs, in evaluation mode."""
        model = self.blank(table)
        if self.observes:
            model.observe(pairs_of(table, constraints or Constraints()))
        return model

    def pairs(self, table: Table, count: int) -> tuple[Rows, Rows, Tensor]:
        """Factuals ``(B, ·)``, counterfactuals ``(B, ·)`` drawn from Q, and λ ``(B,)`` from 2 to 20."""
        pairs, generator = pairs_of(table, Constraints()), torch.Generator().manual_seed(self.seed)
        at = torch.arange(count) % len(pairs)
        cost_weight = pairs.draw_cost_weight(count, generator)
        return pairs.factuals.take(at), pairs.draw(at, cost_weight, generator).flatten(), cost_weight

    def sample(
        self,
        model: Backbone,
        rows: Rows,
        count: int,
        *,
        seed: int = 0,
        first: int = 0,
        cost_weight: float = 3.0,
        feasible: Feasible | None = None,
        temperature: float = 1.0,
    ) -> Rows:
        """`count` samples per row, numbered from `first`, as a search asks for them."""
        return model.sample(
            rows,
            num_samples=count,
            cost_weight=torch.full((rows.batch_size,), cost_weight),
            feasible=feasible,
            temperature=temperature,
            noise=Noise.of(rows, self.seed + seed, first_sample=first),
        )


def same(a: Rows, b: Rows) -> bool:
    """Whether tokens are equal, and numbers as equal as float32 sums in another order leave them."""
    return a.cat.equal(b.cat) and a.num.shape == b.num.shape and torch.allclose(a.num, b.num, rtol=1e-4, atol=1e-4)
