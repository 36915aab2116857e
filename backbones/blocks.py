"""Sampling a few thousand candidates at a time, so that memory does not grow with the number of people."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.replay import Draw
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows


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

    The answer is `Rows` ``(B, num_samples, ·)``. Noise belongs to the row, so the size changes nothing but how matrix
    products round. Elsewhere than on a CPU, where small blocks leave a device idle, they are 32 times as large.
    """
    if not factual.batch_size * num_samples:
        return Rows(*(part.new_zeros(len(part), num_samples, part.shape[1]) for part in factual))
    device = factual.num.device
    size *= 1 if device.type == "cpu" else 32
    blocks = torch.arange(factual.batch_size).split(max(1, size // int(num_samples)))
    parts = []
    with torch.inference_mode():  # spares small operations a good part of their time
        for at in blocks:
            here = at.to(device)
            if len(blocks) == 1:
                parts.append(draw(factual, cost_weight, feasible, noise))
                continue
            limits = None if feasible is None else feasible.take(at.numpy())
            parts.append(draw(factual.take(here), cost_weight[here], limits, noise.take(here)))
    # Made out here, these are ordinary tensors again.
    return Rows(torch.cat([part.num for part in parts]), torch.cat([part.cat for part in parts]))
