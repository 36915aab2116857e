"""The recourse cost C: L1 on scaled numeric columns plus mismatch on categorical ones."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.workers import shared

_LEAST = 64  # rows to sort that are worth a thread


class Targets(NamedTuple):
    """Coordinates of M rows: those whose L1 distance counts, weighted, ``(M, E - H)``, and the H of one-hot columns, as
    they are, ``(M, H)``."""

    near: Tensor
    one_hot: Tensor


class RecourseCost:
    """C(x, x⁺) = Σ_d w_d |Δ_d| over numeric columns scaled to their training range + Σ_d w_d 1[x_d ≠ x⁺_d].

    Every term is the L1 distance of per-column coordinates (a category of L > 2 levels is half its one-hot vector).
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        widths = [1 if f.kind == "ordinal" or len(f.levels) <= 2 else len(f.levels) for f in schema.tokens]
        sizes = [len(feature.levels) for feature in schema.tokens]
        self._offset = torch.as_tensor(np.cumsum([0, *sizes])[:-1], dtype=torch.int64)
        numbers = [feature.weight for feature in schema.numbers]
        tokens = [f.weight for f, width in zip(schema.tokens, widths, strict=True) for _ in range(width)]
        self._weight = torch.as_tensor([*numbers, *tokens], dtype=torch.float32)
        one_hot = [width > 1 for width in widths for _ in range(width)]
        self._one_hot = torch.as_tensor([*(False for _ in numbers), *one_hot], dtype=torch.bool)
        values = [f.level_values if f.kind == "ordinal" else np.arange(len(f.levels)) for f in schema.tokens]
        self._values = torch.as_tensor(np.concatenate([*values, np.zeros(0)]), dtype=torch.float32)
        columns = [*schema.numbers, *schema.tokens]
        self._column_weight = torch.as_tensor([f.weight for f in columns], dtype=torch.float32)
        caps = [1.0 if f.kind == "categorical" else math.inf for f in columns]
        self._cap = torch.as_tensor(caps, dtype=torch.float32)
        self._most = float(sum(f.weight for f, width in zip(schema.tokens, widths, strict=True) if width > 1))
        self._whole = bool((self._weight[self._one_hot] % 1 == 0).all())
        self._widths = widths

    @cached_property
    def _table(self) -> Tensor:
        """One table of coordinates for all token columns: row offset[c] + code holds the level's coordinates. It grows
        with the square of the levels, so it is made only for those who ask for coordinates."""
        blocks = [
            torch.eye(width, dtype=torch.float32) / 2
            if width > 1
            else torch.as_tensor(feature.level_values).float()[:, None]
            for feature, width in zip(self.schema.tokens, self._widths, strict=True)
        ]
        return torch.block_diag(*blocks) if blocks else torch.zeros(0, 0, dtype=torch.float32)

    @property
    def columns(self) -> int:
        """E, the number of coordinates."""
        return len(self._weight)

    def coordinates(self, rows: Rows, weighted: bool = True) -> Tensor:
        """Float32 ``(..., E)`` for rows ``(..., ·)``: L1 distances between coordinates are costs."""
        device = rows.num.device
        coordinates = rows.num
        if len(self._table):
            # Each token column fills its own columns of the table, so adding up the looked-up rows concatenates them.
            index = rows.cat + self._offset.to(device)
            tokens = F.embedding_bag(index.flatten(0, -2), self._table.to(device), mode="sum")
            coordinates = torch.cat([rows.num, tokens.view(*index.shape[:-1], self._table.shape[1])], -1)
        return coordinates * self._weight.to(device) if weighted else coordinates

    def cells(self, rows: Rows) -> Tensor:
        """Float32 ``(..., D)`` for rows ``(..., ·)``, one number per column, for `apart`: much narrower than
        `coordinates` where categories have many levels."""
        device = rows.num.device
        return torch.cat([rows.num, self._values.to(device)[rows.cat + self._offset.to(device)]], -1)

    def apart(self, a: Tensor, b: Tensor) -> Tensor:
        """Cost ``(...)`` between cells `a` and `b` ``(..., D)``; `a` broadcasts, and `b` is overwritten."""
        gap = self._gap(a, b)
        return gap @ self._column_weight.to(gap.device)

    def _gap(self, a: Tensor, b: Tensor) -> Tensor:
        """``(..., D)``, in place of `b`: how far each column moves."""
        gap = b.sub_(a).abs_()
        # Codes of different categories are at least 1 apart, and such a difference counts as 1.
        return torch.minimum(gap, self._cap.to(gap.device), out=gap)

    def __call__(self, factual: Rows, counterfactual: Rows) -> Tensor:
        """Cost per pair, ``(B,)``; for counterfactuals ``(B, S, ·)`` the factuals broadcast and it is ``(B, S)``."""
        a, b = self.cells(factual), self.cells(counterfactual)
        gap = self._gap(a[:, None] if b.dim() == 3 else a, b)
        return (gap * self._column_weight.to(gap.device)).sum(-1)

    def pairwise(self, a: Rows, b: Rows) -> Tensor:
        """Cost between every row of `a` and every row of `b`, ``(A, B)``."""
        return self.distances(a, self.targets(b))

    def targets(self, rows: Rows) -> Targets:
        """Rows ``(M, ·)`` made ready for `distances` from many others."""
        one_hot, weight = self._one_hot.to(rows.num.device), self._weight.to(rows.num.device)
        there = self.coordinates(rows, weighted=False)
        return Targets((there * weight)[:, ~one_hot], there[:, one_hot])

    def distances(self, rows: Rows, targets: Targets) -> Tensor:
        """Cost of every row ``(B, ·)`` becoming every target, ``(B, M)``: mismatches of one-hot columns by one matrix
        product, the other columns by their L1 distance."""
        one_hot, here = self._one_hot.to(rows.num.device), self.coordinates(rows)
        costs = torch.cdist(here[:, ~one_hot], targets.near, p=1.0)
        if not one_hot.any():
            return costs
        # Products of whole weights are exact. Others round, and not alike for few rows and many, so they get room.
        exact = costs.dtype if self._whole else torch.float64
        with torch.autocast(costs.device.type, enabled=False):
            alike = 4.0 * here[:, one_hot].to(exact) @ targets.one_hot.T.to(exact)
        return costs.add_(alike.neg_().add_(self._most).clamp_(min=0.0))


def smallest(costs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of costs ``(b, m)``, float32, neither negative nor NaN, or all of them if m < k;
    ascending, and their places, int64. On a CPU, equal ones come in the order of their places, and the work is shared
    by threads: it must not be asked for by one of these."""
    k, costs = min(k, costs.shape[1]), costs.float()
    if costs.device.type != "cpu" or not len(costs):
        # Sorting the nearest is faster than having them found in order.
        found = costs.topk(k, largest=False, sorted=False)
        values, order = found.values.sort(dim=1, stable=True)
        return values, found.indices.gather(1, order)
    # Floats that are not negative are in the order of their bits. With the place behind these bits, each is one whole
    # number, of which NumPy finds and sorts the smallest several times faster than PyTorch does it with pairs.
    keys = costs.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(torch.arange(costs.shape[1]))

    def first(keys: np.ndarray) -> np.ndarray:
        keys.partition(k - 1, axis=1)
        return np.sort(keys[:, :k], axis=1)

    ranked = torch.from_numpy(shared(first, keys.numpy(), torch.get_num_threads(), least=_LEAST))
    return (ranked >> 32).int().view(torch.float32), ranked & 0xFFFFFFFF
