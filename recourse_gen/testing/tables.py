"""Random tables with every kind of column, filled by a seeded NumPy generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from recourse_gen.constraints import Constraints
from recourse_gen.feasible import Feasible
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.scoring import People, as_frame
from recourse_gen.transform import TableTransform

Maker = Callable[[np.random.Generator, int], pd.Series]

TOKENS: dict[str, Maker] = {
    "text": lambda rng, n: pd.Series(rng.choice(["a", "b", "ü", "1"], n)),
    "string": lambda rng, n: pd.Series(rng.choice(["x", "y", "z"], n)).astype("string"),
    "python": lambda rng, n: pd.Series(rng.choice(["x", "y", "z"], n)).astype("string[python]"),
    "arrow": lambda rng, n: pd.Series(rng.choice(["x", "y", "z"], n)).astype(pd.ArrowDtype(pa.string())),
    "object": lambda rng, n: pd.Series(rng.choice(np.array(["a", 1, 2.5], dtype=object), n), dtype=object),
    "bool": lambda rng, n: pd.Series(rng.random(n) < 0.5),
    "boolean": lambda rng, n: pd.Series(rng.random(n) < 0.5).astype("boolean"),
    "category": lambda rng, n: pd.Series(pd.Categorical(rng.choice(["lo", "hi"], n), ["lo", "never", "hi"])),
    "ranked": lambda rng, n: pd.Series(pd.Categorical(rng.choice(["s", "m", "l"], n), ["s", "m", "l"], ordered=True)),
    "codes": lambda rng, n: pd.Series(rng.integers(3, 6, n).astype(np.int8)).astype("category"),
}
STEPS: dict[str, Maker] = {
    "int8": lambda rng, n: pd.Series(rng.integers(-3, 4, n).astype(np.int8)),
    "int64[pyarrow]": lambda rng, n: pd.Series(rng.integers(0, 6, n)).astype("int64[pyarrow]"),
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


def random_frame(makers: Iterable[str], rows: int, seed: int) -> pd.DataFrame:
    """One column of each named maker, called ``c0_text`` and so on."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({f"c{d}_{name}": varied(MAKERS[name], rng, rows) for d, name in enumerate(makers)})


def table_of(frame: pd.DataFrame, tokenize: str = "auto") -> Table:
    """The frame as a `Table`; no column needs more than eight tokens under ``auto``."""
    schema = Schema.infer(frame, tokenize=tokenize, max_levels=8)
    return Table(frame, schema, TableTransform(schema).fit(frame))


def pairs_of(table: Table, constraints: Constraints, device: torch.device | str = "cpu") -> PairSupervision:
    """Q with the table's rows as factuals and every second one as a partner."""
    partners = table.transform.encode(table.frame.iloc[::2])
    rest: dict[str, Any] = {"transform": table.transform, "constraints": constraints, "options": PairOptions()}
    return PairSupervision(table.frame, partners, device=device, **rest)


def restored(table: Table, people: pd.DataFrame, feasible: Feasible, drawn: Rows) -> pd.DataFrame:
    """Candidates ``(B, S, ·)`` as the frame ``(B·S)`` that a search hands out, by the search's own code."""
    person = np.arange(len(people)).repeat(drawn.cat.shape[1])
    asked = People(table.transform, people, table.transform.encode(people), feasible)
    return as_frame(asked, person, drawn.flatten())
