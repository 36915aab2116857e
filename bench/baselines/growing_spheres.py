"""Laugel et al., "Inverse classification for comparison-based interpretability in machine learning" (2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from bench.baselines import Baseline
from bench.baselines.shells import first_answers, shell, stream
from bench.baselines.space import Space

if TYPE_CHECKING:
    from typing import Self

    from train import World

HALVINGS = 20


class GrowingSpheres(Baseline):
    """The nearest approved row among those drawn in the first spherical layer that has any, then fewer changes.

    The paper's algorithms 1 and 2: the ball of radius `step` is halved until it holds no approved row; layers of that
    thickness grow from there; of the answer's changes, the smallest is undone as long as the classifier still approves
    (`sparse`). samples and step: those of CARLA (Pawelczyk et al., 2021), which neither halves nor undoes. CARLA also
    flips categories by a coin at any radius; here they are coordinates like others, so that what is far is looked at
    late. The distance is Euclidean, between rows with real levels.
    """

    def __init__(self, *, seed: int = 0, samples: int = 1000, step: float = 0.2, sparse: bool = True) -> None:
        self.seed = seed
        self.samples = samples
        self.step = step
        self.sparse = sparse

    def fit(self, world: World) -> Self:
        self.space = Space.of(world)
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        origin = self.space.coordinates.encode(factuals)
        if bool(self.space.coordinates.fixed.all()):
            return self.space.answers(factuals, torch.full_like(origin, torch.nan))
        free = int((~self.space.coordinates.fixed).sum())
        points = first_answers(
            origin,
            lambda offsets, people: self._rows(offsets, origin[people]),
            self._approves,
            noise=stream(origin, self.seed),
            size=free,
            samples=self.samples,
            step=self.radius(origin),
            start=1,
            reach=free**0.5,
            norm=2.0,
        )
        return self.space.answers(factuals, self.fewer_changes(points, origin) if self.sparse else points)

    def radius(self, origin: Tensor) -> Tensor:
        """``(B,)``: `step`, halved until no row drawn in the ball around the factual is approved."""
        radius = torch.full_like(origin[:, 0], self.step)
        noise, full = stream(origin, self.seed + 1), torch.arange(len(origin))
        for _ in range(HALVINGS):
            width = radius[full]
            ball = shell(
                noise, self.samples, int((~self.space.coordinates.fixed).sum()), torch.zeros_like(width), width
            )
            full_still = self._approves(self._rows(ball, origin[full])).any(1)
            full, noise = full[full_still], noise.take(full_still.nonzero()[:, 0])
            if not len(full):
                break
            radius[full] /= 2
        return radius

    def fewer_changes(self, points: Tensor, origin: Tensor) -> Tensor:
        """Undo the smallest change, column by column, as long as the row is still approved."""
        columns = self.space.coordinates.columns
        points = points.clone()
        going = points.isfinite().all(1)
        for _ in range(columns.shape[1]):
            moves = (points - origin).abs() @ columns
            smallest = moves.masked_fill(moves == 0, torch.inf).argmin(1)
            fewer = torch.where(columns.T[smallest] > 0, origin, points)
            going &= self._approves(fewer)
            points = torch.where(going[:, None], fewer, points)
        return points

    def _rows(self, offsets: Tensor, origin: Tensor) -> Tensor:
        """Offsets ``(B, S, V)`` of the coordinates that may move to rows ``(B, S, E)``."""
        moved = origin[:, None].expand(-1, offsets.shape[1], -1).clone()
        moved[..., ~self.space.coordinates.fixed] += offsets
        return self.space.coordinates.snap(moved, origin[:, None])

    def _approves(self, rows: Tensor) -> Tensor:
        return self.space.logit(rows) > 0
