"""Choosing among candidates. A policy is one function: from a pool to the keys that order its candidates, each on its
own, or to the candidates that go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recourse_gen.cost import RecourseCost
from recourse_gen.rows import Rows

Keys = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Pool:
    """S scored candidates for each of B factuals. All arrays are ``(B, S)``; rows are ``(B, S, ·)``.

    probability: the classifier's. cost: recourse cost. burden: the cost, and what `score` adds for every changed column
    where few changes are asked for. valid: obeys the constraints, the classifier says yes with the
    confidence asked for, and no earlier candidate is the same. consensus, plausibility: the auditor's opinions, NaN
    where it was not asked. expected: see `Auditor.expected`, 0 where it was not asked.
    accepted: valid, and the auditor agrees (or was not asked).
    """

    rows: Rows
    probability: np.ndarray
    cost: np.ndarray
    burden: np.ndarray
    valid: np.ndarray
    consensus: np.ndarray
    plausibility: np.ndarray
    expected: np.ndarray
    accepted: np.ndarray

    def take(self, keep: np.ndarray) -> Pool:
        """The factuals at `keep` (int64 or bool)."""
        return self._map(lambda part: part[torch.from_numpy(keep) if isinstance(part, Tensor) else keep])

    def reshape(self, batch: int, size: int) -> Pool:
        """The same candidates in order, as ``(batch, size)``."""
        return self._map(lambda part: part.reshape(batch, size, *part.shape[2:]))

    def pick(self, chosen: np.ndarray) -> Pool:
        """The candidates at `chosen`, int64 ``(B, n)``; invalid where that is −1."""
        at = chosen.clip(min=0)
        index = torch.from_numpy(at)[:, :, None]
        picked = self._map(
            lambda part: part.take_along_dim(index, 1) if isinstance(part, Tensor) else np.take_along_axis(part, at, 1)
        )
        return replace(picked, valid=picked.valid & (chosen >= 0), accepted=picked.accepted & (chosen >= 0))

    def put(self, at: np.ndarray, other: Pool) -> Pool:
        """This pool with another's factuals in place of those at `at` (int64)."""
        index = torch.from_numpy(at)
        return self._map(
            lambda part, new: part.index_copy(0, index, new) if isinstance(part, Tensor) else _written(part, at, new),
            other,
        )

    def extend(self, other: Pool) -> Pool:
        """The same factuals with the candidates of both pools."""
        joined = self._map(
            lambda part, new: torch.cat([part, new], 1) if isinstance(part, Tensor) else np.concatenate([part, new], 1),
            other,
        )
        return joined.without_repeats()

    def _map(self, function: Callable[..., Any], *others: Pool) -> Pool:
        """A pool whose arrays and tensors are `function` of those of the pools given."""
        pools = (self, *others)
        parts = {f.name: function(*(getattr(pool, f.name) for pool in pools)) for f in fields(self) if f.name != "rows"}
        num, cat = (function(*parts) for parts in zip(*(pool.rows for pool in pools), strict=True))
        return Pool(rows=Rows(num, cat), **parts)

    def without_repeats(self) -> Pool:
        """Equal candidates of one factual count once: all but the first become invalid."""
        # Adding zero turns −0.0 into 0.0: equal rows must have equal bits.
        num, cat = np.ascontiguousarray(self.rows.num.numpy() + np.float32(0)), self.rows.cat.numpy()
        cells = np.concatenate([num.view(np.int32).astype(np.int64), cat], 2).astype(np.uint64)
        keys = np.zeros(cells.shape[:2], dtype=np.uint64)
        for column in np.moveaxis(cells, 2, 0):
            keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, axis=1, kind="stable")
        ordered = np.take_along_axis(keys, order, 1)
        repeated = np.zeros_like(self.valid)
        repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        first = np.empty_like(repeated)
        np.put_along_axis(first, order, ~repeated, 1)
        return replace(self, valid=self.valid & first, accepted=self.accepted & first)


def score(pool: Pool) -> Keys:
    """Highest expected score: what judges are expected to say, minus the burden per column.

    The metric of Garg et al. (ICLR 2025), validity + plausibility − cost / D, with what is known before judgement.
    """
    columns = pool.rows.num.shape[2] + pool.rows.cat.shape[2]
    return (pool.burden / columns - pool.expected,)


def cheapest(pool: Pool) -> Keys:
    """Least cost among accepted candidates; where those run out, those of which the auditor expects most."""
    return ~pool.accepted, np.where(pool.accepted, pool.cost, -pool.expected)


def confident(pool: Pool) -> Keys:
    """Highest classifier probability, accepted candidates first (GenRe's choice without an audit)."""
    return ~pool.accepted, -pool.probability


def ranked(pool: Pool, keys: Keys, n: int, cost: RecourseCost | None = None) -> np.ndarray:
    """The n best, each on its own."""
    order = np.lexsort((*reversed(keys), ~pool.valid))[:, :n]
    chosen = np.full((len(pool.valid), n), -1)
    chosen[:, : order.shape[1]] = np.where(np.take_along_axis(pool.valid, order, 1), order, -1)
    return chosen


def apart(pool: Pool, keys: Keys, n: int, cost: RecourseCost) -> np.ndarray:
    """The best, then always the one that is furthest from the nearest of those chosen so far; accepted ones first.

    Greedy max-min dispersion, where the distance of two answers is the recourse cost from one to the other: the least
    distance within the n is at least half of that within any other n accepted candidates (Ravi, Rosenkrantz and Tayi,
    "Heuristic and Special Case Algorithms for Dispersion Problems", Operations Research, 1994). DiCE (Mothilal, Sharma
    and Tan, FAT* 2020) asks for the same by the determinant of a kernel.
    """
    chosen, people, left = ranked(pool, keys, 1, cost), np.arange(len(pool.valid)), pool.valid.copy()
    gap = np.full(left.shape, np.inf)
    for _ in range(1, n):
        last = chosen[:, -1:]
        left[people, last[:, 0]] = False
        here = pool.pick(last).rows
        gap = np.minimum(gap, cost(Rows(here.num[:, 0], here.cat[:, 0]), pool.rows).numpy())
        accepted = left & pool.accepted
        asked = np.where(accepted.any(1, keepdims=True), accepted, left)
        furthest = np.where(asked, gap, -1.0).argmax(1)
        chosen = np.concatenate([chosen, np.where(asked.any(1), furthest, -1)[:, None]], 1)
    return chosen


def along_front(pool: Pool, keys: Keys, n: int, cost: RecourseCost) -> np.ndarray:
    """The `front` in order of cost; where it has more than n, its two ends and n − 2 in even steps between them. One
    alone is the cheapest."""
    on = front(pool)
    order, count = np.lexsort((pool.cost, ~on)), on.sum(1, keepdims=True)
    taken, place = np.minimum(count, n), np.arange(n)
    at = np.rint(place * (count - 1) / np.maximum(taken - 1, 1)).astype(np.int64).clip(0, order.shape[1] - 1)
    return np.where(place < taken, np.take_along_axis(order, at, 1), -1)


def front(pool: Pool) -> np.ndarray:
    """Bool ``(B, S)``: accepted candidates (valid ones, where none is accepted) to which there is no alternative with a
    higher probability at no higher cost, or as high a one at a lower cost. Of equals, the first counts."""
    asked = np.where(pool.accepted.any(1, keepdims=True), pool.accepted, pool.valid)
    probability = np.where(asked, pool.probability, -np.inf)
    order = np.lexsort((-probability, np.where(asked, pool.cost, np.inf)))
    rising = np.take_along_axis(probability, order, 1)
    higher = np.ones_like(asked)
    higher[:, 1:] = rising[:, 1:] > np.maximum.accumulate(rising, 1)[:, :-1]
    on = np.empty_like(asked)
    np.put_along_axis(on, order, higher, 1)
    return on & asked


@dataclass(frozen=True)
class Policy:
    """What makes one candidate better than another, for the same factual, and which of them are chosen.

    keys: ``Pool`` to arrays ``(B, S)``: least is best, by the first key, then the next. wants: ``Pool`` to bool
    ``(B, S)``: the candidates of which a search looks for n before it stops drawing. choice: `ranked`, or another
    function of a pool, its keys, n and the recourse cost, to int64 ``(B, n)``. keeps_origins: an answer that was made
    sparse does not replace the one that it was made from; both may be chosen. no_other: how it is said that there are
    fewer than n.
    """

    keys: Callable[[Pool], Keys]
    wants: Callable[[Pool], np.ndarray]
    choice: Callable[[Pool, Keys, int, RecourseCost], np.ndarray] = ranked
    keeps_origins: bool = False
    no_other: str = "no other answer"

    def done(self, pool: Pool, n: int) -> np.ndarray:
        """Bool ``(B,)``: who needs no further candidates."""
        return self.wants(pool).sum(1) >= n

    def choose(self, pool: Pool, n: int, cost: RecourseCost) -> np.ndarray:
        """Int64 ``(B, n)``: positions of the chosen valid candidates, in the order of their ranks, equal ones as they
        were drawn; −1 where there are no more. cost: between two candidates."""
        return self.choice(pool, self.keys(pool), n, cost)

    def better(self, pool: Pool, other: Pool) -> np.ndarray:
        """Bool ``(B, S)``: candidates that are better than those in the same place of another pool."""
        less, equal = np.zeros(pool.valid.shape, dtype=bool), np.ones(pool.valid.shape, dtype=bool)
        for one, two in zip(self.keys(pool), self.keys(other), strict=True):
            less |= equal & (one < two)
            equal &= one == two
        return less


VALID, ACCEPTED = attrgetter("valid"), attrgetter("accepted")
POLICIES = {
    "score": Policy(score, VALID),
    "cheapest": Policy(cheapest, ACCEPTED),
    "confident": Policy(confident, ACCEPTED),
    "diverse": Policy(cheapest, ACCEPTED, apart),
    "pareto": Policy(
        cheapest,
        lambda pool: front(pool) & pool.accepted,
        along_front,
        keeps_origins=True,
        no_other="no other answer on the front",
    ),
}


def policy(name: str) -> Policy:
    """Raises ValueError, listing what exists, for an unknown name."""
    if not isinstance(name, str) or name not in POLICIES:
        raise ValueError(f"unknown selection {name!r}; known are: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]


def _written(values: np.ndarray, at: np.ndarray, new: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[at] = new
    return values
