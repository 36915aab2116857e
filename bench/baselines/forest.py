"""Jolicoeur-Martineau et al., "Generating and imputing tabular data via diffusion and flow-based gradient-boosted
trees" (AISTATS 2024), as a generator of recourse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from bench.baselines import Baseline
from bench.baselines.coordinates import DTYPE
from bench.baselines.seeding import seeded
from bench.baselines.space import Space
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.transform import TableTransform

if TYPE_CHECKING:
    from typing import Self

    from train import World


class Forest(Baseline):
    """The authors' package ForestDiffusion (MIT): flow matching with boosted trees, conditioned on the factual.

    It is given the supervision of GenRe, so that only the generator differs: pairs drawn from Q (`pairs` of them, with
    the paper's top_k = 1000, gamma = 0.7 and λ = 5), the partner's coordinates as what is generated and the factual's
    as the package's covariates. Of `candidates` draws the nearest approved row is the answer. The package's own
    settings are n_t = 50 and duplicate_K = 100, which take hours where boosting has one core.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        candidates: int = 10,
        pairs: int = 5000,
        n_t: int = 20,
        duplicate_K: int = 5,
        n_estimators: int = 100,
        max_depth: int = 7,
        n_jobs: int = 1,
    ) -> None:
        self.seed = seed
        self.candidates = candidates
        self.pairs = pairs
        self.options: dict[str, Any] = {
            "n_t": n_t,
            "duplicate_K": duplicate_K,
            "n_estimators": n_estimators,
            "max_depth": max_depth,
            "n_jobs": n_jobs,
        }

    def fit(self, world: World) -> Self:
        """Raises ValueError where the package is not installed, and where Q has no pairs."""
        try:
            from ForestDiffusion import ForestDiffusionModel
        except ImportError as error:
            raise ValueError(f'the baseline forest needs its package; pip install -e ".[bench]" ({error})') from error
        self.space = Space.of(world)
        coordinates = self.space.coordinates
        transform = TableTransform(world.schema).fit(world.train)
        law = PairSupervision.from_training(
            world.train,
            self.space.classifier.probability(world.train),
            self.space.outcome.numpy() == 1,
            transform=transform,
            constraints=world.constraints,
            options=PairOptions(cost_weight=5.0),
        )
        generator = torch.Generator().manual_seed(self.seed)
        at = torch.randint(len(law), (self.pairs,), generator=generator)
        partners = law.draw(at, torch.full((self.pairs,), 5.0), generator).flatten()
        free = ~coordinates.fixed
        made = coordinates.encode(transform.decode(partners))[:, free]
        given = coordinates.encode(transform.decode(law.factuals.take(at)))
        with seeded(self.seed):
            self.model = ForestDiffusionModel(
                made.numpy(), X_covs=given.numpy(), seed=self.seed, n_batch=0, **self.options
            )
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        coordinates = self.space.coordinates
        origin = coordinates.encode(factuals)
        size = len(origin)
        if not size:  # the package takes no empty table
            return self.space.answers(factuals, origin)
        asked = origin.repeat_interleave(self.candidates, 0)
        with seeded(self.seed):
            made = self.model.generate(batch_size=len(asked), X_covs=asked.numpy())
        moved = asked.clone()
        moved[:, ~coordinates.fixed] = torch.as_tensor(made, dtype=DTYPE)
        rows = coordinates.snap(moved, asked)
        distance = (rows - asked).abs().sum(1).masked_fill(self.space.logit(rows) <= 0, torch.inf)
        least, at = distance.reshape(size, self.candidates).min(1)
        points = rows.reshape(size, self.candidates, -1)[torch.arange(size), at]
        return self.space.answers(factuals, points.masked_fill(least.isinf()[:, None], torch.nan))
