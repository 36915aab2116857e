"""The residual perceptron over all columns of a row at once, under a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rest = Callable[[Tensor, Tensor, Iterable[tuple[Tensor, ...]]], Tensor]


class Modulation(nn.Module):
    """Shift, scale and gate from the condition ``(..., W)``: `count` tensors ``(..., 1, width)``.

    Unlike in DiT, gates start near 1 and weights are small rather than zero: a few layers train stably all the same,
    and every parameter has a gradient from the first step.
    """

    def __init__(self, condition: int, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(condition, count * width)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(condition).unsqueeze(-2).chunk(self.count, -1)


class FilmBlock(nn.Module):
    """Residual perceptron, shifted and scaled (FiLM, Perez et al. 2018). **Shape**: ``(B, S, H)`` → ``(B, S, H)``."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, hidden, 2)
        self.up, self.down = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def modulate(self, condition: Tensor) -> tuple[Tensor, ...]:
        """What the block takes of conditions ``(..., W)``: ``(..., 1, H)`` each."""
        shift, scale = self.modulation(condition)
        return shift, 1 + scale

    def ready(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The block as a function of h, shift and scale."""
        up, up_bias, down, down_bias = self.up.weight, self.up.bias, self.down.weight, self.down.bias

        def block(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            normed = torch.addcmul(shift, torch.layer_norm(h, h.shape[-1:]), scale)
            return h + F.linear(F.silu(F.linear(normed, up, up_bias)), down, down_bias)

        return block


class Perceptron(nn.Module):
    """Residual blocks over all columns at once, H = expansion · W wide.

    **Shape**: S states under each of B conditions, ``(B, S, D, W)``, ``(B, W)`` → ``(B, S, D, W)``.
    """

    def __init__(self, columns: int, width: int, layers: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * width
        self.into, self.out = nn.Linear(columns * width, hidden), nn.Linear(hidden, columns * width)
        self.blocks = nn.ModuleList([FilmBlock(hidden, width) for _ in range(layers)])
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(hidden)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.ready()(self.into(x.flatten(2)), x, self.modulations(condition))

    def modulations(self, condition: Tensor) -> list[tuple[Tensor, ...]]:
        """What each block takes of conditions ``(..., W)``."""
        return [block.modulate(condition) for block in self.blocks]  # type: ignore[operator]

    def ready(self) -> Rest:
        """What follows the first layer, as a function of its output ``(B, S, H)``, the columns and the modulations.

        Looking up a module's parts takes as long as multiplying a small matrix: once for many calls is enough.
        """
        blocks = [block.ready() for block in self.blocks]  # type: ignore[operator]
        norm, last = (self.norm.weight, self.norm.bias), (self.last.weight, self.last.bias)
        out, out_bias = self.out.weight, self.out.bias

        def rest(h: Tensor, x: Tensor, modulations: Iterable[tuple[Tensor, ...]]) -> Tensor:
            for block, modulation in zip(blocks, modulations, strict=True):
                h = block(h, *modulation)
            # Each column's own embedding next to what all columns say together. A norm over the sum would leave
            # numbers, which need little of the former, too little of the latter.
            together = F.linear(torch.layer_norm(h, h.shape[-1:], *last), out, out_bias)
            return torch.layer_norm(x, x.shape[-1:], *norm) + together.view_as(x)

        return rest
