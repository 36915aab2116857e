"""Reading a table from a CSV or Parquet file, with one sentence for everything that can be wrong with it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def read_labelled(
    path: str | os.PathLike[str] | None, target: str | None, target_class: Any
) -> tuple[pd.DataFrame, np.ndarray]:
    """Features and 0/1 labels (1 = `target_class`) of a user's table.

    Every column but `target` is a feature; nothing is filled in, renamed or dropped."""
    # Hydra leaves "???" in the place of a mandatory value that was not given
    if path is None or path == "???":
        raise ValueError("data set 'csv' needs the option 'path', for instance data.path=people.csv")
    if target is None or target == "???":
        raise ValueError(
            "data set 'csv' needs the option 'target', the label column, for instance data.target=approved"
        )
    file = Path(path).expanduser()
    frame = read_table(file)
    if target not in frame.columns:
        raise ValueError(f"target column {target!r} is not in {file}; its columns are {quoted(frame.columns)}")
    if frame.shape[1] < 2:
        raise ValueError(f"{file} has no column besides the target {target!r}")
    labels = frame.pop(target)
    if labels.isna().any():
        raise ValueError(f"target column {target!r} of {file} has no value in {int(labels.isna().sum())} rows")
    values = labels.unique().tolist()
    if len(values) != 2:
        raise ValueError(f"target column {target!r} must hold two values; it holds {len(values)}: {quoted(values)}")
    if target_class is None:
        favourable = [value for value in values if value == 1] if set(values) == {0, 1} else []
    else:  # a value from the command line or from YAML may differ in type: 1 for "1"
        exact = [value for value in values if value == target_class]
        favourable = exact or [value for value in values if str(value) == str(target_class)]
    if not favourable:
        said = "is missing" if target_class is None else f"is {target_class!r}"
        raise ValueError(
            f"option 'target_class' {said}; the labels in {target!r}, one of them favourable, are {quoted(values)}"
        )
    check_complete(frame, file)
    return frame, (labels == favourable[0]).to_numpy(np.int64)


SUFFIXES = (".csv", ".csv.gz", ".parquet")


def kind_of(path: Path) -> str:
    """Which of `SUFFIXES` a file has. Raises ValueError if it is none of them."""
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(f"{path} is neither .csv, .csv.gz nor .parquet")
    return suffix


def read_table(path: Path, *, least: int = 2, text: Collection[str] = (), names: str | None = None) -> pd.DataFrame:
    """A .csv, .csv.gz or .parquet file with at least `least` rows and distinct, non-empty column names.

    text: columns that CSV files hold as text, whatever it looks like: 007 stays 007, and NA is a word. names: the
    column that names the rows: whole numbers, if every cell of a CSV file reads like one, else text; an empty cell is
    missing. In a Parquet file it may be the index; any other index is left out.
    """
    suffix = kind_of(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        if suffix == ".parquet":
            frame = without_index(pd.read_parquet(path), names)
            header = [str(column) for column in frame.columns]
        else:
            # Read as data, the header keeps a second "a" (else renamed to "a.1" without a word), and a first row with
            # more fields is an error (else its leading fields would become an index)
            header = pd.read_csv(path, header=None, nrows=2, dtype=str, keep_default_na=False).iloc[0].tolist()
            frame = pd.read_csv(path, low_memory=False)
            asked = [column for column in {*text, *([names] if names else ())} if column in frame]
            if asked:
                words = pd.read_csv(path, usecols=asked, dtype=str, keep_default_na=False)
                frame[asked] = words[asked]
            if names in asked:
                frame[names] = _names(words[names])
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as {suffix}: {str(error).strip().splitlines()[0]}") from error
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise ValueError(f"{path} has more than one column named {quoted(repeated)}")
    if "" in header:
        raise ValueError(
            f"column {header.index('') + 1} of {path} has no name; name it, or remove a column of row numbers"
        )
    if len(frame) < least:
        raise ValueError(f"{path} holds too few rows ({len(frame)}); the least is {least}")
    return frame


def without_index(frame: pd.DataFrame, names: str | None) -> pd.DataFrame:
    """`frame` with rows numbered from 0; an index called `names` becomes a column."""
    return frame.reset_index(drop=names is None or frame.index.name != names)


def _names(cells: pd.Series) -> pd.Series:
    whole = cells.str.fullmatch(r"0|-?[1-9]\d{0,17}").all()
    return cells.astype("int64") if whole else cells.mask(cells == "")


def check_complete(frame: pd.DataFrame, path: Path) -> None:
    """Raise for missing or infinite values, naming the columns that have them."""
    missing = frame.columns[frame.isna().any()]
    if len(missing):
        raise ValueError(f"{path} has missing values (empty cells, or NA, nan, null, None) in {quoted(missing)}")
    infinite = [column for column in frame.select_dtypes("number") if np.isinf(frame[column].to_numpy(float)).any()]
    if infinite:
        raise ValueError(f"{path} has infinite values in {quoted(infinite)}")


def quoted(values: Collection[Any]) -> str:
    """The first 30 of some values, for a sentence."""
    listed = [repr(value) for value in list(values)[:30]]
    return ", ".join(listed + ["…"] * (len(values) > 30))
