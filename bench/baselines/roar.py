"""Upadhyay et al., "Towards robust and reliable algorithmic recourse" (NeurIPS 2021), equation 3 and algorithm 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bench.baselines import Baseline
from bench.baselines.descent import nearest
from bench.baselines.shells import stream
from bench.baselines.space import Space

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Roar(Baseline):
    """The nearest point that a linear model approves of, whatever its weights and intercept become within a ball.

    As in the paper, the linear model is a local approximation of the classifier around each factual, by LIME (Ribeiro
    et al., 2016: `samples` normal draws with the columns' training deviations, weighed by their nearness), here of
    the logit, whose zero is the boundary. The worst model of an l_inf (`ball=inf`) or l_2 ball of radius `delta` has a
    closed form: its logit is lower by delta times the dual norm of (x, 1). A row is accepted where the worst model and
    the classifier itself approve; where none is, the most robust row met is the answer if the classifier approves.
    delta, and cross-entropy with L1 cost: the paper's; learning_rate and weight (λ at the beginning): those of CARLA
    (Pawelczyk et al., 2021). steps and the search for λ: as in `wachter`.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delta: float = 0.1,
        ball: float = math.inf,
        norm: float = 1.0,
        weight: float = 0.01,
        adapt: float = 0.05,
        learning_rate: float = 0.01,
        steps: int = 1000,
        samples: int = 1000,
    ) -> None:
        if ball not in (2, math.inf):
            raise ValueError(f"ball must be 2 or inf, the norm that bounds the change of the weights, got {ball!r}")
        self.seed = seed
        self.delta = delta
        self.dual = 1.0 if ball == math.inf else 2.0
        self.samples = samples
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
        slope, intercept = self.local(origin)

        def worst(x: Tensor) -> Tensor:
            lifted = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            return (x * slope).sum(1) + intercept - self.delta * torch.linalg.vector_norm(lifted, self.dual, dim=1)

        points = nearest(
            space.coordinates,
            origin,
            loss=lambda x: softplus(-worst(x)),
            slack=lambda x: worst(x).minimum(space.logit(x)),
            **self.options,  # type: ignore[arg-type]
        )
        return space.answers(factuals, points)

    def local(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, E)`` and ``(B,)``: slope and intercept of the logit around each factual, by weighted least squares."""
        unit = stream(origin, self.seed).normal(self.samples, origin.shape[1]).double()
        width = 0.75 * math.sqrt(origin.shape[1])
        weight = (-(unit**2).sum(-1) / (2 * width**2)).exp()  # LIME's kernel is this root of a Gaussian
        offset = unit * self.space.train.std(0)
        design = torch.cat([offset, torch.ones_like(offset[..., :1])], -1)
        value = self.space.logit(origin[:, None] + offset)
        root = weight.sqrt()[..., None]
        solved = torch.linalg.lstsq(design * root, value[..., None] * root).solution[..., 0]
        slope = solved[:, :-1]
        return slope, solved[:, -1] - (slope * origin).sum(1)
