"""Hypothesis strategies for mixed tables, their schemas and constraints. Columns are filled by a seeded NumPy
generator, which is much faster than drawing cells one by one and still replays and shrinks in size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from recourse_gen.constraints import Constraints
from recourse_gen.schema import Schema
from recourse_gen.testing.tables import MAKERS, Table, random_frame
from recourse_gen.transform import TableTransform

quick = settings(deadline=None, max_examples=25)


@st.composite
def frames(
    draw: st.DrawFn,
    makers: Iterable[str] = tuple(MAKERS),
    min_columns: int = 1,
    max_columns: int = 6,
    min_rows: int = 6,
    max_rows: int = 30,
) -> Any:
    """A frame of random columns of the named makers; their names are ``c0_text`` and so on."""
    chosen = draw(st.lists(st.sampled_from(list(makers)), min_size=min_columns, max_size=max_columns))
    return random_frame(chosen, draw(st.integers(min_rows, max_rows)), draw(st.integers(0, 2**32 - 1)))


@st.composite
def tables(
    draw: st.DrawFn,
    makers: Iterable[str] = tuple(MAKERS),
    weighted: bool = False,
    tokenize: str | None = None,
    **sizes: int,
) -> Table:
    """A random `Table`: any tokenisation, now and then with weights."""
    frame = draw(frames(makers, **sizes))
    weights = {name: draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])) for name in frame.columns} if weighted else None
    tokenize = draw(st.sampled_from(["auto", "none", "all"])) if tokenize is None else tokenize
    schema = Schema.infer(frame, weights=weights, tokenize=tokenize, max_levels=draw(st.sampled_from([4, 8, 256])))
    return Table(frame, schema, TableTransform(schema).fit(frame))


def some(draw: st.DrawFn, names: Iterable[str], chance: float = 0.4) -> list[str]:
    """Each name with about this chance."""
    return [name for name in names if draw(st.floats(0, 1)) < chance]


@st.composite
def constraints(
    draw: st.DrawFn, table: Table, ordered: bool = True, max_changes: bool = True, together: bool = True
) -> Constraints:
    """Random `Constraints` that fit the table. Some of its rows may be left without a feasible change."""
    frame, schema = table.frame, table.schema
    numeric = [f.name for f in schema.features if f.kind != "categorical"]
    ranges: dict[str, tuple[float | None, float | None]] = {}
    allowed: dict[str, list[Any] | Mapping[Any, list[Any]]] = {}
    for name in some(draw, numeric):
        low, high = sorted(float(x) for x in frame[name].iloc[[draw(st.integers(0, len(frame) - 1)) for _ in "ab"]])
        ends = [low, low + 0.37 * (high - low)] if draw(st.booleans()) else [low, high]
        first, last = (draw(st.sampled_from([end, end, None])) for end in ends)
        ranges[name] = (first, last)
    for feature in schema.tokens:
        if draw(st.floats(0, 1)) < 0.3:
            choice = st.lists(st.sampled_from(feature.levels), max_size=4)
            rules = st.dictionaries(st.sampled_from(feature.levels), choice, max_size=3)
            allowed[feature.name] = draw(st.one_of(choice.filter(bool), rules))
    shuffled = draw(st.permutations(numeric))
    pairs = [(a, b) for a, b in itertools.pairwise(shuffled) if draw(st.booleans())] if ordered else []
    groups = st.lists(st.sampled_from(schema.names), min_size=2, max_size=3, unique=True)
    linked = together and len(schema.names) > 1 and draw(st.booleans())
    return Constraints(
        immutable=some(draw, schema.names, 0.15),
        monotone={name: draw(st.sampled_from(["increase", "decrease"])) for name in some(draw, numeric)},
        ranges=ranges,
        allowed=allowed,
        max_changes=draw(st.sampled_from([None, 1, 2, 3])) if max_changes else None,
        ordered=pairs,
        together=draw(st.lists(groups, max_size=2)) if linked else [],
    )
