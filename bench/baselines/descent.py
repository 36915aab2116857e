"""Gradient descent on loss + λ · distance for many factuals at once; the nearest acceptable row on the way is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.baselines.coordinates import Coordinates

Function = Callable[[Tensor], Tensor]


def nearest(
    coordinates: Coordinates,
    origin: Tensor,
    *,
    loss: Function,
    slack: Function,
    weight: float,
    adapt: float = 0.0,
    norm: float = 1.0,
    steps: int = 1000,
    learning_rate: float = 0.01,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
    start: Tensor | None = None,
    point: Function | None = None,
) -> Tensor:
    """``(B, E)``: for each factual the nearest row with positive slack that the descent came by.

    origin: ``(B, E)``, the factuals. loss: points ``(B, E)`` to ``(B,)``. slack: rows ``(B, E)`` to ``(B,)``, how far
    beyond the condition they are; where no row had any, the one that came closest is returned. weight: λ at the
    beginning. adapt: after each step λ is multiplied by ``exp(adapt)`` where the row was accepted, divided where not,
    which is Wachter's maximum over λ as an ascent: the descent ends at the boundary. norm: of the distance. The
    learning rate falls linearly to 0. start, point: what is optimised ``(B, V)``, and the points that it stands for;
    None is the point itself, kept within the box of all rows.
    """
    variable = (origin if start is None else start).clone().requires_grad_()
    descent = optimizer([variable], lr=learning_rate)  # type: ignore[call-arg]
    scale = torch.full((len(origin),), weight, dtype=origin.dtype)
    best, least, most = origin.clone(), origin.new_full((len(origin),), torch.inf), slack(origin)
    for step in range(steps):
        x = variable if point is None else point(variable)
        with torch.no_grad():
            row = coordinates.snap(x, origin)
            room, distance = slack(row), torch.linalg.vector_norm(row - origin, norm, dim=-1)
            accepted = room > 0
            better = torch.where(accepted, distance < least, least.isinf() & (room > most))
            best[better] = row[better]
            least = torch.where(accepted, least.minimum(distance), least)
            most = most.maximum(room)
            scale *= torch.where(accepted, adapt, -adapt).to(scale.dtype).exp()
            descent.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        descent.zero_grad()
        (loss(x) + scale * torch.linalg.vector_norm(x - origin, norm, dim=-1)).sum().backward()
        descent.step()
        if point is None:
            with torch.no_grad():
                variable.copy_(coordinates.clamp(variable, origin))
    return best
