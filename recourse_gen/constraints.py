"""What a person may do, in raw units, and its compilation into masks and bounds that samplers enforce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema, is_number

DIRECTIONS = ("increase", "decrease")


@dataclass(frozen=True)
class Constraints:
    """Hard limits on a recommended change. Values are in the units of the input frame.

    immutable: columns that keep the factual's value.
    monotone: numeric column to ``"increase"`` or ``"decrease"``, the only direction in which it may move.
    ranges: numeric column to ``(low, high)``, either end None for no limit.
    allowed: token column to the values it may end on, or to a mapping from today's value to those values (a value
        that the mapping lacks must stay). A person who stands on a value that is not allowed has to move.
    max_changes: at most this many columns may change.
    ordered: pairs of numeric columns ``(a, b)`` with a ≤ b.
    """

    immutable: Sequence[str] = ()
    monotone: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    allowed: Mapping[str, Sequence[Any] | Mapping[Any, Sequence[Any]]] = field(default_factory=dict)
    max_changes: int | None = None
    ordered: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.immutable, str):
            raise ValueError(f"immutable must be a list of column names, got the text {self.immutable!r}")
        for name, direction in self.monotone.items():
            if direction not in DIRECTIONS:
                raise ValueError(f"monotone[{name!r}] must be 'increase' or 'decrease', got {direction!r}")
        for name, limits in self.ranges.items():
            low, high = limits
            if low is not None and high is not None and low > high:
                raise ValueError(f"ranges[{name!r}] must be (low, high) with low ≤ high, got {tuple(limits)}")
        if self.max_changes is not None and self.max_changes < 1:
            raise ValueError(f"max_changes must be at least 1, got {self.max_changes}")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and mappings, for YAML; `Constraints(**d)` is the inverse."""
        plain = asdict(self)
        plain["ranges"] = {name: list(limits) for name, limits in self.ranges.items()}
        plain["ordered"] = [list(pair) for pair in self.ordered]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items() if value}

    def check(self, schema: Schema) -> None:
        """Raise ValueError if a column is unknown, or of a kind that the constraint does not apply to."""
        pairs = [name for pair in self.ordered for name in pair]
        for option, names in {
            "immutable": list(self.immutable),
            "monotone": list(self.monotone),
            "ranges": list(self.ranges),
            "allowed": list(self.allowed),
            "ordered": pairs,
        }.items():
            for name in names:
                if name not in schema.names:
                    raise ValueError(f"constraints: {option} names column {name!r}; columns are {', '.join(schema.names)}")
                kind = schema[name].kind
                if option in ("monotone", "ranges", "ordered") and kind == "categorical":
                    raise ValueError(f"constraints: {option} needs a numeric column, but {name!r} is categorical")
                if option == "allowed" and kind == "continuous":
                    raise ValueError(f"constraints: allowed needs a column of levels, but {name!r} is continuous; use ranges")
        for name, values in self.allowed.items():
            targets = [v for vs in values.values() for v in vs] if isinstance(values, Mapping) else list(values)
            unknown = [value for value in targets if value not in schema[name].levels]
            if unknown:
                raise ValueError(f"constraints: allowed[{name!r}] lists {unknown[0]!r}, a value the training rows lack")

    def violations(self, factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
        """Bool ``(B,)``: rows of `counterfactuals` that break a constraint, given row-aligned `factuals`."""
        assert len(factuals) == len(counterfactuals)
        broken = np.zeros(len(factuals), dtype=bool)
        changed = changed_cells(factuals, counterfactuals)
        for name in self.immutable:
            broken |= changed[:, factuals.columns.get_loc(name)]
        for name in {*self.monotone, *self.ranges, *self.allowed}:
            column = counterfactuals[name].to_numpy()
            broken |= ~self._admits(name, factuals[name].to_numpy(), column[:, None])[:, 0]
        for a, b in self.ordered:
            broken |= counterfactuals[a].to_numpy(dtype=np.float64) > counterfactuals[b].to_numpy(dtype=np.float64)
        if self.max_changes is not None:
            broken |= changed.sum(1) > self.max_changes
        return broken

    def _admits(self, name: str, factual: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Bool ``(B, L)``: may a person at `factual` ``(B,)`` end at each of `values` ``(B, L)``? One column alone."""
        admitted = np.ones(np.broadcast_shapes((len(factual), 1), values.shape), dtype=bool)
        if name in self.monotone:
            sign = 1.0 if self.monotone[name] == "increase" else -1.0
            admitted &= sign * values.astype(np.float64) >= sign * factual.astype(np.float64)[:, None]
        low, high = self.ranges.get(name, (None, None))
        if low is not None:
            admitted &= values.astype(np.float64) >= low
        if high is not None:
            admitted &= values.astype(np.float64) <= high
        if name in self.allowed:
            rule = self.allowed[name]
            stays = values == factual[:, None]
            if isinstance(rule, Mapping):
                moves = np.zeros_like(admitted)
                for origin, targets in rule.items():
                    moves |= (factual == origin)[:, None] & np.isin(values, list(targets))
                known = np.isin(factual, list(rule))[:, None]
                admitted &= moves | (~known & stays)
            else:
                admitted &= np.isin(values, list(rule))
        if name in self.immutable:
            admitted &= values == factual[:, None]
        return admitted

    def compile(self, schema: Schema, factuals: pd.DataFrame, rows: Rows) -> Feasible:
        """Masks and bounds for a batch of factuals, given as a frame ``(B, D)`` and encoded, on the CPU.

        The token that a factual was encoded as stands for the factual's own raw value, even when training never held
        that value exactly.
        """
        self.check(schema)
        batch = rows.batch_size
        size = max((len(feature.levels) for feature in schema.tokens), default=1)
        tokens = np.zeros((batch, len(schema.tokens), size), dtype=bool)
        low, high = np.zeros((2, batch, len(schema.numbers)))
        raw = np.zeros((batch, len(schema.features)))
        stay = np.ones((batch, len(schema.features)), dtype=bool)
        limited = {*self.immutable, *self.monotone, *self.ranges, *self.allowed}
        for d, t, n in schema.places:
            feature = schema.features[d]
            own = factuals[feature.name].to_numpy()
            if feature.kind != "categorical":
                raw[:, d] = own
            if t is not None:
                tokens[:, t, : len(feature.levels)] = True
                if feature.name in limited:
                    code = rows.cat[:, t].numpy()
                    admitted = self._admits(feature.name, own, _own_levels(feature, own, code))
                    tokens[:, t, : len(feature.levels)] = admitted
                    stay[:, d] = admitted[np.arange(batch), code]
            else:
                low[:, n], high[:, n] = self._interval(feature, raw[:, d])
                stay[:, d] = (raw[:, d] >= low[:, n]) & (raw[:, d] <= high[:, n])
        order = _closure([(schema.names.index(a), schema.names.index(b)) for a, b in self.ordered])
        if order:
            _propagate(schema, order, tokens, low, high, raw, rows.cat.numpy())
            for d, t, n in schema.places:
                own = rows.cat[:, t].numpy()
                inside = tokens[np.arange(batch), t, own] if n is None else (raw[:, d] >= low[:, n]) & (raw[:, d] <= high[:, n])
                stay[:, d] &= inside
        empty = np.concatenate([~tokens.any(2), low > high], 1)
        names = [feature.name for feature in (*schema.tokens, *schema.numbers)]
        reasons = [f"no admissible value for {names[row.argmax()]!r}" if row.any() else "" for row in empty]
        if self.max_changes is not None:
            forced = (~stay).sum(1)
            reasons = [
                reason or (f"{count} columns must change, more than max_changes={self.max_changes}" if count > self.max_changes else "")
                for reason, count in zip(reasons, forced, strict=True)
            ]
        return Feasible(
            tokens=torch.from_numpy(tokens),
            low=_scale(schema, low),
            high=_scale(schema, high),
            raw_low=low,
            raw_high=high,
            stay=torch.from_numpy(stay),
            max_changes=self.max_changes,
            ordered=order,
            raw=torch.from_numpy(raw),
            reasons=reasons,
        )

    def _interval(self, feature: Feature, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw bounds ``(B,)`` of one continuous column; whole numbers where the column holds integers."""
        assert feature.bounds is not None
        # A factual outside the training range may stay where it is, so the range is widened to hold it.
        low, high = np.minimum(feature.bounds[0], own), np.maximum(feature.bounds[1], own)
        minimum, maximum = self.ranges.get(feature.name, (None, None))
        if minimum is not None:
            low = np.maximum(low, minimum)
        if maximum is not None:
            high = np.minimum(high, maximum)
        if "int" in feature.dtype.lower():
            low, high = np.ceil(low), np.floor(high)
        if self.monotone.get(feature.name) == "increase":
            low = np.maximum(low, own)
        if self.monotone.get(feature.name) == "decrease":
            high = np.minimum(high, own)
        if feature.name in self.immutable:
            low, high = np.maximum(low, own), np.minimum(high, own)
        return low, high


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

    def to(self, device: object) -> Feasible:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Feasible(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in parts.items()})

    def admits(self, rows: Rows) -> Tensor:
        """Bool ``(B, M)``: which of M rows each factual may become, column by column (not max_changes, ordered)."""
        admitted = torch.ones(self.tokens.shape[0], rows.batch_size, dtype=torch.bool, device=rows.cat.device)
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


def changed_cells(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
    """Bool ``(B, D)``: cells that differ, exactly; the frames are row-aligned and share their columns."""
    cells = [
        factuals[name].to_numpy(dtype=np.float64) != counterfactuals[name].to_numpy(dtype=np.float64)
        if is_number(factuals[name]) and is_number(counterfactuals[name])
        else factuals[name].to_numpy(dtype=object) != counterfactuals[name].to_numpy(dtype=object)
        for name in factuals.columns
    ]
    return np.stack(cells, 1)


def _own_levels(feature: Feature, own: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Per-row level values ``(B, L)``, with the factual's own value in place of the level it was encoded as."""
    dtype = np.float64 if feature.kind == "ordinal" else object
    values = np.repeat(np.asarray(feature.levels, dtype=dtype)[None], len(own), 0)
    values[np.arange(len(own)), code] = own
    return values


def _scale(schema: Schema, values: np.ndarray) -> Tensor:
    scaled = [feature.scaled(values[:, n]) for n, feature in enumerate(schema.numbers)]
    return torch.from_numpy(np.stack(scaled, 1).astype(np.float32)) if scaled else torch.zeros(len(values), 0)


def _closure(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    closed = set(pairs)
    while more := {(a, d) for a, b in closed for c, d in closed if b == c and a != d} - closed:
        closed |= more
    return sorted(closed)


def _propagate(
    schema: Schema, order: list[tuple[int, int]], tokens: np.ndarray, low: np.ndarray, high: np.ndarray, raw: np.ndarray, cat: np.ndarray
) -> None:
    """Narrow tokens and bounds, in place, until every remaining value of a has some b ≥ a and the other way round."""
    place = {d: (t, n) for d, t, n in schema.places}
    values = {}
    for d in {d for pair in order for d in pair}:
        t, _ = place[d]
        if t is not None:
            values[d] = _own_levels(schema.features[d], raw[:, d], cat[:, t])

    def extreme(d: int, largest: bool) -> np.ndarray:
        t, n = place[d]
        if n is not None:
            return high[:, n] if largest else low[:, n]
        admitted = tokens[:, t, : values[d].shape[1]]
        return np.where(admitted, values[d], -np.inf).max(1) if largest else np.where(admitted, values[d], np.inf).min(1)

    for _ in range(len(place)):
        for a, b in order:
            top, bottom = extreme(b, True), extreme(a, False)
            for d, limit, keep_below in ((a, top, True), (b, bottom, False)):
                t, n = place[d]
                if n is not None:
                    bound, narrow = (high, np.minimum) if keep_below else (low, np.maximum)
                    bound[:, n] = narrow(bound[:, n], limit)
                else:
                    inside = values[d] <= limit[:, None] if keep_below else values[d] >= limit[:, None]
                    tokens[:, t, : inside.shape[1]] &= inside
