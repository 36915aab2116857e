"""What each factual of a batch may become, as masks and bounds that samplers enforce."""

from __future__ import annotations

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
        inside = self.tokens.shape[2]
        if self.tokens.shape[1]:
            # Padding is never a row's code, so a column without a False among the codes in use can be skipped.
            used = torch.nn.functional.one_hot(rows.cat, inside).bool()
            tight = (~self.tokens & used.any(0)).any(2).any(0)
            # One matrix product counts, over the restricted columns, how many tokens of each row are admitted.
            hits = self.tokens[:, tight].flatten(1).float() @ used[:, tight].flatten(1).float().T
            admitted &= hits > tight.sum() - 0.5
        for n in torch.nonzero((self.low > rows.num.amin(0)).any(0) | (self.high < rows.num.amax(0)).any(0)).flatten():
            admitted &= (rows.num[:, n] >= self.low[:, n, None]) & (rows.num[:, n] <= self.high[:, n, None])
        return admitted


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
