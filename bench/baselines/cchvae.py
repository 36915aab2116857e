"""Pawelczyk et al., "Learning model-agnostic counterfactual explanations for tabular data" (WWW 2020), algorithm 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from bench.baselines import Baseline
from bench.baselines.shells import first_answers, stream
from bench.baselines.space import Space
from bench.baselines.vae import autoencoder

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Cchvae(Baseline):
    """The nearest approved row among those decoded from the first latent shell around the factual that has any.

    The autoencoder is conditioned on the immutable columns. samples, step and the L1 distance: those of CARLA
    (Pawelczyk et al., 2021). Shells end at `reach`, where a standard normal latent law has no mass left.
    """

    def __init__(
        self, *, seed: int = 0, samples: int = 300, step: float = 0.1, reach: float = 10.0, training_steps: int = 2000
    ) -> None:
        self.seed = seed
        self.training_steps = training_steps
        self.samples = samples
        self.step = step
        self.reach = reach

    def fit(self, world: World) -> Self:
        self.space = Space.of(world)
        self.model = autoencoder(world, self.space, seed=self.seed, steps=self.training_steps)
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        space, model = self.space, self.model
        origin = space.coordinates.encode(factuals)
        centre = model.encode(origin)[0]

        def rows(offsets: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
            own = origin[people, None].expand(-1, offsets.shape[1], -1)
            return space.coordinates.snap(model.decode(centre[people, None] + offsets, own), own)

        points = first_answers(
            origin,
            rows,
            lambda x: space.logit(x) > 0,
            noise=stream(origin, self.seed),
            size=centre.shape[1],
            samples=self.samples,
            step=torch.full_like(origin[:, 0], self.step),
            reach=self.reach,
            norm=1.0,
        )
        return space.answers(factuals, points)
