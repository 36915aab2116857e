"""Choosing among candidates. A policy is one function from a pool and n to the chosen candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from recourse_gen.rows import Rows


@dataclass(frozen=True)
class Pool:
    """S scored candidates for each of B factuals. All arrays are ``(B, S)``; rows are ``(B, S, ·)``.

    probability: the classifier's. cost: recourse cost. valid: obeys the constraints, the classifier says yes with the
    confidence asked for, and no earlier candidate is the same. consensus, plausibility: the auditor's opinions, NaN
    where it was not asked. expected: see `Auditor.expected`, 0 where it was not asked.
    accepted: valid, and the auditor agrees (or was not asked).
    """

    rows: Rows
    probability: np.ndarray
    cost: np.ndarray
    valid: np.ndarray
    consensus: np.ndarray
    plausibility: np.ndarray
    expected: np.ndarray
    accepted: np.ndarray

    def take(self, keep: np.ndarray) -> Pool:
        parts = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "rows"}
        return Pool(rows=self.rows.take(torch.from_numpy(keep)), **parts)

    def extend(self, other: Pool) -> Pool:
        """The same factuals with the candidates of both pools."""
        parts = {
            f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)], 1)
            for f in fields(self)
            if f.name != "rows"
        }
        rows = Rows(torch.cat([self.rows.num, other.rows.num], 1), torch.cat([self.rows.cat, other.rows.cat], 1))
        return Pool(rows=rows, **parts).without_repeats()

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


def score(pool: Pool, n: int) -> np.ndarray:
    """Highest expected score among valid candidates: what judges are expected to say, minus the cost per column.

    The metric of Garg et al. (ICLR 2025), validity + plausibility − cost / D, with what is known before judgement.
    """
    columns = pool.rows.num.shape[2] + pool.rows.cat.shape[2]
    return _best(pool, n, pool.cost / columns - pool.expected)


def cheapest(pool: Pool, n: int) -> np.ndarray:
    """Least cost among accepted candidates; where those run out, the valid ones of which the auditor expects most."""
    return _best(pool, n, ~pool.accepted, np.where(pool.accepted, pool.cost, -pool.expected))


def confident(pool: Pool, n: int) -> np.ndarray:
    """Highest classifier probability among valid candidates, accepted ones first (GenRe's choice without an audit)."""
    return _best(pool, n, ~pool.accepted, -pool.probability)


@dataclass(frozen=True)
class Policy:
    """choose: ``(Pool, n) → int64 (B, n)``, positions of the chosen candidates, best first, −1 where there is none.
    wants: the flags of a pool, ``accepted`` or ``valid``, of which it looks for n before it stops drawing.
    """

    choose: Callable[[Pool, int], np.ndarray]
    wants: str

    def done(self, pool: Pool, n: int) -> np.ndarray:
        """Bool ``(B,)``: who needs no further candidates."""
        return getattr(pool, self.wants).sum(1) >= n


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


def _best(pool: Pool, n: int, *keys: np.ndarray) -> np.ndarray:
    """Valid candidates by least keys ``(B, S)``, the first key first; equal ones in the order they were drawn."""
    order = np.lexsort((*keys[::-1], ~pool.valid))[:, :n]
    chosen = np.full((len(pool.cost), n), -1)
    chosen[:, : order.shape[1]] = np.where(np.take_along_axis(pool.valid, order, 1), order, -1)
    return chosen
