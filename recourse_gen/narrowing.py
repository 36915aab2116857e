"""What rules leave of each column's values: bounds that a dtype can hold, and columns that are tied to one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recourse_gen.schema import Feature, Schema


@dataclass
class Room:
    """The values that each factual of a batch may still end on. Methods narrow them in place.

    tokens: bool ``(B, C, L)``. low, high: float64 ``(B, N)``, raw. raw: float64 ``(B, D)``, the factuals' numbers, and
    cat: int64 ``(B, C)``, their tokens. leave: bool ``(B, D)``, numbers that have to change because others do.
    """

    schema: Schema
    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray
    raw: np.ndarray
    cat: np.ndarray

    def __post_init__(self) -> None:
        self.leave = np.zeros(self.raw.shape, dtype=bool)

    def tie(self, order: list[tuple[int, int]], groups: list[list[int]], most: float) -> np.ndarray:
        """Narrow until ordered pairs, groups that change together and the number of changes leave each other alone.

        order: pairs (a, b) of positions with a ≤ b, transitively closed. groups: of positions, disjoint. Returns int64
        ``(B,)``: the group of which one column has to change and another may not, −1 where there is none.
        """
        torn = np.full(len(self.raw), -1)
        self._order(order)
        while groups and self._unite(order, groups, most, torn):
            self._order(order)
        return torn

    def stays(self, d: int) -> np.ndarray:
        """Bool ``(B,)``: may the column keep its value?"""
        _, t, n = self.schema.places[d]
        if n is not None:
            return (self.low[:, n] <= self.raw[:, d]) & (self.raw[:, d] <= self.high[:, n]) & ~self.leave[:, d]
        return self.tokens[np.arange(len(self.cat)), np.full(len(self.cat), t), self.cat[:, t]]

    def moves(self, d: int) -> np.ndarray:
        """Bool ``(B,)``: may the column change? A number needs another float32 to go to."""
        _, t, n = self.schema.places[d]
        if n is None:
            return self.tokens[:, t].sum(1) > self.stays(d)
        scaled = self.schema.features[d].scaled
        low, own, high = (scaled(x).astype(np.float32) for x in (self.low[:, n], self.raw[:, d], self.high[:, n]))
        return (self.low[:, n] <= self.high[:, n]) & ((low != own) | (high != own))

    def _unite(self, order: list[tuple[int, int]], groups: list[list[int]], most: float, torn: np.ndarray) -> bool:
        """Let groups change as a whole where a column of theirs has to, or one of two that are out of order, and stay
        where one cannot change or where there are too few changes for all. Tells whether that narrowed anything."""
        narrowed = False
        forced = sum((~self.stays(d) for d in range(len(self.schema.features))), np.zeros(len(self.raw), dtype=int))
        for g, group in enumerate(groups):
            stay, move = (np.stack([ask(d) for d in group], 1) for ask in (self.stays, self.moves))
            must, may = ~np.all(stay, 1), np.all(move, 1)
            for a, b in order:
                if a in group and b in group:
                    must |= self.raw[:, a] > self.raw[:, b]
            torn[must & ~may] = g
            for d, stays in zip(group, stay.T, strict=True):
                self._leave(d, must & stays)
            forced += (must[:, None] & stay).sum(1)
            may &= forced + len(group) <= most
            for d, moves in zip(group, move.T, strict=True):
                self._pin(d, ~must & ~may & moves)
            narrowed |= bool((must & stay.any(1)).any() or (~must & ~may & move.any(1)).any())
        return narrowed

    def _leave(self, d: int, rows: np.ndarray) -> None:
        """The column has to change in `rows`, bool ``(B,)``."""
        _, t, n = self.schema.places[d]
        if n is not None:
            stuck = rows & ~self.moves(d)
            self.leave[rows, d] = True
            self.low[stuck, n], self.high[stuck, n] = np.inf, -np.inf
        else:
            self.tokens[rows, t, self.cat[rows, t]] = False

    def _pin(self, d: int, rows: np.ndarray) -> None:
        """The column keeps its value in `rows`, bool ``(B,)``, where it may."""
        _, t, n = self.schema.places[d]
        if n is not None:
            self.low[rows, n] = self.high[rows, n] = self.raw[rows, d]
        else:
            self.tokens[rows, t] = False
            self.tokens[rows, t, self.cat[rows, t]] = True

    @cached_property
    def _levels(self) -> dict[int, np.ndarray]:
        """Raw values ``(B, L)`` of each ordinal column's tokens."""
        features = self.schema.features
        return {
            d: own_levels(features[d], self.raw[:, d], self.cat[:, t])
            for d, t, _ in self.schema.places
            if t is not None and features[d].kind == "ordinal"
        }

    def _order(self, order: list[tuple[int, int]]) -> None:
        """Narrow until every remaining value of a has some b ≥ a and the other way round."""
        involved = {d for pair in order for d in pair}
        for _ in involved:
            for a, b in order:
                (least, _), (_, most) = self._ends(a), self._ends(b)
                for d in (a, b):
                    _, t, n = self.schema.places[d]
                    if n is None:
                        inside = (self._levels[d] >= least[:, None]) & (self._levels[d] <= most[:, None])
                        self.tokens[:, t, : inside.shape[1]] &= inside
                    else:
                        bounds = np.maximum(self.low[:, n], least), np.minimum(self.high[:, n], most)
                        self.low[:, n], self.high[:, n] = inward(self.schema.features[d], *bounds)

    def _ends(self, d: int) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest value ``(B,)`` that a numeric column may still take."""
        _, t, n = self.schema.places[d]
        if n is not None:
            return self.low[:, n], self.high[:, n]
        admitted = self.tokens[:, t, : self._levels[d].shape[1]]
        return np.where(admitted, self._levels[d], np.inf).min(1), np.where(admitted, self._levels[d], -np.inf).max(1)


def own_levels(feature: Feature, own: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Per-row level values ``(B, L)``, with the factual's own value in place of the level it was encoded as."""
    dtype: Any = np.float64 if feature.kind == "ordinal" else object
    if feature.kind == "ordinal" and own.dtype.kind in "iu" and feature.storage.kind in "iu":
        dtype = np.promote_types(own.dtype, feature.storage)  # float64 does not tell large whole numbers apart
    values = np.repeat(np.asarray(feature.levels, dtype=dtype)[None], len(own), 0)
    values[np.arange(len(own)), code] = own
    return values


def inward(feature: Feature, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest bounds ``(B,)`` inside these that the column's dtype can hold: what is decoded is stored in it."""
    if feature.storage.kind in "iu":
        return np.ceil(low), np.floor(high)
    first, last = low.astype(feature.storage), high.astype(feature.storage)
    first = np.where(first < low, np.nextafter(first, np.inf, dtype=feature.storage), first)
    last = np.where(last > high, np.nextafter(last, -np.inf, dtype=feature.storage), last)
    return first.astype(np.float64), last.astype(np.float64)


def closure(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    closed = {(a, b) for a, b in pairs}
    while more := {(a, d) for a, b in closed for c, d in closed if b == c} - closed:
        closed |= more
    return sorted(closed)


def united(groups: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Groups that share a member as one, each sorted."""
    whole: list[set[Any]] = []
    for group in groups:
        touching = [other for other in whole if other & set(group)]
        whole = [other for other in whole if other not in touching] + [set(group).union(*touching)]
    return sorted(sorted(group) for group in whole)
