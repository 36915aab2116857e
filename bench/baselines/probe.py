"""Pawelczyk et al., "Probabilistically robust recourse" (ICLR 2023), equations 4 to 6."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.baselines import Baseline
from bench.baselines.descent import nearest
from bench.baselines.space import Space

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Probe(Baseline):
    """The nearest point that N(0, `sigma`²) noise on every coordinate invalidates with at most a given probability.

    The rate of invalidation is the paper's first-order one, exact for a linear model: Φ(−logit / (sigma · ‖gradient‖)).
    What is minimised is the paper's sum: the excess of that rate over `invalidation`, cross-entropy, and λ · L1. A row
    is accepted where the rate is low enough; where none is, the least invalidated row met is the answer if the
    classifier approves. sigma² = 0.01 as in the paper, whose users choose the rate; 0.35 is moderate in its range.
    weight (λ at the beginning), learning_rate, steps and the search for λ: as in `wachter`.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        invalidation: float = 0.35,
        sigma: float = 0.1,
        norm: float = 1.0,
        weight: float = 0.01,
        adapt: float = 0.05,
        learning_rate: float = 0.01,
        steps: int = 1000,
    ) -> None:
        self.invalidation = invalidation
        self.sigma = sigma
        self.options = {
            "norm": norm,
            "weight": weight,
            "adapt": adapt,
            "learning_rate": learning_rate,
            "steps": steps,
        }

    def fit(self, world: World) -> Self:
        self.space = Space.of(world)
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        space = self.space

        def loss(x: Tensor) -> Tensor:
            excess = (self.rate(x, create_graph=True) - self.invalidation).clamp(min=0.0)
            return excess + softplus(-space.logit(x))

        points = nearest(
            space.coordinates,
            space.coordinates.encode(factuals),
            loss=loss,
            slack=lambda x: self.invalidation - self.rate(x),
            **self.options,  # type: ignore[arg-type]
        )
        return space.answers(factuals, points)

    def rate(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """``(...)``: the probability, to first order, that noise on the points ``(..., E)`` loses the approval."""
        logit, slope = self.space.logit.gradient(x, create_graph=create_graph)
        deviation = self.sigma * torch.linalg.vector_norm(slope, dim=-1)
        return torch.special.ndtr(-logit / deviation.clamp(min=math.ulp(1.0)))
