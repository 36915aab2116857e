"""Constraints hold for every sample: Hypothesis draws tables, people and rules.

What a backbone answers for, wherever `Feasible.reasons` is empty:

- tokens are admitted by `Feasible.tokens`, numbers lie within `low` and `high` to the last float32, so immutable
  columns are exactly the factual's, and at most `max_changes` columns differ from it;
- decoded, with unchanged values put back and float32 rounding undone as a search does it, `Constraints.violations`
  is false in raw units;
- columns that change together do so, encoded and decoded;
- ordered pairs hold too, within what float32 and the rounding of whole numbers cost (half a unit per such column).

Ordered pairs beside max_changes or groups that change together may have no solution that columns one by one can tell; a
search rejects what breaks them. A backbone that only repeats what it has observed answers only for people who may
become some of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from recourse_gen.constraints import Constraints, Feasible
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.testing.strategies import constraints, tables
from recourse_gen.testing.subject import Subject, require
from recourse_gen.testing.tables import NUMBERS, STEPS, Table, restored

SAMPLES = 6
Case = tuple[Table, pd.DataFrame, Constraints]


@st.composite
def cases(draw: st.DrawFn, ordered: bool) -> Case:
    """A table, people of whom some lie outside its ranges, and rules."""
    sizes: dict[str, Any] = {"makers": (*STEPS, *NUMBERS), "min_columns": 2} if ordered else {}
    table = draw(tables(max_rows=12, **sizes))
    rules = draw(constraints(table, ordered=ordered, max_changes=not ordered, together=not ordered))
    if ordered and draw(st.booleans()):  # nothing else that would keep columns from passing one another
        a, b, *_ = draw(st.permutations(table.schema.names))
        rules = Constraints(ordered=[(a, b)])
    if not ordered and len(table.schema.names) > 1 and not draw(st.integers(0, 3)):  # nor from changing alone
        rules = Constraints(together=[draw(st.permutations(table.schema.names))[:2]])
    rng, people = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), table.frame.copy()
    for feature in table.schema.numbers:
        if feature.storage.kind == "f" and draw(st.booleans()):
            assert feature.bounds is not None
            shift = rng.choice([0.0, 0.0, 0.3, -0.3], len(people)) * (feature.bounds[1] - feature.bounds[0])
            people[feature.name] = (people[feature.name].to_numpy() + shift).astype(feature.storage)
    return table, people, rules


def constraints_are_obeyed(subject: Subject) -> None:
    """Immutable, monotone, ranges, allowed (values and transitions), together and max_changes, exactly."""
    _for_all(subject, cases(ordered=False), lambda case: _assert_obeyed(subject, *case))


def ordered_pairs_are_obeyed(subject: Subject) -> None:
    """The same with ordered pairs, without together and max_changes."""
    _for_all(subject, cases(ordered=True), lambda case: _assert_obeyed(subject, *case))


def _for_all(subject: Subject, strategy: st.SearchStrategy[Case], check: Callable[[Case], None]) -> None:
    settings = hypothesis.settings(
        max_examples=subject.examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # shrinking takes minutes, and the sentence tells the rules anyway
    )
    hypothesis.seed(subject.seed)(settings(hypothesis.given(strategy)(check)))()


def _assert_obeyed(subject: Subject, table: Table, people: pd.DataFrame, rules: Constraints) -> None:
    feasible = rules.compile(table.schema, people, table.transform.encode(people))
    possible = np.array([not reason for reason in feasible.reasons])
    model = subject.build(table, rules)
    if not subject.learns and possible.any():
        at = np.flatnonzero(possible)  # bounds of the others may be infinite
        possible[at] = _have_partner(table, people.iloc[at], feasible.take(at), rules)
    if not possible.any():
        return
    people, feasible = people[possible], feasible.take(possible)
    rows = table.transform.encode(people)
    drawn = subject.sample(model, rows, SAMPLES, feasible=feasible)
    told = f"under {rules.to_dict()}"
    if not rules.ordered:  # whose rounding may move a number past a bound, until it is clipped in raw units
        _assert_encoded(table.schema, rows, feasible, drawn, told)
    after = restored(table, people, feasible, drawn)
    before = people.iloc[np.arange(len(people)).repeat(SAMPLES)]
    require(not replace(rules, ordered=()).violations(before, after).any(), f"a decoded sample is not allowed {told}")
    for a, b in rules.ordered:
        excess = (after[a].to_numpy(dtype=np.float64) - after[b].to_numpy(dtype=np.float64)).max()
        slack = _slack(table.schema, a) + _slack(table.schema, b)
        require(excess <= slack, f"column {a!r} exceeds {b!r} by {excess:g} {told}")


def _assert_encoded(schema: Schema, rows: Rows, feasible: Feasible, drawn: Rows, told: str) -> None:
    """As encoded: admitted tokens, numbers in bounds, and no more changes than allowed."""
    places = torch.arange(drawn.cat.shape[2])
    admitted = feasible.tokens[torch.arange(rows.batch_size)[:, None, None], places, drawn.cat]
    outside = (drawn.num < feasible.low[:, None]) | (drawn.num > feasible.high[:, None])
    for feature, column in zip(schema.tokens, (~admitted).any(1).any(0).tolist(), strict=True):
        require(not column, f"column {feature.name!r} went to a level that is not admitted {told}")
    for feature, column in zip(schema.numbers, outside.any(1).any(0).tolist(), strict=True):
        require(not column, f"column {feature.name!r} left its bounds {told}")
    for group in feasible.together:
        moved = _moved(schema, rows, drawn)[..., group]
        require(
            (moved.any(2) == moved.all(2)).all(), f"some of {[schema.names[d] for d in group]} changed alone {told}"
        )
    if feasible.max_changes is not None:
        most = int(_moved(schema, rows, drawn).sum(2).max())
        require(most <= feasible.max_changes, f"{most} columns differ from the factual's {told}")


def _have_partner(table: Table, people: pd.DataFrame, feasible: Feasible, rules: Constraints) -> np.ndarray:
    """Bool ``(B,)``: whose rules some partner obeys, encoded and in raw units."""
    rows, partners = table.transform.encode(people), table.transform.encode(table.frame.iloc[::2])
    count = partners.batch_size
    everybody = Rows(*(part.expand(len(people), *part.shape) for part in partners))
    after = restored(table, people, feasible, everybody)
    before = people.iloc[np.arange(len(people)).repeat(count)]
    obeys = ~rules.violations(before, after).reshape(len(people), count)
    obeys &= feasible.admits(table.schema, rows, partners).numpy()
    if feasible.max_changes is not None:
        obeys &= (_moved(table.schema, rows, everybody).sum(2) <= feasible.max_changes).numpy()
    return np.any(obeys, 1)


def _moved(schema: Schema, rows: Rows, drawn: Rows) -> torch.Tensor:
    """Bool ``(B, S, D)``: columns that differ from the factual's."""
    num, cat = drawn.num != rows.num[:, None], drawn.cat != rows.cat[:, None]
    return torch.stack([num[..., n] if t is None else cat[..., t] for _, t, n in schema.places], 2)


def _slack(schema: Schema, name: str) -> float:
    """By how much rounding may move a column's raw value."""
    feature = schema[name]
    if feature.is_token:
        return 0.0
    assert feature.bounds is not None
    return 0.5 + 1e-3 if feature.storage.kind in "iu" else 2e-6 * (abs(feature.bounds[0]) + abs(feature.bounds[1]))
