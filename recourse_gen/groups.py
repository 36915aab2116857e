"""Recourse by group of people: what an auditor compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import pandas as pd

FAVOURED = "already_favourable"


def by_group(report: pd.DataFrame, people: pd.Index, groups: Any) -> pd.DataFrame:
    """See `Counterfactuals.by_group`. report: indexed by (person, rank). people: everybody asked about."""
    group = _of_people(groups, people)
    try:
        group.unique()
    except TypeError as error:
        raise ValueError(f"groups holds a value that cannot name a group: {error}") from error
    person = report.index.get_level_values(0)
    status = report["status"].set_axis(person)[~person.duplicated()].reindex(people)
    answers = report[report["status"] == "ok"]
    person = answers.index.get_level_values(0)
    best = answers.set_axis(person)[~person.duplicated()].reindex(people)
    table = best[["cost", "n_changed", "probability"]].assign(
        denied=(status != FAVOURED).to_numpy(), found=best["status"].notna().to_numpy()
    )
    grouped = table.set_axis(group.index).groupby(group, dropna=False, observed=True)
    counts = pd.DataFrame({"people": grouped.size(), **{name: grouped[name].sum() for name in ("denied", "found")}})
    counts["share_found"] = counts["found"] / counts["denied"]
    return pd.concat([counts, grouped[["cost", "n_changed", "probability"]].mean()], axis=1)


def _of_people(groups: Any, people: pd.Index) -> pd.Series:
    """The group of each of the people, numbered from 0."""
    if isinstance(groups, pd.Series):
        if groups.index.has_duplicates:
            raise ValueError(f"the index of groups repeats {groups.index[groups.index.duplicated()].tolist()[0]!r}")
        position = groups.index.get_indexer(people)
        if (position < 0).any():
            raise ValueError(
                f"the index of groups lacks {int((position < 0).sum())} of the {len(people)} people asked about, "
                f"{people[position < 0].tolist()[0]!r} for one"
            )
        group = groups.iloc[position].reset_index(drop=True)
        group.name = "group" if groups.name is None else groups.name
        return group
    listed = isinstance(groups, (Sequence, pd.MultiIndex)) and not isinstance(groups, (str, bytes))
    if isinstance(groups, (Mapping, Set)) or not (listed or getattr(groups, "ndim", 0) == 1):
        raise ValueError(f"groups must be a Series or an array with one group per person, got {type(groups).__name__}")
    if len(groups) != len(people):
        raise ValueError(f"groups has {len(groups)} values for {len(people)} people")
    return pd.Series(list(groups) if listed else groups, name="group")
