"""Answers for a Parquet file that is larger than memory: row group by row group, by any number of processes.

A finished group is a file of its own, put in place whole, so that a call that was cut short goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recourse_gen import files
from recourse_gen.checkpoint import write_text
from recourse_gen.counterfactuals import Counterfactuals
from recourse_gen.data import tables
from recourse_gen.partition import check_names, flat, named

PLAN = "plan.json"
_LIMIT = files.MEGABYTE  # of a plan
_PAUSE = 0.1  # seconds between looks at what other processes have done


def wanted(source: Path, processes: int, *outputs: Path | None) -> bool:
    """Whether answers should be found part by part: for several row groups or processes.

    Raises ValueError for several processes and anything but Parquet files."""
    tabular = all(tables.kind_of(path) == ".parquet" for path in (source, *outputs) if path is not None)
    if processes > 1 and not tabular:
        raise ValueError(
            "several processes share a Parquet file; --input, --output and --report have to end in .parquet"
        )
    return tabular and source.is_file() and (processes > 1 or _parquet(source).metadata.num_row_groups > 1)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as .parquet: {str(error).strip().splitlines()[0]}") from error


@dataclass(frozen=True)
class Parts:
    """The row groups of `source`, and a folder beside `output` that holds the answers of the finished ones.

    asked: all that the answers depend on, beside the source; JSON. process, processes: this one, of how many; number i
    answers the groups i, i + processes, ... A table that is not answered by `asked` is refused, not continued.
    """

    source: Path
    output: Path
    asked: Mapping[str, Any]
    process: int = 0
    processes: int = 1

    @property
    def folder(self) -> Path:
        return self.output.with_name(f"{self.output.name}.parts")

    @cached_property
    def file(self) -> pq.ParquetFile:
        return _parquet(self.source)

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each group, and the number of rows."""
        starts = [0]
        for group in range(self.file.metadata.num_row_groups):
            starts.append(starts[-1] + self.file.metadata.row_group(group).num_rows)
        return starts

    def open(self, id: str | None) -> None:
        """Make the folder, or look whether it may be gone on with; every process, before any of them answers.

        Raises ValueError if it belongs to another call, or `id` does not name everybody."""
        if id is not None:
            check_names(self.column(id), self.source)
        status = self.source.stat()
        plan = {**self.asked, "source": [str(self.source.resolve()), status.st_size, status.st_mtime_ns]}
        due = json.dumps(plan, sort_keys=True, default=str)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / PLAN
        if not path.exists():  # another process may write the same meanwhile
            write_text(path, due)
        if files.read(path, _LIMIT).decode() != due:
            raise ValueError(
                f"{self.folder} holds parts of another call (other people, run or options); remove it first"
            )

    @property
    def people(self) -> int:
        """How many of them this process answers in all."""
        return sum(self.starts[group + 1] - self.starts[group] for group in self._mine)

    @property
    def _mine(self) -> range:
        return range(self.process, len(self.starts) - 1, self.processes)

    def answer(self, answer: Callable[[pd.DataFrame], Counterfactuals], id: str | None, ignore: Sequence[str]) -> None:
        """Answer the groups of this process that nobody has finished yet.

        id, ignore: as in `recourse_of`. Raises ValueError for what cannot be answered, and
        KeyboardInterrupt, saying what to do, when it is interrupted."""
        try:
            for group in self._mine:
                if not self._path(group, "found").exists():
                    found = answer(named(self.read(group, id), id, ignore, self.source))
                    self.write(group, flat(found.to_frame()), flat(found.report))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on from {self.folder}") from None
        except Exception:
            if not any(self.folder.glob("*-found.parquet")):  # or the same call, put right, would be another one
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def read(self, group: int, id: str | None) -> pd.DataFrame:
        """The rows of a group, numbered as in the file; the index is a column where `id` names it."""
        frame = tables.without_index(self.file.read_row_group(group).to_pandas(), id)
        return frame.set_axis(pd.RangeIndex(self.starts[group], self.starts[group + 1]))

    def column(self, name: str) -> pd.Series:
        """One column of all groups. Raises ValueError if there is no such column."""
        if name not in self.file.schema_arrow.names:
            known = tables.quoted(self.file.schema_arrow.names)
            raise ValueError(f"{self.source} has no column {name!r}; its columns are {known}")
        return self.file.read([name]).to_pandas(ignore_metadata=True)[name]

    def write(self, group: int, found: pd.DataFrame, report: pd.DataFrame) -> None:
        """Keep the answers of a group; the answers last, for they say that it is finished."""
        for kind, frame in (("report", report), ("found", found)):
            try:
                files.replace_file(self._path(group, kind), partial(frame.to_parquet, index=False))
            except FileNotFoundError:
                if self.folder.exists():
                    raise
                # Whoever waited for this last part has seen it, joined them all and removed the folder.

    def wait(self) -> None:
        """Until every group is finished, by whomever. A process that dies ends the launch, and so the wait.

        Raises ValueError if the same call was given twice, and the other has removed the folder."""
        missing = set(range(len(self.starts) - 1))
        while missing := {group for group in missing if not self._path(group, "found").exists()}:
            if not (self.folder / PLAN).exists():
                raise ValueError(f"the same call, given twice, has joined these parts into {self.output} already")
            time.sleep(_PAUSE)

    def join(self, report: Path | None) -> list[pd.Series]:
        """Wait for every group, write the answers, and the report if asked for, in the order of the source, and remove
        the parts. Returns everybody's statuses, by name, one Series for each group."""
        self.wait()
        groups = range(len(self.starts) - 1)
        told = [pd.read_parquet(self._path(g, "report"), columns=["factual", "status"]) for g in groups]
        for kind, path in (("report", report), ("found", self.output)):
            if path is not None:
                files.replace_file(path, partial(_concatenate, [self._path(group, kind) for group in groups]))
        shutil.rmtree(self.folder, ignore_errors=True)
        return [each.set_index("factual")["status"] for each in told]

    def _path(self, group: int, kind: str) -> Path:
        return self.folder / f"{group:06d}-{kind}.parquet"


def _concatenate(parts: Sequence[Path], whole: Path) -> None:
    # A group without answers does not know the type of every column.
    schema = pa.unify_schemas([pq.read_schema(part) for part in parts], promote_options="permissive")
    with pq.ParquetWriter(whole, schema) as file:
        for part in parts:
            file.write_table(pq.read_table(part).cast(schema))


def digest(path: Path | None) -> str | None:
    """SHA-256 of a file, in hexadecimal; None for none."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
