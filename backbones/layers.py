"""Network parts that backbones share. Nothing here knows about paths, losses or samplers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head attention over columns.

    **Shape**: input ``(B, Q, W)``, memory ``(B, M, W)`` → ``(B, Q, W)``; W = width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, however: width={width}, heads={heads}")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.memory = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def keys_values(self, memory: Tensor) -> Cache:
        """Keys and values ``(B, heads, M, W / heads)`` of a memory ``(B, M, W)``."""
        key, value = rearrange(self.memory(memory), "b m (two h w) -> two b h m w", two=2, h=self.heads)
        return key, value

    def forward(self, x: Tensor, cache: Cache, causal: bool = False) -> Tensor:
        query = rearrange(self.query(x), "b q (h w) -> b h q w", h=self.heads)
        mixed = F.scaled_dot_product_attention(query, *cache, is_causal=causal)
        return self.out(rearrange(mixed, "b h q w -> b q (h w)"))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optionally attention to a second memory, gated feed-forward.

    **Shape**: ``(B, D, W)`` → ``(B, D, W)``.
    """

    def __init__(self, width: int, heads: int, *, cross: bool = False, expansion: int = 2) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(width, heads) if cross else None
        self.ff_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        for last in (self.self_attention.out, self.down):
            nn.init.normal_(last.weight, std=0.5 / math.sqrt(last.in_features))

    def forward(self, x: Tensor, *, causal: bool = False, memory: Tensor | None = None) -> Tensor:
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, self.self_attention.keys_values(normed), causal)
        if self.cross_attention is None:
            return self._rest(x, None)
        assert memory is not None
        return self._rest(x, self.cross_attention.keys_values(memory))

    def step(self, x: Tensor, cache: Cache, position: int, memory: Cache | None) -> Tensor:
        """One column of a causal pass, ``(R, 1, W)``. Writes its keys and values into `cache` at `position`."""
        normed = self.self_norm(x)
        for held, new in zip(cache, self.self_attention.keys_values(normed), strict=True):
            held[:, :, position] = new[:, :, 0]
        seen = (cache[0][:, :, : position + 1], cache[1][:, :, : position + 1])
        return self._rest(x + self.self_attention(normed, seen), memory)

    def _rest(self, x: Tensor, memory: Cache | None) -> Tensor:
        if self.cross_attention is not None and self.cross_norm is not None:
            assert memory is not None
            x = x + self.cross_attention(self.cross_norm(x), memory)
        return x + self.down(F.gelu(self.up(self.ff_norm(x))))


class LevelTable(nn.Module):
    """A learned vector per code of each column: a free one plus a smooth function of the code's rank, so that
    neighbouring values share what they learn. **Shape**: → ``(D, L, W)``.

    basis: of the smooth part, ``(D, L, F)``, see `Alphabet.basis`. std: of the first weights.
    """

    def __init__(self, basis: Tensor, width: int, std: float) -> None:
        super().__init__()
        self.basis: Tensor
        self.register_buffer("basis", basis, persistent=False)
        self.free = nn.Parameter(torch.randn(*basis.shape[:2], width) * std)
        self.smooth = nn.Parameter(torch.randn(basis.shape[0], basis.shape[2], width) * std)

    def forward(self) -> Tensor:
        return self.free + torch.einsum("dlf,dfw->dlw", self.basis, self.smooth)

    def column(self, column: int, size: int) -> Tensor:
        """The vectors of one column's first `size` codes, ``(size, W)``."""
        return self.free[column, :size] + self.basis[column, :size] @ self.smooth[column]


class ColumnEmbedding(nn.Module):
    """Embeds one code per column: a `LevelTable`'s vector, plus the column's number along a direction.

    **Shape**: codes int64 ``(B, D)`` and values ``(B, D)`` → ``(B, D, W)``.
    """

    def __init__(self, basis: Tensor, width: int) -> None:
        super().__init__()
        self.offset: Tensor
        self.register_buffer("offset", torch.arange(basis.shape[0]) * basis.shape[1], persistent=False)
        self.table = LevelTable(basis, width, 0.1)
        self.direction = nn.Parameter(torch.randn(basis.shape[0], width) * 0.5)

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        return F.embedding(codes + self.offset, self.table().flatten(0, 1)) + values[..., None] * self.direction

    def column(self, codes: Tensor, values: Tensor, column: int, size: int) -> Tensor:
        """``(R, W)`` of one column's codes and values, ``(R,)`` each."""
        return F.embedding(codes, self.table.column(column, size)) + values[:, None] * self.direction[column]


class MoveEmbedding(nn.Module):
    """How far a column has moved from the factual: whether it did, and by how much.

    **Shape**: moved bool ``(..., D)`` and distances ``(..., D)`` → ``(..., D, W)``.
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.moved = nn.Parameter(torch.randn(columns, width) * 0.1)
        self.distance = nn.Parameter(torch.randn(columns, width) * 0.5)

    def forward(self, moved: Tensor, distance: Tensor) -> Tensor:
        return moved[..., None] * self.moved + distance[..., None] * self.distance

    def column(self, moved: Tensor, distance: Tensor, column: int) -> Tensor:
        """``(R, W)`` of one column."""
        return moved[:, None] * self.moved[column] + distance[:, None] * self.distance[column]


class ColumnHead(nn.Module):
    """One linear layer per column, padded to the largest alphabet. **Shape**: ``(B, D, W)`` → logits ``(B, D, L)``."""

    def __init__(self, basis: Tensor, sizes: list[int], width: int) -> None:
        super().__init__()
        self.padding: Tensor
        self.table = LevelTable(basis, width, 0.02)
        self.bias = nn.Parameter(torch.zeros(basis.shape[:2]))
        padding = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
        self.register_buffer("padding", torch.zeros(padding.shape).masked_fill(padding, -math.inf), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bdw,dlw->bdl", x, self.table()) + self.bias + self.padding

    def column(self, x: Tensor, column: int, size: int) -> Tensor:
        """Logits of one column from ``(R, W)``: ``(R, size)``."""
        return F.linear(x, self.table.column(column, size), self.bias[column, :size])


class ScalarEmbedding(nn.Module):
    """A small perceptron of one positive scalar's logarithm. **Shape**: ``(B,)`` → ``(B, W)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, scalar: Tensor) -> Tensor:
        return self.net(scalar.log()[:, None])


def log_choice(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draw: index ``(R,)`` from logits ``(R, L)`` and one uniform in (0, 1) per row ``(R,)``.

    An index of zero probability (logit −inf) is never returned.
    """
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return (cumulative < threshold).sum(-1)
