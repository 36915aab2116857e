"""Wachter et al., "Counterfactual explanations without opening the black box" (2017), equations 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch.nn.functional import softplus

from bench.baselines import Baseline
from bench.baselines.descent import nearest
from bench.baselines.space import Space

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Wachter(Baseline):
    """The nearest point that the classifier approves of, by gradient descent on its loss + λ · distance.

    norm, learning_rate, steps, weight (λ at the beginning): those of CARLA (Pawelczyk et al., 2021), which measures the
    distance in L1 between min-max scaled columns, the unit of our cost; the paper weighs columns by their median
    absolute deviation, which is 0 where most people share a value. CARLA also replaces the paper's squared error of the
    probability by the cross-entropy and lets λ fall by a constant until the answer changes; here λ moves both ways (see
    `nearest`), as the paper's maximum over λ asks for. Categories are numbers while descending, and validity is checked
    on rows with real levels.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        norm: float = 1.0,
        weight: float = 0.01,
        adapt: float = 0.05,
        learning_rate: float = 0.01,
        steps: int = 1000,
    ) -> None:
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
        origin = space.coordinates.encode(factuals)
        points = nearest(
            space.coordinates,
            origin,
            loss=lambda x: softplus(-space.logit(x)),
            slack=space.logit,
            **self.options,  # type: ignore[arg-type]
        )
        return space.answers(factuals, torch.as_tensor(points))
