"""Joshi et al., "Towards realistic individual recourse and actionable explanations" (2019), algorithm 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from torch.nn.functional import softplus

from bench.baselines import Baseline
from bench.baselines.descent import nearest
from bench.baselines.space import Space
from bench.baselines.vae import autoencoder

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Revise(Baseline):
    """The nearest approved row on a gradient descent through the latent space of an autoencoder.

    From the factual's code on, z follows the gradient of cross-entropy + `weight` · L1 between decoded point and
    factual. weight, learning_rate and steps: those of CARLA (Pawelczyk et al., 2021). As there, the answer is the
    nearest of the approved rows that the descent passed, and the decoder is given the immutable columns.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        weight: float = 0.5,
        learning_rate: float = 0.1,
        steps: int = 1000,
        norm: float = 1.0,
        training_steps: int = 2000,
    ) -> None:
        self.seed = seed
        self.training_steps = training_steps
        self.options = {"weight": weight, "learning_rate": learning_rate, "steps": steps, "norm": norm}

    def fit(self, world: World) -> Self:
        self.space = Space.of(world)
        self.model = autoencoder(world, self.space, seed=self.seed, steps=self.training_steps)
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        space, model = self.space, self.model
        origin = space.coordinates.encode(factuals)
        points = nearest(
            space.coordinates,
            origin,
            loss=lambda x: softplus(-space.logit(x)),
            slack=space.logit,
            start=model.encode(origin)[0],
            point=lambda z: model.decode(z, origin),
            **self.options,  # type: ignore[arg-type]
        )
        return space.answers(factuals, points)
