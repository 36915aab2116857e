"""Local outlier factors of new rows, by matrix products instead of trees, which are slow where rows are wide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_CELLS = 2**22  # approximate distances held at a time
_SET = 32  # rows of a set
_EPSILON = 1e-10  # a density stays finite among more than k equal rows


@dataclass(frozen=True)
class OutlierFactor:
    """Local outlier factor (Breunig et al. 2000) among reference rows, of rows that are not among them.

    All rows as near as the k-th neighbour are neighbours, as in the paper: in tables of categories many are, and taking
    any k of them, as scikit-learn does, would make the factor depend on their order.

    rows: distinct reference rows, float64 ``(M, E)``. weight: how often each occurs, int64 ``(M,)``. distance: to its
    k-th neighbour, and density: the local reachability density, float64 ``(M,)``.
    """

    k: int
    rows: np.ndarray
    weight: np.ndarray
    distance: np.ndarray
    density: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, k: int) -> OutlierFactor:
        """Reference rows, float64 ``(B, E)`` with B > k ≥ 1."""
        rows, weight = np.unique(features, axis=0, return_counts=True)
        unfitted = cls(k, rows, weight, np.zeros(len(rows)), np.zeros(len(rows)))
        near = unfitted._neighbours(rows, own=True)
        fitted = cls(k, rows, weight, near.distance, np.zeros(len(rows)))
        return cls(k, rows, weight, near.distance, fitted._density(near))

    def whole(self) -> bool:
        """Whether all parts are there and fit together, as they may not in a file."""
        arrays = (self.rows, self.weight, self.distance, self.density)
        if type(self.k) is not int or not all(type(part) is np.ndarray for part in arrays) or self.rows.ndim != 2:
            return False
        kinds = [part.dtype.kind for part in arrays]
        if kinds != ["f", "i", "f", "f"] or any(part.shape != self.rows.shape[:1] for part in arrays[1:]):
            return False
        finite = all(np.isfinite(part).all() for part in arrays)
        return bool(finite and len(self.rows) and (self.weight > 0).all() and 0 < self.k < self.weight.sum())

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Float64 ``(B,)``, at least 1 or a little less among the reference rows, higher for outliers; the same for a
        row in any company."""
        if not len(features):
            return np.zeros(0)
        near = self._neighbours(features, own=False)
        return (near.mean(self.density[near.row]) / self._density(near)).round(9)

    def _density(self, near: _Neighbours) -> np.ndarray:
        """The inverse of the mean reachability distance (definition 6 of the paper)."""
        return 1.0 / (near.mean(np.maximum(self.distance[near.row], near.apart)) + _EPSILON)

    def _neighbours(self, features: np.ndarray, own: bool) -> _Neighbours:
        """own: the features are the reference rows, and none of them is its own neighbour."""
        size = max(1, _CELLS // len(self.rows))
        # One more, as a row alone in its place is not its own neighbour.
        k = min(self.k + own, len(self.rows))
        # In k of the sets that every so many rows make up, k rows are at least as near as the k-th nearest set: few
        # sets are looked at row by row, and none is sorted.
        sets = max(k, -(-len(self.rows) // _SET))
        padding = -len(self.rows) % sets
        table = torch.nn.functional.pad(torch.from_numpy(self.rows).float(), (0, 0, 0, padding))
        squares = torch.nn.functional.pad(table[: len(self.rows)].square().sum(1), (0, padding), value=torch.inf)
        highest = squares[: len(self.rows)].max()
        parts = []
        for start in range(0, len(features), size):
            some = torch.from_numpy(features[start : start + size]).float()
            # The square of the asking row is the same for all, and no product of float32 is exact: so a little more
            # than what is needed is kept, and asked exactly.
            apart = torch.addmm(squares, some, table.T, alpha=-2.0).unflatten(1, (-1, sets))
            nearest = apart.amin(1)
            reach = nearest.topk(k, largest=False).values[:, -1]
            reach += 1e-5 * (1.0 + highest + some.square().sum(1))
            asking, part = (nearest <= reach[:, None]).nonzero(as_tuple=True)
            at, place = (apart[asking, :, part] <= reach[asking, None]).nonzero(as_tuple=True)
            asking, row = asking[at], place * sets + part[at]
            parts.append(self._exact(features[start : start + size], asking.numpy(), row.numpy(), start, own))
        return _Neighbours(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _exact(
        self, features: np.ndarray, asking: np.ndarray, row: np.ndarray, first: int, own: bool
    ) -> tuple[np.ndarray, ...]:
        """The neighbours among pairs of an asking row and a reference row; `asking` rises."""
        apart = np.sqrt(np.square(features[asking] - self.rows[row]).sum(1))
        weight = self.weight[row] - (own & (row == asking + first))
        some = weight > 0
        asking, row, apart, weight = asking[some], row[some], apart[some], weight[some]
        order = np.lexsort((row, apart, asking))
        asking, row, apart, weight = asking[order], row[order], apart[order], weight[order]
        start = np.flatnonzero(np.diff(asking, prepend=-1))
        before = weight.cumsum() - weight
        before -= before[start].repeat(np.diff(start, append=len(asking)))
        distance = np.maximum.reduceat(np.where(before < self.k, apart, 0.0), start)
        near = apart <= distance[asking] * (1 + 1e-9)
        return asking[near] + first, row[near], apart[near], weight[near], distance


@dataclass(frozen=True)
class _Neighbours:
    """Pairs of an asking row (rising) and a reference row, how far `apart` they are and how often the latter occurs;
    distance: to the k-th neighbour of each asking row."""

    asking: np.ndarray
    row: np.ndarray
    apart: np.ndarray
    weight: np.ndarray
    distance: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each asking row's neighbours."""
        start = np.flatnonzero(np.diff(self.asking, prepend=-1))
        return np.add.reduceat(values * self.weight, start) / np.add.reduceat(self.weight, start)
