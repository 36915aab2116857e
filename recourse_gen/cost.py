"""The recourse cost C: L1 on scaled numeric columns plus mismatch on categorical ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recourse_gen.rows import Rows
from recourse_gen.schema import Schema


class RecourseCost:
    """C(x, x⁺) = Σ_d w_d |Δ_d| over numeric columns scaled to their training range + Σ_d w_d 1[x_d ≠ x⁺_d].

    Every term is the L1 distance of per-column coordinates (a category of L > 2 levels is half its one-hot vector),
    so the cost between two sets of rows is one ``torch.cdist(p=1)``.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        # One table of coordinates for all token columns: row offset[c] + code holds the level's coordinates.
        widths = [1 if f.kind == "ordinal" or len(f.levels) <= 2 else len(f.levels) for f in schema.tokens]
        sizes = [len(feature.levels) for feature in schema.tokens]
        table, start, begin = torch.zeros(sum(sizes), sum(widths)), 0, 0
        for feature, width, size in zip(schema.tokens, widths, sizes, strict=True):
            block = torch.eye(size) / 2 if width > 1 else torch.as_tensor(feature.level_values).float()[:, None]
            table[start : start + size, begin : begin + width] = block
            start, begin = start + size, begin + width
        self._table = table
        self._offset = torch.as_tensor(np.cumsum([0, *sizes])[:-1], dtype=torch.int64)
        numbers = [feature.weight for feature in schema.numbers]
        tokens = [f.weight for f, width in zip(schema.tokens, widths, strict=True) for _ in range(width)]
        self._weight = torch.as_tensor([*numbers, *tokens], dtype=torch.float32)

    def coordinates(self, rows: Rows, weighted: bool = True) -> Tensor:
        """Float32 ``(..., E)`` for rows ``(..., ·)``: L1 distances between coordinates are costs."""
        device = rows.num.device
        index = rows.cat + self._offset.to(device)
        # Each token column fills its own columns of the table, so summing the looked-up rows concatenates them.
        tokens = self._table.to(device)[index].sum(-2)
        coordinates = torch.cat([rows.num, tokens], -1)
        return coordinates * self._weight.to(device) if weighted else coordinates

    def __call__(self, factual: Rows, counterfactual: Rows) -> Tensor:
        """Cost per pair, ``(B,)``; for counterfactuals ``(B, S, ·)`` the factuals broadcast and it is ``(B, S)``."""
        a, b = self.coordinates(factual), self.coordinates(counterfactual)
        return ((a[:, None] if b.dim() == 3 else a) - b).abs().sum(-1)

    def pairwise(self, a: Rows, b: Rows) -> Tensor:
        """Cost between every row of `a` and every row of `b`, ``(A, B)``."""
        return torch.cdist(self.coordinates(a), self.coordinates(b), p=1.0)
