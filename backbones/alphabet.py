"""Every column as a finite alphabet: the levels of token columns, bins of continuous ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from backbones.draft import Draft
from recourse_gen.constraints import Feasible
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema

SPACINGS = ("quantile", "uniform")


class Alphabet(nn.Module):
    """Codes, values and costs of each column's alphabet. Constants of the schema; nothing is learned.

    D columns in schema order, L codes in the largest alphabet; smaller ones are padded.
    spacing: ``quantile`` bins hold equal shares of the training rows and emit a uniform draw from their interval, a
    value that repeats across quantiles (a point mass) has a bin of its own; ``uniform`` is a grid of `bins` values.
    """

    cover: Tensor
    emit_low: Tensor
    emit_high: Tensor
    value: Tensor
    weight: Tensor
    is_category: Tensor
    token_at: Tensor
    number_at: Tensor

    def __init__(self, schema: Schema, *, bins: int, spacing: str) -> None:
        super().__init__()
        if spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.schema = schema
        cuts = [_cut(feature, bins, spacing) for feature in schema.features]
        self.sizes = [len(low) for low, _, _ in cuts]
        self._any_category = any(feature.kind == "categorical" for feature in schema.features)
        size = max(self.sizes)

        def table(part: int, fill: float) -> Tensor:
            return torch.tensor(
                np.stack([np.pad(c[part], (0, size - len(c[part])), constant_values=fill) for c in cuts])
            )

        # cover: where a bin begins; emit_low, emit_high: the interval that it stands for (equal when it is one value).
        for name, tensor in (
            ("cover", table(0, math.inf)),
            ("emit_low", table(1, 0.0)),
            ("emit_high", table(2, 0.0)),
            ("weight", torch.tensor([feature.weight for feature in schema.features])),
            ("is_category", torch.tensor([feature.kind == "categorical" for feature in schema.features])),
            ("token_at", torch.tensor([d for d, t, _ in schema.places if t is not None], dtype=torch.int64)),
            ("number_at", torch.tensor([d for d, _, n in schema.places if n is not None], dtype=torch.int64)),
        ):
            self.register_buffer(name, tensor.float() if tensor.is_floating_point() else tensor, persistent=False)
        self.register_buffer("value", (self.emit_low + self.emit_high) / 2, persistent=False)

    def codes(self, rows: Rows) -> Tensor:
        """int64 ``(B, D)`` code of each column."""
        codes = rows.cat.new_zeros(rows.batch_size, len(self.sizes))
        codes[:, self.token_at] = rows.cat
        inside = torch.searchsorted(self.cover[self.number_at], rows.num.T.contiguous(), right=True) - 1
        codes[:, self.number_at] = inside.clamp_(min=0).T
        return codes

    def numbers(self, rows: Rows) -> Tensor:
        """Float32 ``(B, D)`` value of each column in scaled units; 0 for categorical columns."""
        numbers = rows.num.new_zeros(rows.batch_size, len(self.sizes))
        numbers[:, self.token_at] = self.value[self.token_at[None], rows.cat].masked_fill(
            self.is_category[self.token_at], 0.0
        )
        numbers[:, self.number_at] = rows.num
        return numbers

    def costs(self, rows: Rows) -> Tensor:
        """C_d(x_d, code) ``(B, D, L)``: the cost of moving each column from its value in `rows` to each code."""
        distance = (self.value - self.numbers(rows)[..., None]).abs()
        if self._any_category:
            index = torch.arange(self.value.shape[1], device=self.value.device)
            mismatch = (index != self.codes(rows)[..., None]).float()
            distance = torch.where(self.is_category[:, None], mismatch, distance)
        return distance * self.weight[:, None]

    def blurred(self, codes: Tensor, numbers: Tensor, width: float) -> Tensor:
        """Targets ``(B, D, L)``: a Gaussian of standard deviation `width` around numbers, one-hot for categories."""
        logits = -0.5 * ((self.value - numbers[..., None]) / width) ** 2
        sizes = torch.tensor(self.sizes, device=codes.device)[:, None]
        padding = torch.arange(self.value.shape[1], device=codes.device) >= sizes
        targets = logits.masked_fill(padding, -math.inf).softmax(-1)
        return torch.where(self.is_category[:, None], nn.functional.one_hot(codes, targets.shape[2]).float(), targets)

    def log_width(self, codes: Tensor) -> Tensor:
        """log of the interval that a code ``(B, D)`` stands for, scaled units; 0 where it is a single value."""
        width = (self.emit_high - self.emit_low)[torch.arange(len(self.sizes), device=codes.device), codes]
        return torch.where(width > 0, width, torch.ones_like(width)).log()

    def basis(self, waves: int = 4) -> Tensor:
        """Smooth functions of each code, ``(D, L, waves + 2)``: its value and cosines of its rank; 0 for categories."""
        columns, size = self.value.shape
        basis = torch.zeros(columns, size, waves + 2)
        for d in torch.nonzero(~self.is_category).flatten().tolist():
            levels = self.sizes[d]
            rank = (torch.arange(levels) + 0.5) / levels
            basis[d, :levels, 0] = self.value[d, :levels] - 0.5
            basis[d, :levels, 1:] = torch.cos(math.pi * rank[:, None] * torch.arange(1, waves + 2))
        return basis

    def draft(self, factual: Rows, owner: Tensor, feasible: Feasible | None) -> Draft:
        return Draft(self, factual, owner, feasible)


def _cut(feature: Feature, bins: int, spacing: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(where each code begins, lowest value it emits, highest value it emits), scaled units, ascending."""
    if feature.is_token:
        values = feature.level_values
        return values, values, values
    if spacing == "uniform":
        grid = np.linspace(0.0, 1.0, bins)
        return np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2]), grid, grid
    knots = np.interp(
        np.linspace(0, 1, bins + 1), np.linspace(0, 1, len(feature.quantiles)), feature.scaled(feature.quantiles)
    )
    knots = knots.astype(np.float32)
    edges, counts = np.unique(knots, return_counts=True)
    # A repeated quantile is a point mass: a bin of zero width, and the next bin begins just above it.
    atoms = edges[counts > 1]
    starts = np.where(np.isin(edges[:-1], atoms), np.nextafter(edges[:-1], np.float32(np.inf)), edges[:-1])
    low = np.concatenate([starts, atoms])
    high = np.concatenate([edges[1:], atoms])
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    begin = low.astype(np.float64)
    begin[0] = -np.inf
    return begin, low.astype(np.float64), high.astype(np.float64)
