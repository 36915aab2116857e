"""Constraints that differ from person to person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from recourse_gen.constraints import Constraints, changed_cells, columns_of
from recourse_gen.feasible import Feasible
from recourse_gen.narrowing import closure, united
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema


@dataclass(frozen=True)
class PersonalConstraints:
    """The `Constraints` of each person, with the methods that a search asks of one for all. Frames are any rows of
    these people, told apart by their index.

    people: their labels ``(B,)``, distinct. distinct: the constraints that occur. which: int64 ``(B,)``, into them.
    """

    people: pd.Index
    distinct: tuple[Constraints, ...]
    which: np.ndarray

    def alike(self, factuals: pd.DataFrame) -> list[np.ndarray]:
        """Positions of factuals whose constraints can be compiled together: they tie the same columns together and
        share max_changes. What else they say may differ."""
        keys = [repr((rules.max_changes, closure(rules.ordered), united(rules.together))) for rules in self.distinct]
        tied = pd.factorize(np.array(keys, dtype=object))[0][self._of(factuals)]
        return [np.flatnonzero(tied == kind) for kind in np.unique(tied)] or [np.arange(0)]

    def compile(self, schema: Schema, factuals: pd.DataFrame, rows: Rows) -> Feasible:
        """Masks and bounds for a batch of factuals that are `alike`; see `Constraints.compile`."""
        groups = self._groups(factuals)
        parts = [rules.compile(schema, factuals.iloc[at], rows.take(torch.from_numpy(at))) for rules, at in groups]
        if len(parts) < 2:
            return parts[0] if parts else Constraints().compile(schema, factuals, rows)
        return Feasible.join(parts).take(np.argsort(np.concatenate([at for _, at in groups])))

    def concerns(self, names: Sequence[str]) -> list[str]:
        """Those of a table's columns on which `violations` depends."""
        concerned = set().union(*(rules.concerns(names) for rules in self.distinct))
        return [name for name in names if name in concerned]

    def violations(self, factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
        """Bool ``(B,)``: rows of `counterfactuals` that break the constraints of the person in the same row."""
        limited = set().union(*(rules.limited for rules in self.distinct))
        cells = changed_cells(factuals, counterfactuals)
        parts = (
            columns_of(factuals, limited),
            columns_of(counterfactuals, limited),
            dict(zip(factuals, cells.T, strict=True)),
        )
        broken = np.zeros(len(factuals), dtype=bool)
        for rules, at in self._groups(factuals):
            broken[at] = rules.broken(*({name: values[at] for name, values in part.items()} for part in parts))
        return broken

    def _groups(self, factuals: pd.DataFrame) -> list[tuple[Constraints, np.ndarray]]:
        """Each constraints that occur among the factuals, and the positions of those whom they belong to."""
        which = self._of(factuals)
        order = np.argsort(which, kind="stable")
        found = zip(*np.unique(which[order], return_index=True, return_counts=True), strict=True)
        return [(self.distinct[kind], order[start : start + count]) for kind, start, count in found]

    def _of(self, factuals: pd.DataFrame) -> np.ndarray:
        position = self.people.get_indexer(factuals.index)
        assert (position >= 0).all()
        return self.which[position]


Rules = Constraints | PersonalConstraints


def one_for_all(given: Any, schema: Schema | None) -> Constraints:
    """`given`, checked. Raises ValueError unless it is a `Constraints` that fits the schema, if one is given."""
    if not isinstance(given, Constraints):
        raise ValueError(f"constraints must be a Constraints object, got {type(given).__name__}")
    if schema is not None:
        given.check(schema)
    return given


def rules_for(given: Any, schema: Schema | None, people: pd.Index) -> Rules:
    """One `Constraints` for all, or one per person: a mapping from index label, or a Series with the people's labels.

    people: labels ``(B,)``. Raises ValueError for anything else, naming a person without constraints, or with some
    that do not fit the schema. Entries of other people are left aside.
    """
    if isinstance(given, pd.Series):
        if given.index.has_duplicates:
            raise ValueError(f"the index of constraints repeats {given.index[given.index.duplicated()].tolist()[0]!r}")
        given = dict(zip(given.index.tolist(), given.tolist(), strict=True))
    if not isinstance(given, Mapping):
        return one_for_all(given, schema)
    seen: dict[int, int] = {}  # an object of constraints to its position among the distinct ones
    known: dict[str, int] = {}
    distinct: list[Constraints] = []
    which = np.zeros(len(people), dtype=np.int64)
    for i, label in enumerate(people.tolist()):
        key = _key(given, label)
        if key not in given:
            raise ValueError(f"constraints must be a Constraints object, or one for each row of X: {label!r} has none")
        rules = given[key]
        if id(rules) not in seen:
            try:
                text = repr(one_for_all(rules, schema).to_dict())
            except ValueError as error:
                raise ValueError(f"for {label!r}, {error}") from error
            if text not in known:
                known[text] = len(distinct)
                distinct.append(rules)
            seen[id(rules)] = known[text]
        which[i] = seen[id(rules)]
    return PersonalConstraints(people, tuple(distinct), which)


def _key(given: Mapping[Any, Any], label: Any) -> Any:
    """The label as it stands among the keys: NaN, which equals nothing, is found as pandas finds it."""
    if label in given or not _is_missing(label):
        return label
    return next(filter(_is_missing, given), label)


def _is_missing(label: Any) -> bool:
    return bool(pd.api.types.is_scalar(label) and pd.isna(label))
