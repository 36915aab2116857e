"""Continuous columns on the scale that Gaussian paths work on: normal scores of the training quantiles."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from recourse_gen.schema import Feature, Schema

_KNOTS = 65


class NormalScores(nn.Module):
    """Monotone, piecewise linear map between values in scaled units and normal scores. Constants of the schema.

    The quantile at level p has the score Φ⁻¹(p). A value that repeats across quantiles is a point mass: it owns the
    interval of scores of its quantiles, is mapped to the middle of its probability, and every score of the interval
    is mapped back to exactly that value. Beyond the training range both ways go on with slope 1.
    """

    knots: Tensor
    scores: Tensor
    middles: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        levels = np.linspace(0.0, 1.0, _KNOTS)
        # The ends are half a gap from certainty, or their scores would be infinite.
        tail = 0.125 / (_KNOTS - 1)
        knots = np.array([_knots(feature, levels) for feature in schema.numbers]).reshape(-1, _KNOTS)
        first = np.array([np.searchsorted(row, row, side="left") for row in knots]).reshape(knots.shape)
        last = np.array([np.searchsorted(row, row, side="right") - 1 for row in knots]).reshape(knots.shape)
        middles = ndtri((levels[first.astype(int)] + levels[last.astype(int)]) / 2)
        scores = np.broadcast_to(ndtri(levels.clip(tail, 1 - tail)), knots.shape)
        middles = np.where(first == last, scores, middles)
        for name, array in (("knots", knots), ("scores", scores), ("middles", middles)):
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32), persistent=False)

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest score of the training rows, ``(N,)`` each."""
        return self.scores[:, 0], self.scores[:, -1]

    def forward(self, values: Tensor) -> Tensor:
        """Scaled values ``(R, N)`` to scores ``(R, N)``."""
        column = values.T.contiguous()
        inside = torch.minimum(torch.maximum(column, self.knots[:, :1]), self.knots[:, -1:])
        scores = _interpolate(self.knots, self.scores, inside)
        scores = torch.where(column < self.knots[:, :1], self.scores[:, :1], scores)
        scores = torch.where(column > self.knots[:, -1:], self.scores[:, -1:], scores)
        at = torch.searchsorted(self.knots, inside).clamp_(max=_KNOTS - 1)
        on_knot = self.knots.gather(1, at) == column
        return (torch.where(on_knot, self.middles.gather(1, at), scores) + (column - inside)).T

    def inverse(self, scores: Tensor) -> Tensor:
        """Scores ``(R, N)`` to scaled values ``(R, N)``."""
        column = scores.T.contiguous()
        inside = torch.minimum(torch.maximum(column, self.scores[:, :1]), self.scores[:, -1:])
        return (_interpolate(self.scores, self.knots, inside) + (column - inside)).T


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear functions through the points (x, y) ``(N, K)``, evaluated at ``(N, R)`` inside their range."""
    right = torch.searchsorted(x, at, right=True).clamp_(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (part.gather(1, index) for part in (x, y) for index in (right - 1, right))
    share = (at - x0) / torch.where(x1 > x0, x1 - x0, torch.ones_like(x0))
    # Rounding may carry the sum a hair past the right end.
    return torch.minimum(y0 + (y1 - y0) * share, y1)


def _knots(feature: Feature, levels: np.ndarray) -> np.ndarray:
    given = feature.scaled(feature.quantiles)
    return np.interp(levels, np.linspace(0.0, 1.0, len(given)), given).astype(np.float32)
