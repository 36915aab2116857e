"""What the endpoint network reads and says column by column: embeddings of numbers and tokens, and their heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.alphabet import Alphabet
from backbones.layers import Kept, LevelTable
from recourse_gen.schema import Schema


class WaveEmbedding(nn.Module):
    """Perceptron of scalars and their sines and cosines, one per column. **Shape**: ``(..., D, 1)`` → ``(..., D, W)``.

    Several wavelengths let it follow sharp functions of a number (Tancik et al. 2020; Gorishniy et al. 2022).
    """

    def __init__(self, columns: int, width: int, waves: int = 8) -> None:
        super().__init__()
        self.frequency: Tensor
        self.phase: Tensor
        # Scores lie within ±3: from less than one wave over that range to waves of an eighth.
        self.register_buffer("frequency", (math.pi / 4 * 1.8 ** torch.arange(waves)).repeat(2), persistent=False)
        # cos x = sin(x + π / 2)
        self.register_buffer("phase", (torch.arange(2 * waves) >= waves) * (math.pi / 2), persistent=False)
        self.weight = nn.Parameter(torch.randn(columns, 2 * waves + 1, width) * 0.3)
        self.bias = nn.Parameter(torch.randn(columns, width) * 0.3)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.ready()(x)

    def ready(self) -> Callable[[Tensor], Tensor]:
        """`forward`, its weights looked up once for many calls."""
        phase, frequency, out, out_bias = self.phase, self.frequency, self.out.weight, self.out.bias
        alone = len(self.weight) == 1
        weight, bias = (self.weight[0], self.bias[0]) if alone else (self.weight, self.bias[:, None])

        def embed(x: Tensor) -> Tensor:
            features = torch.cat([x, torch.addcmul(phase, x, frequency).sin()], -1)
            if alone:
                return F.linear(F.silu(features @ weight + bias), out, out_bias)
            by_column = torch.baddbmm(bias, features.transpose(0, 1), weight)
            return F.linear(F.silu(by_column.transpose(0, 1)), out, out_bias)

        return embed


class NumberColumns(nn.Module):
    """Embeddings of factual and noisy numbers, and what the network says about each number."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.factual, self.state = WaveEmbedding(columns, width), WaveEmbedding(columns, width)
        self.weight = nn.Parameter(torch.randn(columns, width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(columns))

    def read(self, hidden: Tensor) -> Tensor:
        """``(R, N, W)`` → ``(R, N)``."""
        return (hidden * self.weight).sum(-1) + self.bias


class TokenColumns(nn.Module):
    """Embeddings and logits of token columns: C columns, L levels in the largest; smaller ones are padded.

    The vector of an ordinal level is a free one plus a smooth function of its rank, so that neighbours share what
    they learn.
    """

    def __init__(self, schema: Schema, width: int) -> None:
        super().__init__()
        self.alphabet = Alphabet(Schema(schema.tokens), bins=2, spacing="uniform")
        count, size = len(schema.tokens), max(self.alphabet.sizes)
        self.padding: Tensor
        self.offset: Tensor
        basis = F.pad(self.alphabet.basis(), (0, 0, 0, 1))  # one more code, for a masked token
        padding = torch.arange(size) >= torch.tensor(self.alphabet.sizes)[:, None]
        self.register_buffer("padding", torch.zeros(count, size).masked_fill(padding, -math.inf), persistent=False)
        self.register_buffer("offset", torch.arange(count) * (size + 1), persistent=False)
        self.factual = LevelTable(basis, width, 0.1)
        self.present = LevelTable(basis, width, 0.1)
        self.moved = nn.Parameter(torch.randn(count, width) * 0.1)
        self.head = LevelTable(basis[:, :size], width, 0.02)
        self.bias = nn.Parameter(torch.zeros(count, size))
        self._states = Kept()

    @property
    def state_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.present.free, self.present.smooth, self.moved

    def ready(self) -> Tables:
        return Tables(self.offset, self.states(), self.head().mT)

    def states(self) -> Tensor:
        """Vectors of the codes of a state, column by column, and zeros for whatever is as in the factual:
        ``(C · (L + 1) + 1, W)``."""

        def vectors() -> Tensor:
            return F.pad((self.present() + self.moved[:, None]).flatten(0, 1), (0, 0, 0, 1))

        return self._states(vectors, *self.state_weights)


class Tables(NamedTuple):
    """What follows from the weights of token columns alone. States and masks are numbered through, column by column:
    V = C · (L + 1) places, and one more for whatever is as in the factual.

    offset: ``(C,)``, where a column's places begin. vectors: ``(V + 1, W)``. head: ``(C, W, L)``.
    """

    offset: Tensor
    vectors: Tensor
    head: Tensor

    def moves(self, factual: Tensor, cat: Tensor) -> Tensor:
        """The places of codes ``(B, S, C)`` of states under each of B factuals ``(B, C)``."""
        same = cat == factual[:, None]
        return (cat + self.offset).masked_fill_(same, len(self.vectors) - 1)

    def logits(self, hidden: Tensor, prior: Tensor, each: tuple[int, int]) -> Tensor:
        """``(R, C, W)`` and ``(B, C, L)`` → ``(R, C, L)``; each: B and S, S rows for each of B in a row."""
        by_column = torch.bmm(hidden.transpose(0, 1), self.head).unflatten(1, each)
        # Column after column in memory, as the first summand is: no copy is needed.
        return (by_column + prior.transpose(0, 1)[:, :, None]).flatten(1, 2).transpose(0, 1)
