"""Sampling a few thousand candidates at a time, so that what they need stays in the cache and memory is bounded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows

Draw = Callable[[Rows, Tensor, "Feasible | None", Noise], Rows]


def in_blocks(
    draw: Draw,
    factual: Rows,
    cost_weight: Tensor,
    feasible: Feasible | None,
    noise: Noise,
    *,
    num_samples: int,
    size: int,
) -> Rows:
    """`draw` applied to consecutive factuals with at most `size` candidates in all, and at least one factual.

    The answer is `Rows` ``(B, num_samples, ·)``, the same whatever the size, because noise belongs to the row.
    """
    if not factual.batch_size:
        empty = [part[:, None].expand(-1, num_samples, -1) for part in factual]
        return Rows(*empty)
    parts = [
        draw(
            factual.take(at),
            cost_weight[at],
            None if feasible is None else feasible.take(at.cpu().numpy()),
            noise.take(at),
        )
        for at in torch.arange(factual.batch_size, device=cost_weight.device).split(max(1, size // num_samples))
    ]
    return Rows(torch.cat([part.num for part in parts]), torch.cat([part.cat for part in parts]))
