"""Network parts that backbones share. Nothing here knows about paths, losses or samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]


class Kept:
    """What follows from some weights alone, computed once and kept until one of them has changed.

    With gradients enabled nothing is kept: training computes it at every step. Nor is what autocast makes imprecise. A
    copy begins empty.

    lessons: how often anything was computed with gradients. What was kept before is computed again, as optimizers need
    not count the changes that they make: fused ones do not.
    """

    lessons = 0

    def __init__(self) -> None:
        self._kept: tuple[int, list[tuple[Tensor, int]], Any] = (0, [], None)

    def __deepcopy__(self, memo: object) -> Kept:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def __call__(self, compute: Callable[[], Any], *weights: Tensor) -> Any:
        """`compute()`, or what it was when it was last asked for with these weights."""
        if torch.is_grad_enabled():
            Kept.lessons += 1
        # Weights that were made in inference mode do not count their changes.
        fleeting = torch.is_grad_enabled() or torch.is_autocast_enabled(weights[0].device.type)
        if fleeting or any(weight.is_inference() for weight in weights):
            return compute()
        lesson, known, value = self._kept
        if (lesson, len(known)) != (Kept.lessons, len(weights)) or any(
            weight.data_ptr() != seen.data_ptr() or weight._version != version
            for weight, (seen, version) in zip(weights, known, strict=True)
        ):
            value = compute()
            # The detached tensors hold on to the memory, so that no other weight can come to lie there.
            self._kept = Kept.lessons, [(weight.detach(), weight._version) for weight in weights], value
        return value


class Attention(nn.Module):
    """Multi-head attention over columns.

    **Shape**: input ``(B, Q, W)``, memory ``(B, M, W)`` → ``(B, Q, W)``; W = width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, however: width={width}, heads={heads}")
        self.heads, self.scale = heads, (width // heads) ** -0.5
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


class FeedForward(nn.Module):
    """Pre-norm residual perceptron within each column. **Shape**: ``(..., W)`` → ``(..., W)``."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        nn.init.normal_(self.down.weight, std=0.5 / math.sqrt(expansion * width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optionally attention to a second memory, gated feed-forward.

    **Shape**: ``(B, D, W)`` → ``(B, D, W)``.
    """

    def __init__(self, width: int, heads: int, *, cross: bool = False, expansion: int = 2) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = Attention(width, heads) if cross else None
        self.feed_forward = FeedForward(width, expansion)
        nn.init.normal_(self.self_attention.out.weight, std=0.5 / math.sqrt(width))

    def forward(self, x: Tensor, *, causal: bool = False, memory: Tensor | None = None) -> Tensor:
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, self.self_attention.keys_values(normed), causal)
        if self.cross_attention is not None and self.cross_norm is not None:
            assert memory is not None
            x = x + self.cross_attention(self.cross_norm(x), self.cross_attention.keys_values(memory))
        return self.feed_forward(x)


class LevelTable(nn.Module):
    """A learned vector per code of each column: a free one plus a smooth function of the code's rank, so that
    neighbouring values share what they learn. **Shape**: → ``(D, L, W)``.

    basis: of the smooth part, ``(D, L, F)``, see `Alphabet.basis`. std: of the first weights. free: bool ``(D,)``, the
    columns that have the free part, by default all.
    """

    def __init__(self, basis: Tensor, width: int, std: float, free: Tensor | None = None) -> None:
        super().__init__()
        self.basis: Tensor
        self.has_free: Tensor | None
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("has_free", None if free is None else free[:, None, None], persistent=False)
        self.free = nn.Parameter(torch.randn(*basis.shape[:2], width) * std)
        self.smooth = nn.Parameter(torch.randn(basis.shape[0], basis.shape[2], width) * std)
        self._kept = Kept()

    def forward(self) -> Tensor:
        return self._kept(self._vectors, self.free, self.smooth)

    def _vectors(self) -> Tensor:
        free = self.free if self.has_free is None else self.free * self.has_free
        return free + torch.einsum("dlf,dfw->dlw", self.basis, self.smooth)


class ColumnEmbedding(nn.Module):
    """Embeds one code per column: a `LevelTable`'s vector, plus the column's number along a direction.

    **Shape**: codes int64 ``(B, D)`` and values ``(B, D)`` → ``(B, D, W)``.

    free: of the `LevelTable`.
    """

    def __init__(self, basis: Tensor, width: int, free: Tensor | None = None) -> None:
        super().__init__()
        self.offset: Tensor
        self.register_buffer("offset", torch.arange(basis.shape[0]) * basis.shape[1], persistent=False)
        self.table = LevelTable(basis, width, 0.1, free)
        self.direction = nn.Parameter(torch.randn(basis.shape[0], width) * 0.5)

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        return F.embedding(codes + self.offset, self.table().flatten(0, 1)) + values[..., None] * self.direction


class ChangedEmbedding(ColumnEmbedding):
    """Also says how far a column has moved from the factual: whether it did, and by how much.

    **Shape**: codes int64, values, moved bool and distances, ``(B, D)`` each → ``(B, D, W)``.
    """

    def __init__(self, basis: Tensor, width: int, free: Tensor | None = None) -> None:
        super().__init__(basis, width, free)
        self.moved = nn.Parameter(torch.randn(basis.shape[0], width) * 0.1)
        self.distance = nn.Parameter(torch.randn(basis.shape[0], width) * 0.5)
        self._columns = Kept()

    def forward(self, codes: Tensor, values: Tensor, moved: Tensor, distance: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(codes, values) + moved[..., None] * self.moved + distance[..., None] * self.distance

    def columns(self) -> list[EmbeddedColumn]:
        """The same for each column alone, for whoever visits them in turn."""
        weights = self.direction, self.moved, self.distance

        def split() -> list[EmbeddedColumn]:
            return [EmbeddedColumn(*part) for part in zip(self.table(), torch.stack(weights, 1), strict=True)]

        return self._columns(split, *weights, self.table.free, self.table.smooth)


class EmbeddedColumn(NamedTuple):
    """levels: of one column's codes, ``(L, W)``. directions: of its value, move and distance, ``(3, W)``."""

    levels: Tensor
    directions: Tensor

    def __call__(self, codes: Tensor, values: Tensor, moved: Tensor, distance: Tensor) -> Tensor:
        """``(R, W)`` of codes, values, moves and distances, ``(R,)`` each."""
        numbers = torch.stack([values, moved.to(values.dtype), distance], 1)
        return torch.addmm(F.embedding(codes, self.levels), numbers, self.directions)


class ColumnHead(nn.Module):
    """One linear layer per column, padded to the largest alphabet.

    **Shape**: ``(B, D, W)`` → logits ``(B, D, L)``. A bias ``(B, D, L)`` may be given in place of the layer's own.
    """

    def __init__(self, basis: Tensor, sizes: list[int], width: int) -> None:
        super().__init__()
        self.padding: Tensor
        self.table = LevelTable(basis, width, 0.02)
        self.bias = nn.Parameter(torch.zeros(basis.shape[:2]))
        self._sizes, self._columns = sizes, Kept()
        padding = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
        self.register_buffer("padding", torch.zeros(padding.shape).masked_fill(padding, -math.inf), persistent=False)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = self.bias if bias is None else bias
        return torch.einsum("bdw,dlw->bdl", x, self.table()) + bias + self.padding

    def columns(self) -> list[HeadColumn]:
        """The same for each column alone, without its bias, for whoever visits them in turn."""

        def split() -> list[HeadColumn]:
            return [HeadColumn(levels[:size].T) for levels, size in zip(self.table(), self._sizes, strict=True)]

        return self._columns(split, self.table.free, self.table.smooth)


class HeadColumn(NamedTuple):
    """weight: of one column's levels, ``(W, size)``."""

    weight: Tensor

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        """Logits ``(R, size)`` from ``(R, W)`` and a bias ``(B, size)``, R / B of each in a row."""
        logits = torch.mm(x, self.weight)
        logits.unflatten(0, (len(bias), -1)).add_(bias[:, None])
        return logits


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
    probability = torch.softmax(logits, -1)
    if logits.device.type == "cpu":
        cumulative = probability.cumsum(1)
        return (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(1)
    # A GPU sums down many columns at once, each in order; along many short rows it is ten times slower.
    cumulative = probability.T.cumsum(0)
    return (cumulative < uniform * cumulative[-1]).sum(0)
