"""Recourse as a function from a frame to a frame, for engines that split a table: Spark, Dask, Ray.

::

    recourse = recourse_of("run", id="person", n=3)
    people.map_partitions(recourse, meta=recourse(people.head(0)))  # Dask
    people.map_batches(recourse, batch_format="pandas")             # Ray
    people.mapInPandas(functools.partial(map, recourse), schema)    # Spark, schema: the columns of the answers
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from recourse_gen.counterfactuals import Counterfactuals
from recourse_gen.data import tables
from recourse_gen.recourse import RecourseGenerator
from recourse_gen.schema import Schema

KEYS = ("factual", "rank")  # the first columns of an answer: who it is for, and which of theirs it is
_TURN = threading.Lock()  # a backbone keeps what it is working on, so one thread at a time


def recourse_of(
    folder: str | Path, *, id: str | None = None, ignore: tuple[str, ...] = (), classifier: Any = None, **options: Any
) -> Recourse:
    """A function that answers a frame of people by the generator of a run folder; it can be pickled.

    folder: where every worker finds the run, which does not change meanwhile. id: the column that names people; by
    default their index labels do. ignore: columns of the frame to leave out. classifier: as for
    `RecourseGenerator.load`, hashable. options: of `RecourseGenerator.generate`.

    The answer for a row depends on the seed and the row alone, so it is the same however the table is split. Raises
    ValueError, when called, for what `load` or `generate` refuse.
    """
    return Recourse(str(Path(folder).absolute()), id, tuple(ignore), classifier, options)


@dataclass(frozen=True)
class Recourse:
    """See `recourse_of`. Workers load the generator when they are first called, once per process."""

    folder: str
    id: str | None = None
    ignore: tuple[str, ...] = ()
    classifier: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row per answer: ``factual``, ``rank`` and the columns of the training, of its dtypes; nobody's answers
        (``head(0)``) are an empty frame with these columns."""
        return flat(self.found(frame).to_frame())

    def found(self, frame: pd.DataFrame) -> Counterfactuals:
        """The answers with their report."""
        people = named(frame, self.id, self.ignore)
        with _TURN:
            return _loaded(self.folder, self.classifier).generate(people, **self.options)


@lru_cache(maxsize=2)
def _loaded(folder: str, classifier: Any) -> RecourseGenerator:
    generator = RecourseGenerator.load(folder, classifier=classifier)
    check_keys(generator.schema)
    return generator


def check_keys(schema: Schema) -> None:
    """Raise ValueError if the answers could not be told from their keys."""
    taken = [name for name in KEYS if name in schema.names]
    if taken:
        raise ValueError(f"the run has a column {taken[0]!r}, which is the name of a column of the answers")


def named(
    frame: pd.DataFrame, id: str | None, ignore: Sequence[str] = (), source: object = "the table"
) -> pd.DataFrame:
    """The people of a frame, under their names, without the columns to ignore.

    Raises ValueError for a column that is not there, and for names that are missing or given twice."""
    for name in [*ignore, *([id] if id else [])]:
        if name not in frame.columns:
            raise ValueError(f"{source} has no column {name!r}; its columns are {tables.quoted(frame.columns)}")
    frame = frame.drop(columns=list(ignore))
    if id is None:
        return frame
    names = frame.pop(id)
    check_names(names, source)
    return frame.set_axis(pd.Index(names))


def check_names(names: pd.Series, source: object) -> None:
    """Raise ValueError unless everybody has a name of their own."""
    if names.isna().any() or names.duplicated().any():
        raise ValueError(f"column {names.name!r} of {source} must name everybody, and nobody twice")


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Answers or a report with the keys as first columns."""
    return frame.rename_axis(list(KEYS)).reset_index()
