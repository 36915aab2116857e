"""Hypothesis strategies for mixed tables, their schemas and constraints. Columns are filled by a seeded NumPy
generator, which is much faster than drawing cells one by one and still replays and shrinks in size."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from hypothesis import settings
from hypothesis import strategies as st

from recourse_gen.constraints import Constraints
from recourse_gen.feasible import Feasible
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.search import Search
from recourse_gen.transform import TableTransform

quick = settings(deadline=None, max_examples=25)

Maker = Callable[[np.random.Generator, int], pd.Series]

TOKENS: dict[str, Maker] = {
    "text": lambda rng, n: pd.Series(rng.choice(["a", "b", "ü", "1"], n)),
    "string": lambda rng, n: pd.Series(rng.choice(["x", "y", "z"], n)).astype("string"),
    "object": lambda rng, n: pd.Series(rng.choice(np.array(["a", 1, 2.5], dtype=object), n), dtype=object),
    "bool": lambda rng, n: pd.Series(rng.random(n) < 0.5),
    "boolean": lambda rng, n: pd.Series(rng.random(n) < 0.5).astype("boolean"),
    "category": lambda rng, n: pd.Series(pd.Categorical(rng.choice(["lo", "hi"], n), ["lo", "never", "hi"])),
    "ranked": lambda rng, n: pd.Series(pd.Categorical(rng.choice(["s", "m", "l"], n), ["s", "m", "l"], ordered=True)),
    "codes": lambda rng, n: pd.Series(rng.integers(3, 6, n).astype(np.int8)).astype("category"),
}
STEPS: dict[str, Maker] = {
    "int8": lambda rng, n: pd.Series(rng.integers(-3, 4, n).astype(np.int8)),
    "Int64": lambda rng, n: pd.Series(rng.integers(0, 6, n)).astype("Int64"),
    "steps": lambda rng, n: pd.Series(rng.choice([0.1, 0.25, 1.7, 3.0], n)),
}
NUMBERS: dict[str, Maker] = {
    "float": lambda rng, n: pd.Series(rng.normal(2.0, 3.0, n)),
    "float32": lambda rng, n: pd.Series(rng.random(n).astype(np.float32)),
    "whole": lambda rng, n: pd.Series(rng.integers(-5, 2000, n)),
    "uint16": lambda rng, n: pd.Series(rng.integers(0, 999, n).astype(np.uint16)),
    "atoms": lambda rng, n: pd.Series(np.where(rng.random(n) < 0.6, 0.0, rng.exponential(7.0, n))),
}
MAKERS = {**TOKENS, **STEPS, **NUMBERS}


class Table(NamedTuple):
    """A training frame with its schema and fitted transform."""

    frame: pd.DataFrame
    schema: Schema
    transform: TableTransform


def varied(maker: Maker, rng: np.random.Generator, rows: int) -> pd.Series:
    """A column that is not constant, and of more than two values where it is to be continuous."""
    while (column := maker(rng, rows)).nunique() < (3 if maker in NUMBERS.values() else 2):
        pass
    return column


@st.composite
def frames(draw, makers=tuple(MAKERS), min_columns=1, max_columns=6, min_rows=6, max_rows=30):
    """A frame of random columns of the named makers; their names are ``c0_text`` and so on."""
    chosen = draw(st.lists(st.sampled_from(list(makers)), min_size=min_columns, max_size=max_columns))
    rows = draw(st.integers(min_rows, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return pd.DataFrame({f"c{d}_{name}": varied(MAKERS[name], rng, rows) for d, name in enumerate(chosen)})


@st.composite
def tables(draw, makers=tuple(MAKERS), weighted=False, tokenize=None, **sizes):
    """A random `Table`: any tokenisation, now and then with weights."""
    frame = draw(frames(makers, **sizes))
    weights = {name: draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])) for name in frame.columns} if weighted else None
    tokenize = draw(st.sampled_from(["auto", "none", "all"])) if tokenize is None else tokenize
    schema = Schema.infer(frame, weights=weights, tokenize=tokenize, max_levels=draw(st.sampled_from([4, 8, 256])))
    return Table(frame, schema, TableTransform(schema).fit(frame))


def some(draw, names, chance=0.4):
    """Each name with about this chance."""
    return [name for name in names if draw(st.floats(0, 1)) < chance]


@st.composite
def constraints(draw, table: Table, ordered=True, max_changes=True):
    """Random `Constraints` that fit the table. Some of its rows may be left without a feasible change."""
    frame, schema = table.frame, table.schema
    numeric = [f.name for f in schema.features if f.kind != "categorical"]
    ranges, allowed = {}, {}
    for name in some(draw, numeric):
        low, high = sorted(float(x) for x in frame[name].iloc[[draw(st.integers(0, len(frame) - 1)) for _ in "ab"]])
        ends = [low, low + 0.37 * (high - low)] if draw(st.booleans()) else [low, high]
        ranges[name] = tuple(draw(st.sampled_from([end, end, None])) for end in ends)
    for feature in schema.tokens:
        if draw(st.floats(0, 1)) < 0.3:
            choice = st.lists(st.sampled_from(feature.levels), max_size=4)
            rules = st.dictionaries(st.sampled_from(feature.levels), choice, max_size=3)
            allowed[feature.name] = draw(st.one_of(choice.filter(bool), rules))
    shuffled = draw(st.permutations(numeric))
    pairs = [(a, b) for a, b in itertools.pairwise(shuffled) if draw(st.booleans())] if ordered else []
    return Constraints(
        immutable=some(draw, schema.names, 0.15),
        monotone={name: draw(st.sampled_from(["increase", "decrease"])) for name in some(draw, numeric)},
        ranges=ranges,
        allowed=allowed,
        max_changes=draw(st.sampled_from([None, 1, 2, 3])) if max_changes else None,
        ordered=pairs,
    )


def restored(table: Table, people: pd.DataFrame, feasible: Feasible, drawn: Rows) -> pd.DataFrame:
    """Candidates ``(B, S, ·)`` as the frame ``(B·S)`` that a search hands out, by the search's own code."""
    search = Search(torch.nn.Identity(), table.transform, None, None, Constraints(), None)
    return search._restore(people, table.transform.encode(people), feasible, drawn)
