"""Tables to learn recourse on: four benchmark sets, a user's own file, three synthetic sets.

Every table comes back as a `Dataset`: features as a frame in their own units, labels as 0/1 with 1 = favourable, and a
train/test split. Nothing here scales, encodes or relabels: that is the transform's and the training's work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import make_circles, make_moons
from sklearn.model_selection import train_test_split

from recourse_gen.data import benchmarks
from recourse_gen.data.tables import quoted, read_labelled
from recourse_gen.options import random_state

__all__ = ["Dataset", "load", "names"]

SYNTHETIC = ("moons", "circles", "corr")
OWN_OPTIONS = {"heloc": ("impute",), "csv": ("path", "target", "target_class"), **dict.fromkeys(SYNTHETIC, ("n_rows",))}
SHARED_OPTIONS = ("seed", "folder", "test_size", "immutable", "monotone", "kinds")


@dataclass(frozen=True)
class Dataset:
    """One table, split. Features keep the dtypes that they were read with; the index is the row number in the source.

    `immutable` and `monotone` (column: "increase" or "decrease") are advice for constraints, `kinds` (column:
    "categorical", "ordinal" or "continuous") for the schema."""

    name: str
    train: pd.DataFrame
    test: pd.DataFrame
    y_train: np.ndarray  # (rows,) int64, 1 = favourable
    y_test: np.ndarray
    immutable: tuple[str, ...] = ()
    monotone: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """The data sets that `load` knows."""
    return [*benchmarks.FILES, "csv", *SYNTHETIC]


def load(
    name: str,
    *,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    target: str | None = None,
    target_class: Any = None,
    impute: str = "median",
    test_size: float = 0.25,
    immutable: Sequence[str] | None = (),
    monotone: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    n_rows: int | None = None,
    **unknown: Any,
) -> Dataset:
    """Read data set `name` and split it, stratified by label, with the share `test_size` for testing.

    The same `seed` gives the same split, and the same draw of a synthetic set.

    - folder: read `{name}_train.csv` and `{name}_test.csv` there instead: adult, compas and heloc in the paper's
      preprocessed form. That split is fixed, so `seed`, `test_size` and `impute` have no effect on it.
    - path, target, target_class (csv): a .csv, .csv.gz or .parquet file, its label column, and the favourable one of
      the two labels (default: 1 of {0, 1}, True of {False, True}).
    - impute (heloc): "median" of the training split, or "class_mean" for paper parity, which leaks the label.
    - n_rows (synthetic sets): how many rows to draw, default 2000.
    - immutable, monotone, kinds: kept in the `Dataset`, as advice for constraints and schema.

    A `ValueError` says in one sentence what is wrong with an option or a file, and what exists or mends it.
    """
    if name not in names():
        raise ValueError(f"data set {name!r} is unknown; there are {', '.join(names())}")
    given = {"path": path, "target": target, "target_class": target_class, "n_rows": n_rows, **unknown}
    given["impute"] = None if impute == "median" else impute
    allowed = OWN_OPTIONS.get(name, ())
    for option, value in given.items():
        if option not in allowed and (option in unknown or value is not None):
            listed = ", ".join((*SHARED_OPTIONS, *allowed))
            raise ValueError(f"option {option!r} is unknown for data set {name!r}; its options are {listed}")
    if impute not in ("median", "class_mean"):
        raise ValueError(f"option 'impute' is {impute!r}; there are median, class_mean")
    if isinstance(test_size, bool) or not isinstance(test_size, (int, float)) or not 0 < test_size < 1:
        raise ValueError(f"option 'test_size' is a share of the rows between 0 and 1, not {test_size!r}")

    if folder is not None:
        train, test, y_train, y_test = benchmarks.read_split(name, Path(folder).expanduser())
    else:
        if name in SYNTHETIC:
            frame, y = _draw(name, 2000 if n_rows is None else n_rows, seed)
        elif name == "csv":
            frame, y = read_labelled(path, target, target_class)
        else:
            frame, y = benchmarks.read(name)
        if name == "heloc" and impute == "class_mean":
            frame = benchmarks.impute_class_mean(frame, y)
        train, test, y_train, y_test = _split(frame, y, test_size, seed)
        if name == "heloc" and impute == "median":
            train, test = benchmarks.impute_median(train, test)

    immutable, monotone, kinds = immutable or (), monotone or {}, kinds or {}
    for option, columns in (("immutable", immutable), ("monotone", monotone), ("kinds", kinds)):
        if isinstance(columns, str):
            raise ValueError(f"option {option!r} is the single text {columns!r}; write a list of columns: [{columns}]")
        absent = [column for column in columns if column not in train.columns]
        if absent:
            raise ValueError(f"option {option!r} names {quoted(absent)}; the columns are {quoted(train.columns)}")
    return Dataset(name, train, test, y_train, y_test, tuple(immutable), dict(monotone), dict(kinds))


def _draw(name: str, n_rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """`n_rows` points in the columns x1 and x2, and their labels.

    moons: scikit-learn's, noise 0.15. circles: scikit-learn's, radii 1 and 0.5, noise 0.1; the inner one is favourable.

    corr: two linked columns, the law in the published experiments of arXiv 2505.07351: x1 ~ U(−½, ½),
    x2 = tanh(20·x1)·u/2 with u ~ U(0, 1), and P(1 | x1, x2) = sigmoid(2·x2 + 120·x1³). x2 has the sign of x1, so
    changing x1 alone to a favourable value leaves the data."""
    if isinstance(n_rows, bool) or not isinstance(n_rows, (int, np.integer)) or n_rows < 2:
        raise ValueError(f"option 'n_rows' is a whole number of at least 2, not {n_rows!r}")
    if name == "moons":
        points, y = make_moons(n_rows, noise=0.15, random_state=random_state(seed))
    elif name == "circles":
        points, y = make_circles(n_rows, factor=0.5, noise=0.1, random_state=random_state(seed))
    else:
        rng = np.random.default_rng(seed)
        x1 = rng.uniform(-0.5, 0.5, n_rows)
        x2 = np.tanh(20 * x1) * rng.uniform(0, 0.5, n_rows)
        points, y = np.stack([x1, x2], axis=1), rng.random(n_rows) < 1 / (1 + np.exp(-2 * x2 - 120 * x1**3))
    return pd.DataFrame(points, columns=["x1", "x2"]), np.asarray(y, np.int64)


def _split(frame: pd.DataFrame, y: np.ndarray, test_size: float, seed: int) -> Any:
    """Train frame, test frame, train labels, test labels, with the share of favourable rows kept."""
    rarer, n_test = int(np.bincount(y, minlength=2).min()), math.ceil(test_size * len(y))
    if rarer < 2 or min(n_test, len(y) - n_test) < 2:
        raise ValueError(
            f"{len(y)} rows, {rarer} of them with the rarer label, cannot be split at test_size={test_size}: "
            "training and test rows need both labels"
        )
    return train_test_split(frame, y, test_size=test_size, random_state=random_state(seed), stratify=y)
