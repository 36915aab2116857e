"""What each factual of a batch may become, as masks and bounds that samplers enforce."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema


@dataclass
class Feasible:
    """What each factual of a batch may end on. B rows, C token columns, L levels (padded), N continuous columns.

    tokens: bool ``(B, C, L)``. low, high: float32 ``(B, N)``, scaled like ``Rows.num``; raw_low, raw_high: the same
    in raw units (float64). stay: bool ``(B, D)``, may the column keep its value. max_changes: as in `Constraints`.
    ordered: pairs (a, b) of column positions with value a ≤ value b, transitively closed; tokens and bounds are
    already consistent with it, so any admissible first choice can be completed. raw: float64 ``(B, D)``, the factuals'
    numbers. reasons: per row, why nothing is feasible, or "".
    """

    tokens: Tensor
    low: Tensor
    high: Tensor
    raw_low: np.ndarray
    raw_high: np.ndarray
    stay: Tensor
    max_changes: int | None
    ordered: list[tuple[int, int]]
    raw: Tensor
    reasons: list[str]

    def take(self, keep: np.ndarray) -> Feasible:
        """The feasible sets of the rows at `keep` (bool or int64)."""
        index = np.arange(len(self.reasons))[keep]
        select = torch.from_numpy(index)
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in parts.items():
            if isinstance(value, Tensor):
                parts[name] = value[select]
            elif isinstance(value, np.ndarray):
                parts[name] = value[index]
        parts["reasons"] = [self.reasons[i] for i in index]
        return Feasible(**parts)

    def to(self, device: torch.device | str) -> Feasible:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def admits(self, rows: Rows) -> Tensor:
        """Bool ``(B, M)``: which of M rows each factual may become, column by column (not max_changes, ordered)."""
        admitted = torch.ones(self.tokens.shape[0], rows.batch_size, dtype=torch.bool, device=rows.cat.device)
        if not rows.batch_size:
            return admitted
        if self.tokens.shape[1]:
            # Where every factual may take every level that is in use, there is nothing to ask.
            used = torch.zeros(self.tokens.shape[1:], dtype=torch.bool, device=rows.cat.device).scatter_(
                1, rows.cat.T, True
            )
            tight = (~self.tokens.all(0) & used).any(1)
            if tight.any():
                # One matrix product counts, over the restricted columns, how many tokens of each row are admitted.
                width = int(rows.cat[:, tight].max()) + 1
                asked = rows.cat[:, tight]
                codes = self.low.new_zeros(*asked.shape, width).scatter_(2, asked[..., None], 1.0)
                hits = self.tokens[:, tight, :width].flatten(1).float() @ codes.flatten(1).T
                admitted &= hits > tight.sum() - 0.5
        for n in torch.nonzero((self.low > rows.num.amin(0)).any(0) | (self.high < rows.num.amax(0)).any(0)).flatten():
            admitted &= (rows.num[:, n] >= self.low[:, n, None]) & (rows.num[:, n] <= self.high[:, n, None])
        return admitted

    def settle(self, schema: Schema, factual: Rows, drawn: Rows) -> Rows:
        """`drawn` ``(B, S, ·)`` moved to where it obeys: the last line of a sampler that cannot look ahead.

        Tokens go to the nearest admitted level, numbers into their bounds. Of an ordered pair, b is raised to a. Beyond
        max_changes, the columns that move least go back (a change of category counts as a whole range). A draw that
        obeys already is returned as it is, so samplers that mask and clip lose nothing. Ordered pairs together with
        max_changes may leave a draw that breaks one of the two.
        """
        num = drawn.num.clamp(self.low[:, None], self.high[:, None])
        cat, size = drawn.cat.clone(), self.tokens.shape[2]
        refused = ~self.tokens[:, None].expand(-1, cat.shape[1], -1, -1).gather(3, cat[..., None])[..., 0]
        b, s, c = refused.nonzero(as_tuple=True)
        distance = (torch.arange(size, device=cat.device) - cat[b, s, c][:, None]).abs()
        cat[b, s, c] = distance.masked_fill(~self.tokens[b, c], size).argmin(1)
        settled = Rows(num, cat)
        if self.ordered:
            settled = self._raise(schema, factual, settled)
        return settled if self.max_changes is None else self._limit(schema, factual, settled, self.max_changes)

    def _limit(self, schema: Schema, factual: Rows, drawn: Rows, most: int) -> Rows:
        """Put back all but the `most` columns that have to move or move furthest."""
        own = Rows(factual.num[:, None], factual.cat[:, None])
        steps = torch.tensor([len(f.levels) - 1 if f.kind == "ordinal" else 1 for f in schema.tokens], dtype=torch.long)
        moved = (drawn.cat - own.cat).abs() / steps.clamp(min=1).to(own.cat.device)
        moved = torch.cat([moved.clamp(max=1.0), (drawn.num - own.num).abs()], 2)
        place = [d for d, t, _ in schema.places if t is not None] + [d for d, _, n in schema.places if n is not None]
        forced = ~self.stay[:, place][:, None].expand_as(moved)
        # Stable, or equal moves would be told apart by their place in memory.
        rank = moved.masked_fill(forced, math.inf).argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        keep = rank < most
        tokens = len(schema.tokens)
        return Rows(
            torch.where(keep[..., tokens:], drawn.num, own.num), torch.where(keep[..., :tokens], drawn.cat, own.cat)
        )

    def _raise(self, schema: Schema, factual: Rows, drawn: Rows) -> Rows:
        """Raise b to the least admissible value of at least a, for all ordered pairs (a, b)."""
        num, cat, place = drawn.num.clone(), drawn.cat.clone(), {d: (t, n) for d, t, n in schema.places}
        raw: dict[int, Tensor] = {}
        # Pairs are transitively closed, so whoever has fewer columns below comes first; and every admissible value of
        # a has some admissible b above it, so one sweep is enough.
        below = {d: [a for a, b in self.ordered if b == d] for pair in self.ordered for d in pair}
        for d in sorted(below, key=lambda d: len(below[d])):
            (t, n), feature, own = place[d], schema.features[d], self.raw[:, d, None]
            floor = torch.stack([raw[a] for a in below[d]]).amax(0) if below[d] else None
            if t is not None:
                levels = own.new_tensor(feature.levels).repeat(len(own), 1)
                levels.scatter_(1, factual.cat[:, t, None], own)  # the factual's token stands for its own number
                if floor is not None:
                    above = self.tokens[:, None, t, : levels.shape[1]] & (levels[:, None] >= floor[..., None])
                    least = levels[:, None].expand_as(above).masked_fill(~above, math.inf).argmin(2)
                    cat[..., t] = torch.where(levels.gather(1, cat[..., t]) < floor, least, cat[..., t])
                raw[d] = levels.gather(1, cat[..., t])
            else:
                assert feature.bounds is not None
                (low, high), today = feature.bounds, factual.num[:, n, None]
                raw[d] = torch.where(num[..., n] == today, own, decoded(feature, num[..., n]))
                if floor is not None:
                    scaled = ((floor - low) / (high - low)).float()
                    up = torch.nextafter(scaled, torch.full_like(scaled, math.inf))
                    scaled = torch.where(decoded(feature, scaled) < floor, up, scaled)
                    scaled = scaled.clamp(self.low[:, n, None], self.high[:, n, None])
                    num[..., n] = torch.where(raw[d] < floor, scaled, num[..., n])
                    raw[d] = torch.where(num[..., n] == today, own, decoded(feature, num[..., n]))
        return Rows(num, cat)


def decoded(feature: Feature, scaled: Tensor) -> Tensor:
    """The raw number, float64, that a scaled one of a continuous column is decoded to and stored as."""
    assert feature.bounds is not None
    low, high = feature.bounds
    raw = low + scaled.double() * (high - low)
    if feature.storage.kind in "iu":
        return raw.round()
    return raw.float().double() if feature.storage.itemsize < 8 else raw


def own_levels(feature: Feature, own: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Per-row level values ``(B, L)``, with the factual's own value in place of the level it was encoded as."""
    dtype = np.float64 if feature.kind == "ordinal" else object
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


def propagate(
    schema: Schema,
    order: list[tuple[int, int]],
    tokens: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    raw: np.ndarray,
    cat: np.ndarray,
) -> None:
    """Narrow tokens and bounds, in place, until every remaining value of a has some b ≥ a and the other way round."""
    involved = sorted({d for pair in order for d in pair})
    place = {d: (t, n) for d, t, n in schema.places if d in involved}
    # A token's raw values ``(B, L)``; the rest of this function never looks at levels that the column does not have.
    levels = {d: own_levels(schema.features[d], raw[:, d], cat[:, t]) for d, (t, _) in place.items() if t is not None}

    def ends(d: int) -> tuple[np.ndarray, np.ndarray]:
        t, n = place[d]
        if n is not None:
            return low[:, n], high[:, n]
        admitted = tokens[:, t, : levels[d].shape[1]]
        return np.where(admitted, levels[d], np.inf).min(1), np.where(admitted, levels[d], -np.inf).max(1)

    for _ in involved:
        for a, b in order:
            (least, _), (_, most) = ends(a), ends(b)
            for d in (a, b):
                t, n = place[d]
                if n is None:
                    inside = (levels[d] >= least[:, None]) & (levels[d] <= most[:, None])
                    tokens[:, t, : inside.shape[1]] &= inside
                else:
                    bounds = np.maximum(low[:, n], least), np.minimum(high[:, n], most)
                    low[:, n], high[:, n] = inward(schema.features[d], *bounds)
