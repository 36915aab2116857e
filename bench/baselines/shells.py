"""Search in shells of growing radius around many centres at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recourse_gen.noise import Noise
from recourse_gen.rows import Rows


def stream(origin: Tensor, seed: int) -> Noise:
    """Random numbers that depend on the seed and on each row of `origin` ``(B, E)``, not on the batch."""
    return Noise.of(Rows(origin.float(), torch.zeros(len(origin), 0, dtype=torch.int64)), seed)


def shell(noise: Noise, samples: int, size: int, inner: Tensor, outer: Tensor) -> Tensor:
    """``(B, S, V)``: uniform in the volume between the radii `inner` and `outer` ``(B,)`` around 0; V is `size`."""
    direction = noise.normal(samples, size).double()
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    low, high = inner[:, None] ** size, outer[:, None] ** size
    radius = (low + noise.uniform(samples, 1)[..., 0].double() * (high - low)) ** (1 / size)
    return direction * radius[..., None]


def first_answers(
    origin: Tensor,
    rows: Callable[[Tensor, Tensor], Tensor],
    approves: Callable[[Tensor], Tensor],
    *,
    noise: Noise,
    size: int,
    samples: int,
    step: Tensor,
    start: int = 0,
    reach: float,
    norm: float,
) -> Tensor:
    """``(B, E)``: for each factual the nearest approved row of the first shell that holds one; NaN where none does.

    origin: ``(B, E)``. rows: offsets ``(b, S, V)`` and the int64 positions ``(b,)`` of their factuals to rows
    ``(b, S, E)``; V is `size`. approves: rows to bool. step: ``(B,)``, the thickness of a factual's shells, of which
    the first `start` are left out and the last begins within `reach`. norm: of the distance that is least.
    """
    best = torch.full_like(origin, torch.nan)
    open_ = torch.arange(len(origin))
    shells = start
    while len(open_):
        width = step[open_]
        candidates = rows(shell(noise, samples, size, shells * width, (shells + 1) * width), open_)
        distance = torch.linalg.vector_norm(candidates - origin[open_, None], norm, dim=-1)
        distance = distance.masked_fill(~approves(candidates), torch.inf)
        least, at = distance.min(1)
        found = least.isfinite()
        best[open_[found]] = candidates[found, at[found]]
        shells += 1
        left = (~found & (shells * width <= reach)).nonzero()[:, 0]
        open_, noise = open_[left], noise.take(left)
    return best
