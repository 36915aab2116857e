"""What each factual of a batch may become, as masks and bounds that samplers enforce."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    already consistent with it, so any admissible first choice can be completed. together: disjoint groups of column
    positions of which all change or none; tokens, bounds and stay are consistent with that too. raw: float64
    ``(B, D)``, the factuals' numbers. reasons: per row, why nothing is feasible, or "".
    """

    tokens: Tensor
    low: Tensor
    high: Tensor
    raw_low: np.ndarray
    raw_high: np.ndarray
    stay: Tensor
    max_changes: int | None
    ordered: list[tuple[int, int]]
    together: list[list[int]]
    raw: Tensor
    reasons: list[str]

    @property
    def tied(self) -> bool:
        """Whether what a column may become depends on what other columns become."""
        return self.max_changes is not None or bool(self.ordered) or bool(self.together)

    @property
    def idle(self) -> Tensor:
        """Bool ``(B,)``: whose every column may be what it is today, and nothing else."""
        return self.stay.all(1) & (self.tokens.sum(2) <= 1).all(1) & (self.low >= self.high).all(1)

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

    @classmethod
    def join(cls, parts: Sequence[Feasible]) -> Feasible:
        """The feasible sets of all rows, one batch after the other. They share max_changes, ordered and together."""
        assert len({repr((part.max_changes, part.ordered, part.together)) for part in parts}) == 1
        joined: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], Tensor):
                joined[name] = torch.cat(values)
            elif isinstance(values[0], np.ndarray):
                joined[name] = np.concatenate(values)
        return replace(parts[0], **joined, reasons=[reason for part in parts for reason in part.reasons])

    def to(self, device: torch.device | str) -> Feasible:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def forced(self, schema: Schema) -> list[str]:
        """Per row, what today's values do not keep to, as ``income, used ≤ limit``: columns that have to change, then
        ordered pairs of which one column has to; "" where everything may stay."""
        between = {(a, c) for a, b in self.ordered for d, c in self.ordered if b == d}
        pairs = [pair for pair in self.ordered if pair not in between]
        names = [*schema.names, *(f"{schema.names[a]} ≤ {schema.names[b]}" for a, b in pairs)]
        raw, stay = self.raw.cpu().numpy(), self.stay.cpu().numpy()
        broken = np.concatenate([~stay, *(raw[:, [a]] > raw[:, [b]] for a, b in pairs)], 1)
        told = np.full(len(broken), "", dtype=object)
        for i in np.flatnonzero(broken.any(1)):
            told[i] = ", ".join(np.array(names)[broken[i]])
        return told.tolist()

    def admits(self, schema: Schema, factual: Rows, rows: Rows) -> Tensor:
        """Bool ``(B, M)``: which of M rows each factual may become (not by max_changes and ordered, which need raw
        values or a count over all columns)."""
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
        for group in self.together:
            ours, theirs = (_cells(schema, each, group) for each in (factual, rows))
            changes = torch.cdist(ours, theirs, p=0.0)
            admitted &= (changes < 0.5) | (changes > len(group) - 0.5)
        return admitted

    def admits_each(self, schema: Schema, factual: Rows, rows: Rows) -> Tensor:
        """Bool ``(B, P)``: the same where every factual has P rows of its own, ``(B, P, ·)``."""
        admitted = (rows.num >= self.low[:, None]).all(2) & (rows.num <= self.high[:, None]).all(2)
        for c in torch.nonzero(~self.tokens.all(0).all(1)).flatten():
            admitted &= self.tokens[:, c].gather(1, rows.cat[:, :, c])
        for group in self.together:
            ours, theirs = (_cells(schema, each, group) for each in (factual, rows))
            changes = (ours[:, None] != theirs).sum(2)
            admitted &= (changes == 0) | (changes == len(group))
        return admitted

    def settle(self, schema: Schema, factual: Rows, drawn: Rows) -> Rows:
        """`drawn` ``(B, S, ·)`` moved to where it obeys: the last line of a sampler that cannot look ahead.

        Tokens go to the nearest admitted level, numbers into their bounds. Of an ordered pair, b is raised to a. Beyond
        max_changes, the columns that move least go back (a change of category counts as a whole range). Groups of which
        only a part moves go back too, unless they have to move. A draw that obeys already is returned as it is, so
        samplers that mask and clip lose nothing. Ordered pairs beside max_changes or together may leave a draw that
        breaks one of them.
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
        settled = self._unite(schema, factual, settled)
        if self.max_changes is None:
            return settled
        return self._unite(schema, factual, self._limit(schema, factual, settled, self.max_changes))

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

    def _unite(self, schema: Schema, factual: Rows, drawn: Rows) -> Rows:
        """Put groups back that change in part; move the numbers of those that have to change."""
        num, cat = drawn.num.clone(), drawn.cat.clone()
        for group in self.together:
            moved = {}
            for d, t, n in (schema.places[d] for d in group):
                if n is None:
                    moved[d] = cat[..., t] != factual.cat[:, None, t]
                    continue
                feature, today = schema.features[d], factual.num[:, None, n].expand(-1, num.shape[1])
                same = (num[..., n] == today) | (decoded(feature, num[..., n]) == self.raw[:, None, d])
                other = elsewhere(feature, today, self.low[:, None, n], self.high[:, None, n])
                leaves = ~self.stay[:, None, d] & same
                num[..., n] = torch.where(leaves, other, torch.where(same, today, num[..., n]))
                moved[d] = ~same | leaves
            whole = torch.stack(list(moved.values())).all(0)
            for _, t, n in (schema.places[d] for d in group):
                if n is None:
                    cat[..., t] = torch.where(whole, cat[..., t], factual.cat[:, None, t])
                else:
                    num[..., n] = torch.where(whole, num[..., n], factual.num[:, None, n])
        return Rows(num, cat)

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


def elsewhere(feature: Feature, today: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A scaled value of a continuous column that is in its bounds and not today's: a hundredth of the range away, whole
    numbers at least one, where there is room; upwards first. Today's where the bounds leave nothing else."""
    assert feature.bounds is not None
    least, span = feature.bounds[0], feature.bounds[1] - feature.bounds[0]
    whole = feature.storage.kind in "iu"
    step = max(0.01, 1 / span) if whole else 0.01
    furthest = torch.where(high - today >= today - low, high, low)
    value = torch.where(today - step >= low, today - step, furthest)
    value = torch.where(today + step <= high, today + step, value)
    return (((least + value.double() * span).round() - least) / span).float() if whole else value


def _cells(schema: Schema, rows: Rows, columns: list[int]) -> Tensor:
    """Float32 ``(..., ·)``: the encoded cells of columns at these positions; level indices are far below 2²⁴."""
    places = [schema.places[d] for d in columns]
    return torch.stack([rows.num[..., n] if t is None else rows.cat[..., t].float() for _, t, n in places], -1)
