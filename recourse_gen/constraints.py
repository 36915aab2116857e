"""What a person may do, in raw units, and its compilation into masks and bounds that samplers enforce."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen.dtypes import is_number
from recourse_gen.feasible import Feasible
from recourse_gen.feasible import decoded as decoded  # part of what backbones may use
from recourse_gen.feasible import elsewhere as elsewhere
from recourse_gen.narrowing import Room, closure, inward, own_levels, united
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema

DIRECTIONS = ("increase", "decrease")
TIES = ("ordered", "together")  # options that list several columns at a time


@dataclass(frozen=True)
class Constraints:
    """Hard limits on a recommended change. Values are in the units of the input frame.

    immutable: columns that keep the factual's value.
    monotone: numeric column to ``"increase"`` or ``"decrease"``, the only direction in which it may move.
    ranges: numeric column to ``(low, high)``, either end None for no limit.
    allowed: token column to the values it may end on (a list, an array or a Series), or to a mapping from today's value
        to those values (a value that the mapping lacks must stay). A person who stands on a value that is not allowed
        has to move.
    max_changes: at most this many columns may change.
    ordered: pairs of numeric columns ``(a, b)`` with a ≤ b.
    together: groups of columns of which all change or none does, whatever the values; groups that share a column are
        one. Where one column of a group has to change, so have the others; where one may not, neither may they.

    A number that a column of levels never held in training takes the place of the nearest level, so that the level
    itself is out of this person's reach.
    """

    immutable: Sequence[str] = ()
    monotone: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    allowed: Mapping[str, Sequence[Any] | Mapping[Any, Sequence[Any]]] = field(default_factory=dict)
    max_changes: int | None = None
    ordered: Sequence[tuple[str, str]] = ()
    together: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.immutable, str):
            raise ValueError(f"immutable must be a list of column names, got the text {self.immutable!r}")
        for option in ("immutable", "ordered", "together"):  # an iterator would be gone once it has been looked at
            if not isinstance(given := getattr(self, option), Iterable):
                raise ValueError(f"{option} must be a list, got {given!r}")
            object.__setattr__(self, option, tuple(tuple(each) if isinstance(each, list) else each for each in given))
        for option in ("monotone", "ranges", "allowed"):
            if not isinstance(given := getattr(self, option), Mapping):
                raise ValueError(f"{option} must be a mapping from column names, got {given!r}")
        for name, direction in self.monotone.items():
            if direction not in DIRECTIONS:
                raise ValueError(f"monotone[{name!r}] must be 'increase' or 'decrease', got {direction!r}")
        for name, limits in self.ranges.items():
            numeric = (
                isinstance(limits, Sequence)
                and len(limits) == 2
                and all(end is None or isinstance(end, Real) for end in limits)
            )
            if not (numeric and np.less_equal(*self._limits(name))):
                raise ValueError(f"ranges[{name!r}] must be (low, high) with low ≤ high, got {limits!r}")
        object.__setattr__(self, "allowed", {name: _listed(rule) for name, rule in self.allowed.items()})
        for name, rule in self.allowed.items():
            for values in [rule.keys(), *rule.values()] if isinstance(rule, Mapping) else [rule]:
                if isinstance(values, str) or not isinstance(values, Collection):
                    raise ValueError(f"allowed[{name!r}] must list values, or map values to lists, got {rule!r}")
                if pd.Series([*values], dtype=object).isna().any():
                    raise ValueError(f"allowed[{name!r}] lists a missing value, which no column may hold, in {rule!r}")
        for pair in self.ordered:
            if not _are_columns(pair) or len(pair) != 2:
                raise ValueError(f"ordered must list pairs of columns (a, b) with a ≤ b, got {pair!r}")
        circular = [a for a, b in closure(self.ordered) if a == b]
        if circular:
            raise ValueError(f"ordered runs in a circle through {circular[0]!r}")
        for group in self.together:
            if not _are_columns(group) or not len(group) == len(set(group)) >= 2:
                raise ValueError(f"together must list groups of two columns or more, got {group!r}")
        count = self.max_changes
        if count is not None and (isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1):
            raise ValueError(f"max_changes must be a whole number of at least 1, got {count!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and mappings, for YAML; `Constraints(**d)` is the inverse."""
        plain = {option.name: _plain(getattr(self, option.name)) for option in fields(self)}
        return {name: value for name, value in plain.items() if value}

    def check(self, schema: Schema) -> None:
        """Raise ValueError if a column or level is unknown, or of a kind that the constraint does not apply to."""
        options = {name: list(getattr(self, name)) for name in ("immutable", "monotone", "ranges", "allowed")}
        options |= {name: [column for group in getattr(self, name) for column in group] for name in TIES}
        for option, name in [(option, name) for option, names in options.items() for name in names]:
            where = f"constraints: {option}"
            if name not in schema.names:
                raise ValueError(f"{where} names column {name!r}; columns are {', '.join(schema.names)}")
            kind = schema[name].kind
            if option in ("monotone", "ranges", "ordered") and kind == "categorical":
                raise ValueError(f"{where} needs a numeric column, but {name!r} is categorical")
            if option == "allowed" and kind == "continuous":
                raise ValueError(f"{where} needs a column of levels, but {name!r} is continuous; use ranges")
        for name, rule in self.allowed.items():
            named = [value for values in rule.values() for value in values] if isinstance(rule, Mapping) else list(rule)
            if isinstance(rule, Mapping) and schema[name].kind == "categorical":
                named += list(rule)
            unknown = [value for value in named if value not in schema[name].levels]
            if unknown:
                raise ValueError(f"constraints: allowed[{name!r}] lists {unknown[0]!r}, a value the training rows lack")

    def violations(self, factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
        """Bool ``(B,)``: rows of `counterfactuals` that break a constraint, given row-aligned `factuals`."""
        assert len(factuals) == len(counterfactuals)
        before, after = (columns_of(frame, self.limited) for frame in (factuals, counterfactuals))
        return self.broken(before, after, dict(zip(factuals, changed_cells(factuals, counterfactuals).T, strict=True)))

    def broken(
        self, before: Mapping[Any, np.ndarray], after: Mapping[Any, np.ndarray], changed: Mapping[Any, np.ndarray]
    ) -> np.ndarray:
        """Bool ``(B,)``: `violations`, by columns. before, after: values ``(B,)`` of at least the `limited` columns.
        changed: bool ``(B,)`` of every column."""
        broken = np.zeros(len(next(iter(changed.values()))), dtype=bool)
        for name in self.immutable:
            broken |= changed[name]
        for name in {*self.monotone, *self.ranges, *self.allowed}:
            broken |= ~self._admits(name, before[name], after[name][:, None])[:, 0]
        for a, b in self.ordered:
            broken |= _numbers(after[a]) > _numbers(after[b])
        for group in self.together:
            moved = np.sum([changed[name] for name in group], 0)
            broken |= (moved > 0) & (moved < len(group))
        if self.max_changes is not None:
            broken |= np.sum(list(changed.values()), 0) > self.max_changes
        return broken

    def concerns(self, names: Sequence[str]) -> list[str]:
        """Those of a table's columns on which `violations` depends; if there are any, it may be given these alone."""
        concerned = {*self.immutable, *self.limited}.union(*self.together)
        return [name for name in names if self.max_changes is not None or name in concerned]

    @property
    def limited(self) -> set[str]:
        """Columns of which the values count, not only whether they change."""
        return {*self.monotone, *self.ranges, *self.allowed, *(name for pair in self.ordered for name in pair)}

    def alike(self, factuals: pd.DataFrame) -> list[np.ndarray]:
        """Positions of factuals that can be compiled together: all of them."""
        return [np.arange(len(factuals))]

    def _admits(self, name: str, factual: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Bool ``(B, L)``: may a person at `factual` ``(B,)`` end at each of `values` ``(B, L)``? One column alone."""
        admitted = np.ones(np.broadcast_shapes((len(factual), 1), values.shape), dtype=bool)
        if name in self.monotone:
            goes = np.greater_equal if self.monotone[name] == "increase" else np.less_equal
            admitted &= goes(_numbers(values), _numbers(factual)[:, None])
        if name in self.ranges:
            low, high = self._limits(name)
            admitted &= (_numbers(values) >= low) & (_numbers(values) <= high)
        stays = values == factual[:, None]
        if name in self.allowed:
            rule = self.allowed[name]
            if isinstance(rule, Mapping):
                moves = ~_among(factual, rule)[:, None] & stays
                for origin, targets in rule.items():
                    moves |= (factual == origin)[:, None] & _among(values, targets)
                admitted &= moves
            else:
                admitted &= _among(values, rule)
        return admitted & stays if name in self.immutable else admitted

    def compile(self, schema: Schema, factuals: pd.DataFrame, rows: Rows) -> Feasible:
        """Masks and bounds for a batch of factuals, given as a frame ``(B, D)`` and encoded, on the CPU.

        The token that a factual was encoded as stands for the factual's own raw value, even when training never held
        that value exactly.
        """
        self.check(schema)
        batch, cat = rows.batch_size, rows.cat.cpu().numpy()
        size = max((len(feature.levels) for feature in schema.tokens), default=1)
        tokens = np.zeros((batch, len(schema.tokens), size), dtype=bool)
        low, high = np.zeros((2, batch, len(schema.numbers)))
        raw = np.zeros((batch, len(schema.features)))
        limited = {*self.immutable, *self.monotone, *self.ranges, *self.allowed}
        for d, t, n in schema.places:
            feature = schema.features[d]
            own = factuals[feature.name].to_numpy()
            if feature.kind != "categorical":
                raw[:, d] = own
            if n is not None:
                low[:, n], high[:, n] = self._interval(feature, raw[:, d])
            elif feature.name in limited:
                levels = own_levels(feature, own, cat[:, t])
                tokens[:, t, : len(feature.levels)] = self._admits(feature.name, own, levels)
            else:
                tokens[:, t, : len(feature.levels)] = True
        room = Room(schema, tokens, low, high, raw, cat)
        order = closure([(schema.names.index(a), schema.names.index(b)) for a, b in self.ordered])
        groups = united([schema.names.index(name) for name in group] for group in self.together)
        limit = np.inf if self.max_changes is None else self.max_changes
        torn = room.tie(order, groups, limit)
        stay = np.stack([room.stays(d) for d in range(len(schema.features))], 1)
        names = [feature.name for feature in (*schema.tokens, *schema.numbers)]
        reasons = [""] * batch
        empty, forced = np.concatenate([~tokens.any(2), low > high], 1), (~stay).sum(1)
        for b in np.flatnonzero((torn >= 0) | empty.any(1) | (forced > limit)):
            if torn[b] >= 0:
                listed = ", ".join(repr(schema.names[d]) for d in groups[torn[b]])
                reasons[b] = f"{listed} change together, but one of them has to and another may not"
            elif empty[b].any():
                reasons[b] = f"no admissible value for {names[empty[b].argmax()]!r}"
            else:
                reasons[b] = f"{forced[b]} columns must change, more than max_changes={self.max_changes}"
        return Feasible(
            tokens=torch.from_numpy(tokens),
            low=_scale(schema, low),
            high=_scale(schema, high),
            raw_low=low,
            raw_high=high,
            stay=torch.from_numpy(stay),
            max_changes=self.max_changes,
            ordered=order,
            together=groups,
            raw=torch.from_numpy(raw),
            reasons=reasons,
        )

    def _limits(self, name: str) -> tuple[float, float]:
        low, high = self.ranges.get(name, (None, None))
        return (-np.inf if low is None else low), (np.inf if high is None else high)

    def _interval(self, feature: Feature, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw bounds ``(B,)`` of one continuous column, values of its own dtype."""
        assert feature.bounds is not None
        # A factual outside the training range may stay where it is, so the range is widened to hold it.
        least, most = self._limits(feature.name)
        low = np.maximum(np.minimum(feature.bounds[0], own), least)
        high = np.minimum(np.maximum(feature.bounds[1], own), most)
        low, high = inward(feature, low, high)
        fixed, direction = feature.name in self.immutable, self.monotone.get(feature.name)
        if fixed or direction == "increase":
            low = np.maximum(low, own)
        if fixed or direction == "decrease":
            high = np.minimum(high, own)
        return low, high


def changed_cells(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
    """Bool ``(B, D)``: cells that differ, exactly; the frames are row-aligned and share their columns."""
    cells = []
    for name in factuals.columns:
        pair = factuals[name], counterfactuals[name]
        dtype: Any = np.float64 if all(map(is_number, pair)) else object
        if all(pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans for column in pair):
            dtype = None  # as they are: float64 does not tell large whole numbers apart
        before, after = (column.to_numpy(dtype=dtype) for column in pair)
        cells.append(before != after)
    return np.stack(cells, 1)


def columns_of(frame: pd.DataFrame, names: Collection[str]) -> dict[str, np.ndarray]:
    """The values ``(B,)`` of some columns."""
    return {name: frame[name].to_numpy() for name in names}


def _scale(schema: Schema, values: np.ndarray) -> Tensor:
    scaled = [feature.scaled(values[:, n]) for n, feature in enumerate(schema.numbers)]
    if not scaled:
        return torch.zeros(len(values), 0, dtype=torch.float32)
    return torch.from_numpy(np.stack(scaled, 1).astype(np.float32))


def _numbers(values: np.ndarray) -> np.ndarray:
    """Values of a numeric column to compare: whole numbers as they are, for float64 does not tell large ones apart."""
    return values if values.dtype.kind in "iu" else values.astype(np.float64)


def _among(values: np.ndarray, options: Collection[Any]) -> np.ndarray:
    """Bool, shaped like `values`: is it one of the options? Compared one by one, so text and numbers never mix."""
    found = np.zeros(values.shape, dtype=bool)
    for option in options:
        found |= values == option
    return found


def _are_columns(names: Any) -> bool:
    """Whether it is a list of what may be names; a text is one name."""
    return (
        isinstance(names, Collection)
        and not isinstance(names, str)
        and all(isinstance(name, Hashable) for name in names)
    )


def _listed(rule: Any) -> Any:
    """A rule of `allowed` with lists of Python's scalars in the place of arrays and Series."""
    if isinstance(rule, Mapping):
        return {origin: _listed(targets) for origin, targets in rule.items()}
    return rule.tolist() if hasattr(rule, "tolist") else rule


def _plain(value: Any) -> Any:
    """Lists, mappings and Python scalars only."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value if isinstance(value, str) or not isinstance(value, Collection) else [_plain(item) for item in value]
