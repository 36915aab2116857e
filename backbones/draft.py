"""Drawing a counterfactual one column at a time without ever leaving what its factual may become."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recourse_gen.constraints import Feasible, decoded, elsewhere
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature

if TYPE_CHECKING:
    from backbones.alphabet import Alphabet


class Draft:
    """R counterfactuals filled in column by column, in schema order, inside what their factuals may become.

    owner: int64 ``(R,)``, each draft's factual. `mask`, then `emit` or `place`, are called once per column. open: bool
    ``(B, D, L)``, which says the same as all masks; None without rules, and where one looks at several columns (tied).
    """

    def __init__(self, alphabet: Alphabet, factual: Rows, owner: Tensor, feasible: Feasible | None) -> None:
        self.alphabet, self.factual, self.owner, self.feasible = alphabet, factual, owner, feasible
        self.own, self.places = alphabet.codes(factual), alphabet.schema.places
        self.num = factual.num.new_zeros(len(owner), factual.num.shape[1])
        self.cat = factual.cat.new_zeros(len(owner), factual.cat.shape[1])
        self.tied = feasible is not None and feasible.tied
        self.open = None if feasible is None or self.tied else self._open(feasible)
        if feasible is not None and self.tied:
            self.pinned = torch.zeros_like(owner, dtype=torch.bool)
            self.changes = torch.zeros_like(owner)
            # May each column still keep its value, given the columns drawn so far?
            self.stay = feasible.stay[owner]
            self.raw = torch.zeros(len(owner), len(self.places), dtype=torch.float64, device=owner.device)
            # The first column drawn of a group that changes together decides for the others: `stay` or `still`.
            self.groups = {d: group for group in feasible.together for d in group}
            self.still = torch.zeros_like(self.stay)

    def mask(self, column: int) -> Tensor:
        """Bool ``(R, size)``: codes that the column may take, given the columns before it."""
        size, (_, t, n), f = self.alphabet.sizes[column], self.places[column], self.feasible
        if f is None:
            return torch.ones(len(self.owner), size, dtype=torch.bool, device=self.owner.device)
        if self.open is not None:
            return self.open[:, column, :size][self.owner]
        free, group = None, self.groups.get(column, [])
        self.pinned = self.still[:, column]
        if f.max_changes is not None:
            # Later columns that cannot stay as they are have their changes spoken for, and a group has to change whole.
            free = f.max_changes - self.changes - (~self.stay[:, column + 1 :]).sum(1)
            free = free - self.stay[:, [d for d in group if d > column]].sum(1)
            self.pinned = self.pinned | (self.stay[:, column] & (free <= 0))
        for other in (d for d in group if d > column and any(d in pair for pair in f.ordered)):
            self.pinned = self.pinned | (self.stay[:, column] & ~self._can_move(other, column))
        limits = self._limits(column, free) if any(column in pair for pair in f.ordered) else None
        if t is not None:
            mask = f.tokens[:, t, :size][self.owner]
            if limits is not None:
                levels = self._levels(column)
                mask &= (levels >= limits[0][:, None]) & (levels <= limits[1][:, None])
                least, most = self._limits_of_moving(column)
                own = nn.functional.one_hot(self.own[:, column][self.owner], size).bool()
                mask &= ((levels >= least[:, None]) & (levels <= most[:, None])) | own
        else:
            self.low, self.high = f.low[self.owner, n], f.high[self.owner, n]
            if limits is not None:
                least, most = self._limits_of_moving(column)
                own_raw = f.raw[self.owner, column]
                # Where only the own value is beyond what is left to a move, the group stays as it is.
                self.pinned = self.pinned | (self.stay[:, column] & ((own_raw < least) | (own_raw > most)))
                self._narrow(column, torch.maximum(limits[0], least), torch.minimum(limits[1], most))
            cover = self.alphabet.cover[column, :size]
            ends = torch.cat([cover[1:], cover.new_tensor([math.inf])])
            mask = (cover <= self.high[:, None]) & (ends > self.low[:, None])
        own = nn.functional.one_hot(self.own[:, column][self.owner], size).bool()
        if group:
            mask &= ~(self._own_only(column, own) & ~self.stay[:, column, None])
        only_own = self.pinned | ~mask.any(1)  # an impossible draft keeps the value; the final check rejects it
        return torch.where(only_own[:, None], own, mask)

    def emit(self, column: int, codes: Tensor, uniform: Tensor) -> Tensor:
        """Fill the column with the drawn codes ``(R,)``; returns the values ``(R,)`` in scaled units."""
        _, t, _ = self.places[column]
        if t is None:
            low, high = self.alphabet.emit_low[column][codes], self.alphabet.emit_high[column][codes]
            if self.feasible is not None:
                least, most = self._interval(column)
                low, high = low.clamp(least, most), high.clamp(least, most)
            # Rounding may carry the sum a hair past the upper end.
            return self._put(column, codes, torch.minimum(low + (high - low) * uniform, high))
        feature = self.alphabet.schema.features[column]
        values = torch.zeros_like(uniform) if feature.kind == "categorical" else self.alphabet.value[column][codes]
        self.cat[:, t] = codes
        if self.tied:
            self._note(column, codes, values, codes != self.own[:, column][self.owner])
        return values

    def place(self, column: int, values: Tensor) -> Tensor:
        """Fill a continuous column with the admissible values nearest to these ``(R,)``, scaled units."""
        values = values if self.feasible is None else values.clamp(*self._interval(column))
        return self._put(column, self.own[:, column][self.owner], values)

    def rows(self) -> Rows:
        return Rows(self.num, self.cat)

    def _open(self, feasible: Feasible) -> Tensor:
        """Bool ``(B, D, L)``: codes that a column may take whatever the others do; its own where there are none, as
        the final check rejects those drafts."""
        alphabet = self.alphabet
        mask = torch.zeros(*self.own.shape, alphabet.value.shape[1], dtype=torch.bool, device=self.own.device)
        mask[:, alphabet.token_at, : feasible.tokens.shape[2]] = feasible.tokens
        cover = alphabet.cover[alphabet.number_at]
        ends = nn.functional.pad(cover[:, 1:], (0, 1), value=math.inf)
        mask[:, alphabet.number_at] = (cover <= feasible.high[..., None]) & (ends > feasible.low[..., None])
        own = nn.functional.one_hot(self.own, mask.shape[2]).bool()
        return torch.where(mask.any(2, keepdim=True), mask, own)

    def _interval(self, column: int) -> tuple[Tensor, Tensor]:
        """Scaled limits ``(R,)`` of a continuous column; narrowed by `mask` where rules look at several columns."""
        _, _, n = self.places[column]
        return (self.low, self.high) if self.tied else (self._given.low[self.owner, n], self._given.high[self.owner, n])

    @property
    def _given(self) -> Feasible:
        assert self.feasible is not None
        return self.feasible

    def _put(self, column: int, codes: Tensor, values: Tensor) -> Tensor:
        """Fill a continuous column with values inside its limits; returns them as they will be decoded."""
        feature, (_, _, n) = self.alphabet.schema.features[column], self.places[column]
        if feature.storage.kind in "iu":
            values = _scaled(feature, _raw(feature, values).round())
        if self.tied:
            today = self.factual.num[self.owner, n]
            if column in self.groups:
                # A change too small to be one in raw units is none: the others of the group would change alone.
                same = (values == today) | (decoded(feature, values) == self._given.raw[self.owner, column])
                other = torch.where(self.stay[:, column], today, elsewhere(feature, today, self.low, self.high))
                values = torch.where(same, other, values)
            values = torch.where(self.pinned, today, values)
            self._note(column, codes, values, values != today)
        self.num[:, n] = values
        return values

    def _note(self, column: int, codes: Tensor, values: Tensor, changed: Tensor) -> None:
        self.changes += changed
        first, *others = self.groups.get(column, [None])
        if first == column:
            self.stay[:, others] &= ~changed[:, None]
            self.still[:, others] = ~changed[:, None]
        if any(column in pair for pair in self._given.ordered):
            self._note_raw(column, codes, values, changed)

    def _note_raw(self, column: int, codes: Tensor, values: Tensor, changed: Tensor) -> None:
        """Note the raw number that the column will decode to, and which later columns it keeps from staying."""
        f, feature, (_, _, n) = self._given, self.alphabet.schema.features[column], self.places[column]
        own = f.raw[self.owner]
        if n is None:
            raw = self._levels(column).gather(1, codes[:, None])[:, 0]
        else:
            raw = decoded(feature, values)
            low, high = (torch.from_numpy(bound[:, n]).to(raw.device)[self.owner] for bound in (f.raw_low, f.raw_high))
            raw = torch.where(changed, raw.clamp(low, high), own[:, column])
        self.raw[:, column] = raw
        for a, b in f.ordered:
            if a == column < b:
                self.stay[:, b] &= own[:, b] >= raw
            if b == column < a:
                self.stay[:, a] &= own[:, a] <= raw
        for group in f.together:
            if column < group[0]:
                self.stay[:, group] &= self.stay[:, group].all(1, keepdim=True)

    def _own_only(self, column: int, own: Tensor) -> Tensor:
        """Bool ``(R, size)``: codes that stand for no value but the factual's. own: its code, one-hot."""
        _, _, n = self.places[column]
        if n is None:
            return own
        ends = (self.alphabet.emit_low[column], self.alphabet.emit_high[column])
        low, high = (end[: own.shape[1]].clamp(self.low[:, None], self.high[:, None]) for end in ends)
        return (low == high) & (low == self.factual.num[self.owner, n, None])

    def _limits(self, column: int, free: Tensor | None) -> tuple[Tensor, Tensor]:
        """Raw limits ``(R,)`` that ordered pairs put on this column.

        free: the changes ``(R,)`` left for this column and for later ones that it would force to move.
        """
        f = self._given
        least, most = self._edge(column, column, lower=True), self._edge(column, column, lower=False)
        for lower, pairs in ((True, [(b, a) for a, b in f.ordered]), (False, f.ordered)):
            later = [other for own, other in pairs if own == column < other]
            if free is None or not later:
                continue
            # Passing by the value of a later column makes that column move too: at most free − 1 of them can.
            away = -math.inf if lower else math.inf
            theirs = f.raw[self.owner][:, later].masked_fill(~self.stay[:, later], away)
            theirs = torch.cat([theirs.sort(1, descending=lower).values, theirs.new_full((len(theirs), 1), away)], 1)
            nearest = theirs.gather(1, (free - 1).clamp(0, len(later))[:, None])[:, 0]
            least, most = (torch.maximum(least, nearest), most) if lower else (least, torch.minimum(most, nearest))
        return least, most

    def _can_move(self, column: int, drawn: int) -> Tensor:
        """Bool ``(R,)``: may this column take another value than its own, given the first `drawn` columns?"""
        least, most = (
            self._nearest(column, self._edge(column, drawn, side), side, leaves=True) for side in (True, False)
        )
        return least <= most

    def _limits_of_moving(self, column: int) -> tuple[Tensor, Tensor]:
        """Raw limits ``(R,)`` on this column where it changes: those ordered with it in its group change too, and later
        ones have to find another value than their own on their side of it."""
        limits = []
        for lower, pairs in ((True, self._given.ordered), (False, [(b, a) for a, b in self._given.ordered])):
            limit = self.raw.new_full((len(self.owner),), -math.inf if lower else math.inf)
            for other in [a for a, b in pairs if b == column and a > column and a in self.groups.get(column, [])]:
                value = self._nearest(other, self._edge(other, column, lower), lower, leaves=True)
                limit = torch.maximum(limit, value) if lower else torch.minimum(limit, value)
            limits.append(limit)
        return limits[0], limits[1]

    def _edge(self, column: int, drawn: int, lower: bool) -> Tensor:
        """The raw limit ``(R,)`` on one side that the first `drawn` columns put on this one, directly or through
        columns that are still to be drawn and have to find a value in between."""
        pairs = self._given.ordered if lower else [(b, a) for a, b in self._given.ordered]
        limit = self.raw.new_full((len(self.owner),), -math.inf if lower else math.inf)
        for other in [a for a, b in pairs if b == column]:
            if other < drawn:
                value = self.raw[:, other]
            elif any(a < drawn for a, b in pairs if b == other):
                value = self._nearest(other, self._edge(other, drawn, lower), lower)
            elif other not in self.groups:
                continue
            else:
                value = limit
            if other in self.groups and other >= drawn:
                value = torch.where(self.still[:, other], self._given.raw[self.owner, other], value)
            limit = torch.maximum(limit, value) if lower else torch.minimum(limit, value)
        return limit

    def _nearest(self, column: int, limit: Tensor, lower: bool, leaves: bool = False) -> Tensor:
        """The least admissible raw value ``(R,)`` of a column at or above the limit (at or below it: the greatest).

        leaves: other than the factual's own.
        """
        _, t, n = self.places[column]
        own = self._given.raw[self.owner, column]
        if n is not None:
            feature = self.alphabet.schema.features[column]
            whole = feature.storage.kind in "iu"
            if leaves:
                bound = torch.from_numpy((self._given.raw_low if lower else self._given.raw_high)[:, n]).to(
                    limit.device
                )
                limit = (torch.maximum if lower else torch.minimum)(limit, bound[self.owner])
            limit = limit if not whole else limit.ceil() if lower else limit.floor()
            if leaves:
                assert feature.bounds is not None
                step = 1.0 if whole else 2.0**-22 * (feature.bounds[1] - feature.bounds[0])  # some float32 of the scale
                limit = torch.where(limit == own, own + (step if lower else -step), limit)
            return limit
        levels = self._levels(column)
        beyond = (levels >= limit[:, None]) if lower else (levels <= limit[:, None])
        beyond &= self._given.tokens[:, t, : levels.shape[1]][self.owner]
        if leaves:
            beyond &= levels != own[:, None]
        elif column in self.groups:
            same = nn.functional.one_hot(self.own[:, column][self.owner], levels.shape[1]).bool()
            beyond &= ~(same & ~self.stay[:, column, None])
        return (
            levels.masked_fill(~beyond, math.inf).amin(1) if lower else levels.masked_fill(~beyond, -math.inf).amax(1)
        )

    def _narrow(self, column: int, least: Tensor, most: Tensor) -> None:
        """Narrow the scaled interval ``(R,)`` of a continuous column so that what it decodes to keeps raw limits."""
        feature = self.alphabet.schema.features[column]
        if feature.storage.kind in "iu":
            least, most = least.ceil(), most.floor()
        first, last = _scaled(feature, least), _scaled(feature, most)
        first = torch.where(_raw(feature, first) < least, torch.nextafter(first, first.new_tensor(math.inf)), first)
        last = torch.where(_raw(feature, last) > most, torch.nextafter(last, last.new_tensor(-math.inf)), last)
        low, high = torch.maximum(self.low, first), torch.minimum(self.high, last)
        # Where one float32 is left or none, keep to these limits: the column's own are enforced again in raw units.
        single = torch.where(first > self.low, low, high)
        self.low, self.high = torch.where(low > high, single, low), torch.where(low > high, single, high)

    def _levels(self, column: int) -> Tensor:
        """Raw level values ``(R, size)``; the factual's own token stands for the factual's own number."""
        levels = self.raw.new_tensor(self.alphabet.schema.features[column].levels)
        own = nn.functional.one_hot(self.own[:, column][self.owner], len(levels)).bool()
        return torch.where(own, self._given.raw[self.owner, column][:, None], levels)


def _raw(feature: Feature, scaled: Tensor) -> Tensor:
    """Scaled values to raw units, float64, exactly as rows are decoded."""
    assert feature.bounds is not None
    return feature.bounds[0] + scaled.double() * (feature.bounds[1] - feature.bounds[0])


def _scaled(feature: Feature, raw: Tensor) -> Tensor:
    """Raw values to scaled units, float32, exactly as rows are encoded."""
    assert feature.bounds is not None
    return ((raw - feature.bounds[0]) / (feature.bounds[1] - feature.bounds[0])).float()
