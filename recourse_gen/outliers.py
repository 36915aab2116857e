"""Local outlier factors of new rows, by matrix products instead of trees, which are slow where rows are wide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_ASKED = 4096  # rows that ask at a time
_BOX = 512  # most rows of a box
_ALL = 1 << 19  # distances, up to which to take all of them is quicker than to visit box after box
_CELLS = 1 << 17  # differences of columns that are taken at one time, few enough for a processor's cache
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
        return cls.crowd(features, k, 0, 0.0, seed=0)[0]

    @classmethod
    def crowd(cls, features: np.ndarray, k: int, others: int, growth: float, *, seed: int) -> tuple[OutlierFactor, ...]:
        """`fit`, and as many `others` who know some rows from a sample that is larger by a share `growth`.

        What it would repeat is drawn for each from the rows as they occur; those that occur once, as rows of numbers
        do, by the count of Good and Turing (Good 1953), 2 N₂ / N₁ for N₁ rows that occur once and N₂ that occur twice.
        """
        rows, weight = np.unique(features, axis=0, return_counts=True)
        once, twice = (weight == 1).sum(), (weight == 2).sum()
        again = np.where(weight == 1, min(1.0, 2 * twice / max(once, 1)), weight)
        draws, more = np.random.default_rng(seed), int(growth * again.sum())
        law = again / max(again.sum(), 1.0)
        weights = [weight, *(weight + draws.multinomial(more, law) for _ in range(others if more else 0))]
        unfitted = cls(k, rows, weight, np.zeros(len(rows)), np.zeros(len(rows)))
        pairs = unfitted.pairs(rows, own=True)
        return tuple(unfitted._weighted(weight, pairs) for weight in weights)

    def _weighted(self, weight: np.ndarray, pairs: Pairs) -> OutlierFactor:
        """Fitted to these weights of the rows, given what lies near each of them."""
        near = pairs.near(weight, self.k)
        fitted = replace(self, weight=weight, distance=near.distance)
        return replace(fitted, density=fitted._density(near))

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
        return self.factor(self.pairs(features))

    def factor(self, pairs: Pairs) -> np.ndarray:
        """The same, where `pairs` has been told by a factor with the same rows and at most these weights."""
        if not len(pairs.asking):
            return np.zeros(0)
        near = pairs.near(self.weight, self.k)
        return (near.mean(self.density[near.row]) / self._density(near)).round(9)

    def pairs(self, features: np.ndarray, own: bool = False) -> Pairs:
        """What lies near rows ``(B, E)``. own: they are the reference rows, and none of them is its own neighbour."""
        # One more, as a row alone in its place is not its own neighbour.
        k = min(self.k + own, len(self.rows))
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for start in range(0, len(features), _ASKED):
            some = features[start : start + _ASKED]
            asking, row = self._boxes.within_reach(torch.from_numpy(some).float(), k)
            apart = _apart(some, asking, self.rows, row)
            # Equally near ones stay as the boxes have them, in any company.
            order = np.lexsort((apart, asking))
            parts.append((asking[order] + start, row[order], apart[order]))
        asking, row, apart = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Pairs(asking, row, apart, own)

    def _density(self, near: _Neighbours) -> np.ndarray:
        """The inverse of the mean reachability distance (definition 6 of the paper)."""
        return 1.0 / (near.mean(np.maximum(self.distance[near.row], near.apart)) + _EPSILON)

    @cached_property
    def _boxes(self) -> _Boxes:
        return _Boxes.around(self.rows, self.k + 1)


@dataclass(frozen=True)
class Pairs:
    """An asking row and a reference row each, int64 ``(P,)``, and how far `apart` they are; by asking row, the nearest
    first. own: the asking rows are the reference rows."""

    asking: np.ndarray
    row: np.ndarray
    apart: np.ndarray
    own: bool

    def near(self, weights: np.ndarray, k: int) -> _Neighbours:
        """The neighbours among reference rows that occur as often as `weights` ``(M,)`` say."""
        weight = weights[self.row] - (self.own & (self.row == self.asking))
        some = weight > 0
        asking, row, apart, weight = self.asking[some], self.row[some], self.apart[some], weight[some]
        start = np.flatnonzero(np.diff(asking, prepend=-1))
        before = weight.cumsum() - weight
        before -= before[start].repeat(np.diff(start, append=len(asking)))
        distance = np.maximum.reduceat(np.where(before < k, apart, 0.0), start)
        near = apart <= distance[asking] * (1 + 1e-9)
        return _Neighbours(asking[near], row[near], apart[near], weight[near], distance)


@dataclass(frozen=True)
class _Boxes:
    """Reference rows in G boxes, such that most of them are out of reach for any one row, and are never looked at.

    order: the rows, box by box, int64 ``(M,)``. ends: of each box in that order. table: float32 ``(M, E)`` and squares:
    of its rows ``(M,)``, in that order. centre: of each box, float32 ``(G, E)``. varies: 1 in the columns where a box's
    rows differ, else 0, and same: what all of them hold elsewhere, float32 ``(G, E)`` each; where categories are
    columns, that is most of a box. parts: of each box, what differs. wide: the W columns with more than two values,
    int64; low, high: within which a box lies there, float32 ``(G, W)``, infinite where its rows are the same.
    """

    order: np.ndarray
    ends: list[int]
    table: Tensor
    squares: Tensor
    centre: Tensor
    varies: Tensor
    same: Tensor
    parts: list[_Box]
    wide: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, rows: np.ndarray, least: int) -> _Boxes:
        """Distinct rows ``(M, E)``, at least so many in a box where there are as many: cut in two, about in the middle
        of the column that differs most, until every box is small."""
        waiting, parts = [np.arange(len(rows))], []
        while waiting:
            at = waiting.pop()
            if len(at) <= max(_BOX, 2 * least):
                parts.append(at)
                continue
            cells = rows[at]
            values = cells[:, cells.var(0).argmax()]
            rising = values.argsort(kind="stable")
            steps = 1 + np.flatnonzero(np.diff(values[rising]))
            # Equal values stay together, as rows of one category are near each other.
            cut = steps[np.abs(steps - len(at) // 2).argmin()].clip(least, len(at) - least)
            waiting += [at[rising[:cut]], at[rising[cut:]]]
        tables = [torch.from_numpy(rows[at]).float() for at in parts]
        table = torch.cat(tables)
        low, high, centre = (
            torch.stack([part(cells, 0) for cells in tables]) for part in (torch.amin, torch.amax, torch.mean)
        )
        varies = low < high
        wide = ((table != low.amin(0)) & (table != high.amax(0))).any(0).nonzero()[:, 0]
        return cls(
            order=np.concatenate(parts),
            ends=np.cumsum([len(at) for at in parts]).tolist(),
            table=table,
            squares=table.square().sum(1),
            centre=centre,
            varies=varies.float(),
            same=torch.where(varies, 0.0, low),
            parts=[_Box.of(cells, differ) for cells, differ in zip(tables, varies, strict=True)],
            wide=wide,
            low=torch.where(varies, low, -torch.inf)[:, wide],
            high=torch.where(varies, high, torch.inf)[:, wide],
        )

    def within_reach(self, asked: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of an asking row, float32 ``(B, E)``, and a reference row, int64 ``(P,)`` each: its k nearest, those
        that are equally near, and a few more."""
        # The square of the asking row is the same for all, and left out of distances.
        if len(asked) * len(self.table) <= _ALL:
            apart = torch.addmm(self.squares, asked, self.table.T, alpha=-2.0).numpy()
            reach = self._generous(np.partition(apart, k - 1)[:, k - 1], asked)
            who, place = (apart <= reach[:, None]).nonzero()
            return who, self.order[place]
        alike = torch.addmm(self.same.square().sum(1), asked, self.same.T, alpha=-2.0)
        reach = self._generous(self._reach(asked, alike, k), asked)
        beyond = alike + self._gaps(asked) - asked.square() @ self.varies.T
        # Not `<=`: squares of huge values are infinite, their differences are no numbers, and all boxes are open then.
        open_to, same = ~(beyond.T.contiguous().numpy() > reach), alike.T.contiguous().numpy()
        asking, places, start = [], [], 0
        for box, end in enumerate(self.ends):
            at = np.flatnonzero(open_to[box])
            if len(at):
                apart = self.parts[box].apart(asked, at)
                near = np.flatnonzero(apart <= (reach[at] - same[box, at])[:, None])
                who, place = np.divmod(near, end - start)
                asking.append(at[who])
                places.append(place + start)
            start = end
        return np.concatenate(asking), self.order[np.concatenate(places)]

    def _reach(self, asked: Tensor, alike: Tensor, k: int) -> np.ndarray:
        """Float32 ``(B,)``: the squared distance to the k-th nearest row of the box with the nearest centre, less the
        square of the asking row. alike: the same in the columns where a box's rows are the same, ``(B, G)``."""
        home = torch.addmm(self.centre.square().sum(1), asked, self.centre.T, alpha=-2.0).argmin(1)
        reach = alike.gather(1, home[:, None])[:, 0].numpy()
        order, ends = home.argsort().numpy(), home.bincount(minlength=len(self.ends)).cumsum(0).numpy()
        for part, at in zip(self.parts, np.split(order, ends[:-1]), strict=True):
            if len(at):
                apart = part.apart(asked, at)
                apart.partition(k - 1)
                reach[at] += apart[:, k - 1]
        return reach

    def _generous(self, reach: np.ndarray, asked: Tensor) -> np.ndarray:
        """No product of float32 is exact: a little more than what is needed is kept, to be asked exactly."""
        return reach + 1e-5 * (1.0 + self.squares.max() + asked.square().sum(1)).numpy()

    def _gaps(self, asked: Tensor) -> Tensor:
        """Float32 ``(B, G)``: squared distances of rows ``(B, E)`` to the boxes in the wide columns where their rows
        differ, 0 inside. In the others a row has one of two values, and a box whose rows differ has both."""
        squares = torch.empty(len(asked), len(self.low), dtype=torch.float32)
        size = max(1, _CELLS // max(self.low.numel(), 1))
        for some, out in zip(asked[:, None, self.wide].split(size), squares.split(size), strict=True):
            gap = some.clamp(self.low, self.high).sub_(some)
            torch.linalg.vecdot(gap, gap, out=out)
        return squares


class _Box(NamedTuple):
    """columns: where its V rows differ, int64 ``(F,)``. table: what they hold there, float32 ``(F, V)``. squares: of
    each row there, float32 ``(V,)``."""

    columns: Tensor
    table: Tensor
    squares: Tensor

    @classmethod
    def of(cls, cells: Tensor, differ: Tensor) -> _Box:
        columns = differ.nonzero()[:, 0]
        table = cells[:, columns]
        return cls(columns, table.T, table.square().sum(1))

    def apart(self, asked: Tensor, at: np.ndarray) -> np.ndarray:
        """Float32 ``(A, V)``: squared distances in these columns of the asking rows at `at`, int64 ``(A,)``, less the
        square of each asking row."""
        cells = asked.index_select(0, torch.from_numpy(at)).index_select(1, self.columns)
        return torch.addmm(self.squares, cells, self.table, alpha=-2.0).numpy()


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


def _apart(one: np.ndarray, at: np.ndarray, other: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Float64 ``(P,)``: distances of the rows of one table at `at` to those of the other at `there`."""
    squares, size = np.empty(len(at)), max(1, _CELLS // one.shape[1])
    for start in range(0, len(at), size):
        some = slice(start, start + size)
        gap = one[at[some]] - other[there[some]]
        np.einsum("ij,ij->i", gap, gap, out=squares[some])
    return np.sqrt(squares)
