"""Choosing among candidates. A policy is one function from a pool to the keys that order its candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recourse_gen.rows import Rows

Keys = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Pool:
    """S scored candidates for each of B factuals. All arrays are ``(B, S)``; rows are ``(B, S, ·)``.

    probability: the classifier's. cost: recourse cost. burden: the cost, and what is added for every changed column
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
    """Least burden among accepted candidates; where those run out, those of which the auditor expects most."""
    return ~pool.accepted, np.where(pool.accepted, pool.burden, -pool.expected)


def confident(pool: Pool) -> Keys:
    """Highest classifier probability, accepted candidates first (GenRe's choice without an audit)."""
    return ~pool.accepted, -pool.probability


@dataclass(frozen=True)
class Policy:
    """What makes one candidate better than another, for the same factual.

    keys: ``Pool`` to arrays ``(B, S)``: least is best, by the first key, then the next. wants: the flags of a pool,
    ``accepted`` or ``valid``, of which a search looks for n before it stops drawing.
    """

    keys: Callable[[Pool], Keys]
    wants: str

    def done(self, pool: Pool, n: int) -> np.ndarray:
        """Bool ``(B,)``: who needs no further candidates."""
        return getattr(pool, self.wants).sum(1) >= n

    def choose(self, pool: Pool, n: int) -> np.ndarray:
        """Int64 ``(B, n)``: positions of the best valid candidates, best first and equal ones as they were drawn; −1
        where there are no more."""
        order = np.lexsort((*reversed(self.keys(pool)), ~pool.valid))[:, :n]
        chosen = np.full((len(pool.valid), n), -1)
        chosen[:, : order.shape[1]] = np.where(np.take_along_axis(pool.valid, order, 1), order, -1)
        return chosen

    def better(self, pool: Pool, other: Pool) -> np.ndarray:
        """Bool ``(B, S)``: candidates that are better than those in the same place of another pool."""
        less, equal = np.zeros(pool.valid.shape, dtype=bool), np.ones(pool.valid.shape, dtype=bool)
        for one, two in zip(self.keys(pool), self.keys(other), strict=True):
            less |= equal & (one < two)
            equal &= one == two
        return less


POLICIES = {
    "score": Policy(score, "valid"),
    "cheapest": Policy(cheapest, "accepted"),
    "confident": Policy(confident, "accepted"),
}


def policy(name: str) -> Policy:
    """Raises ValueError, listing what exists, for an unknown name."""
    if name not in POLICIES:
        raise ValueError(f"unknown selection {name!r}; known are: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]


def _written(values: np.ndarray, at: np.ndarray, new: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[at] = new
    return values
