"""Anyone's counterfactuals, read against the factuals that they answer: whose they are, and in which values."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from recourse_gen.dtypes import is_number
from recourse_gen.schema import Feature, Schema, check_values

NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")  # what pandas calls objects that are
MIXED = {"mixed", "mixed-integer"}
_DECIMAL = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+)(\.(?P<fraction>[0-9]*))?")


class Aligned(NamedTuple):
    """Answers and failures in the factuals' order: R rows, A of them answers.

    keys: ``(factual, rank)`` of each row; a factual without an answer has one row, of rank 0. person: int64 ``(R,)``,
    the position of its factual. found: bool ``(R,)``, whether it is an answer. answers: frame ``(A, D)`` in the
    schema's columns, without missing values.
    """

    keys: pd.MultiIndex
    person: np.ndarray
    found: np.ndarray
    answers: pd.DataFrame


def align(factuals: pd.DataFrame, counterfactuals: pd.DataFrame, schema: Schema) -> Aligned:
    """Read `counterfactuals`, whoever made them.

    Their index says whom they answer: ``(factual, rank)``, or the factual alone where each has one answer at most; any
    index will do where there is but one factual. Answers are numbered in their order, unless the second level is called
    ``rank`` and tells them apart. A row with a missing value is no answer, and columns that the schema lacks are
    ignored. Values come back as the factuals have them wherever none changes by it: 35.0 or "35" is the whole number
    35, and "1" is the category 1; a float is as long as theirs. Others stay, for rounding them would flatter the
    method.

    Raises ValueError for columns that are missing, factuals that `check_rows` refuses, what is no number among numbers,
    and an index that does not tell whose answer a row is.
    """
    columns = list(schema.names)
    check_rows("factuals", factuals, schema)
    check_columns("counterfactuals", counterfactuals, columns)
    if not len(factuals):
        raise ValueError("there are no factuals to evaluate")
    person, rank = _whose(factuals.index, counterfactuals.index)
    held = counterfactuals[columns].notna().all(axis=1).to_numpy(dtype=bool)
    answers = counterfactuals.loc[held, columns]
    read = {feature.name: _read(answers[feature.name], factuals[feature.name], feature) for feature in schema.features}
    failed = np.setdiff1d(np.arange(len(factuals)), person[held])
    rank = pd.Index(_numbered(person[held]) if rank is None else rank[held])
    everybody = np.concatenate([person[held], failed])
    order = np.argsort(everybody, kind="stable")
    everybody, found = everybody[order], order < held.sum()
    ranks = rank.append(pd.Index(np.zeros(len(failed), dtype=np.int64)))[order]
    keys = pd.MultiIndex.from_arrays([factuals.index[everybody], ranks], names=["factual", "rank"])
    frame = pd.DataFrame(read).iloc[order[found]].set_axis(keys[found])
    return Aligned(keys, everybody, found, frame)


def check_columns(what: str, frame: Any, columns: list[str]) -> None:
    """Raise ValueError unless `frame` is one that holds each of the columns once."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"the {what} must be a pandas DataFrame, got {type(frame).__name__}")
    for name in columns:
        held = int((frame.columns == name).sum())
        if held != 1:
            raise ValueError(f"column {name!r} {'is missing from' if not held else 'is repeated in'} the {what}")


def check_rows(what: str, frame: Any, schema: Schema) -> None:
    """Raise ValueError, naming the column, unless `frame` has complete rows of the schema: finite numbers where those
    are due, be they kept as objects, and categories that it knows, 1 not being "1". Other columns may stand beside."""
    check_columns(what, frame, list(schema.names))
    for feature in schema.features:
        column, where = frame[feature.name], f"column {feature.name!r} of the {what}"
        check_values(column)
        if feature.kind == "categorical":
            known = set(feature.levels)
            unseen = [value for value in _distinct(column, where)[1].tolist() if value not in known]
            if unseen:
                some = ", ".join(map(repr, feature.levels[:20])) + (", ..." if len(feature.levels) > 20 else "")
                raise ValueError(f"{where} holds {unseen[0]!r}, a category that the schema lacks; known are {some}")
        elif is_number(column) or infer_dtype(column, skipna=False) in (*NUMBERS, "empty"):
            _check_finite(column, where)
        else:
            strange = [value for value in column.tolist() if isinstance(value, bool) or not isinstance(value, Real)]
            got = repr(strange[0]) if strange else f"dtype {column.dtype}"
            raise ValueError(f"{where} must hold numbers ({feature.dtype}), got {got}")


def common_schema(factuals: Any, reference: Any) -> Schema:
    """The schema of the factuals' columns, inferred from the rows of both frames. Raises ValueError without a reference
    and where a column is of different kinds in the two, for together they would pass for categories."""
    if reference is None:
        raise ValueError("evaluate needs schema= or reference=, for the ranges of the columns are the unit of cost")
    columns = list(factuals.columns) if isinstance(factuals, pd.DataFrame) else []
    frames = {"factuals": factuals, "reference": reference}
    for what, frame in frames.items():
        check_columns(what, frame, columns)
    both = pd.concat([reference[columns], factuals], ignore_index=True)
    for name in columns:
        kinds = {what: infer_dtype(frame[name].astype(object)) for what, frame in frames.items()}
        held = {"numbers" if kind in NUMBERS else kind for kind in kinds.values()} - {"empty"}
        numbers = [is_number(frame[name]) for frame in frames.values()]
        if len(held) > 1 and (any(numbers) or not held & MIXED):
            told = " and ".join(f"{kind} in the {what}" for what, kind in kinds.items())
            raise ValueError(f"column {name!r} is {told}; give both the same values")
        if any(numbers):
            both[name] = both[name].infer_objects()
        if both[name].nunique() == 1:
            raise ValueError(
                f"column {name!r} is constant in the factuals and the reference, so its changes have no unit; give a "
                "reference in which it is not, or schema="
            )
    return Schema.infer(both)


def check_labels(index: pd.Index) -> None:
    """Raise ValueError unless each person of `generate` can be found by a label of the index."""
    if index.has_duplicates:
        problem = f"repeats {index[index.duplicated()].tolist()[0]!r}"
    elif _overlapping(index):
        problem = "has intervals that overlap"
    elif (lost := _lost(index)).any():
        problem = f"has the label {index[lost].tolist()[0]!r}, which pandas does not keep beside a rank"
    else:
        return
    raise ValueError(f"the index of X {problem}, so answers could not be told apart; reset_index() first")


def restored(column: pd.Series, dtype: Any) -> pd.Series:
    """`column` in `dtype` where no value changes by it, else as it is. Floats are rounded to shorter ones, for nothing
    lies between those: the float32 that is 0.1 in a file of text comes back from there as another float64."""
    try:
        floats = pd.api.types.is_float_dtype(dtype) and pd.api.types.is_float_dtype(column.infer_objects().dtype)
        with np.errstate(over="ignore"):
            cast = column.astype(dtype)
        if floats:
            same = np.isfinite(cast.to_numpy(dtype=np.float64)).all()
        else:
            same = (cast.astype(object) == column.astype(object)).all()
        return cast if bool(same) else column
    except (ValueError, TypeError, OverflowError):
        return column


def check_spelling(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> None:
    """Raise ValueError where one of two row-aligned frames holds the text of what the other holds: "1" and 1 may be a
    change or not. They share their columns and have no missing values."""
    for name in factuals.columns:
        pair = factuals[name], counterfactuals[name]
        if pair[0].dtype == pair[1].dtype != object or all(map(is_number, pair)):
            continue
        kinds = {infer_dtype(column.astype(object), skipna=False) for column in pair}
        if kinds == {"string"} or not kinds & {"string", *MIXED}:
            continue
        for before, after in zip(*(column.astype(object).tolist() for column in pair), strict=True):
            if isinstance(before, str) != isinstance(after, str) and _spelling(before) == _spelling(after):
                raise ValueError(
                    f"column {name!r} of the counterfactuals holds {after!r} where that of the factuals holds "
                    f"{before!r}; give both the same values"
                )


def _whose(factuals: pd.Index, index: pd.Index) -> tuple[np.ndarray, np.ndarray | None]:
    """Int64 ``(A,)``: the position of the factual that each counterfactual answers; and its rank where it is given."""
    if factuals.nlevels > 1 or factuals.has_duplicates or _overlapping(factuals):
        raise ValueError("the index of the factuals must be flat and without repeats or overlaps; reset_index() first")
    if index.nlevels > 2:
        raise ValueError(f"the index of the counterfactuals must be (factual, rank), got {index.nlevels} levels")
    if index.nlevels == 1 and len(factuals) == 1:
        return np.zeros(len(index), dtype=np.int64), None
    if index.nlevels == 1 and index.has_duplicates:
        repeated = index[index.duplicated()].tolist()[0]
        raise ValueError(
            f"the index of the counterfactuals repeats {repeated!r}; with several answers per factual it must be "
            "(factual, rank), as pd.concat(frames, keys=factuals.index) makes it"
        )
    labels = index.get_level_values(0)
    person = factuals.get_indexer(labels)
    if (person < 0).any():
        raise ValueError(f"the counterfactuals answer {labels[person < 0].tolist()[0]!r}, which is not a factual")
    ranked = index.nlevels == 2 and index.names[1] == "rank" and index.is_unique
    return person, index.get_level_values(1).to_numpy() if ranked else None


def _overlapping(index: pd.Index) -> bool:
    """Whether labels are intervals that overlap, among which pandas finds none."""
    return isinstance(index, pd.IntervalIndex) and index.is_overlapping


def _lost(index: pd.Index) -> np.ndarray:
    """Bool ``(B,)``: labels that are others in an index of (label, rank): None among objects becomes NaN there."""
    if index.dtype != object:
        return np.zeros(len(index), dtype=bool)
    # Two ranks, as many people and pandas would take the one index for the other without a look at None.
    kept = pd.MultiIndex.from_product([index, range(2)]).get_level_values(0)
    return index.get_indexer(kept)[::2] != np.arange(len(index))


def _numbered(person: np.ndarray) -> np.ndarray:
    """0, 1, ... among the rows of each person."""
    return pd.Series(person).groupby(person).cumcount().to_numpy(dtype=np.int64)


def _read(column: pd.Series, like: pd.Series, feature: Feature) -> pd.Series:
    """Complete values of one column, in the values and, where they fit it, the dtype of the factuals' column."""
    where = f"column {feature.name!r} of the counterfactuals"
    if feature.kind == "categorical":
        codes, distinct = _distinct(column, where)
        meant = _meant(distinct, feature.levels)
        if meant is not None:
            column = pd.Series(meant[codes], column.index, dtype=object)
        return restored(column, like.dtype)
    if not is_number(column):
        values = _numeric(column, where)
        wrong = column[values.isna()].tolist()
        if wrong:
            raise ValueError(f"{where} holds {wrong[0]!r} among its numbers")
        column = values if values.dtype.kind in "iu" else values.astype(np.float64)
    _check_finite(column, where)
    return restored(column, like.dtype)


def _numeric(column: pd.Series, where: str) -> pd.Series:
    """Objects and text as numbers, NaN for what is none."""
    values = column.astype(object)
    values = values.mask(values.map(lambda value: isinstance(value, (complex, np.complexfloating))).astype(bool))
    try:
        return pd.to_numeric(values, errors="coerce")
    except OverflowError as error:
        raise ValueError(f"{where} holds a number that is too large for a float64") from error


def _check_finite(column: pd.Series, where: str) -> None:
    try:
        values = column.to_numpy(dtype=np.float64)
    except OverflowError as error:
        raise ValueError(f"{where} holds a number that is too large for a float64") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{where} holds infinite values")


def _distinct(column: pd.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``(B,)`` of the values of a column, and the distinct ones as objects."""
    try:
        return pd.factorize(column.astype(object).to_numpy())
    except TypeError as error:
        raise ValueError(f"{where} holds a value that is no category: {error}") from error


def _meant(values: np.ndarray, levels: tuple[Any, ...]) -> np.ndarray | None:
    """The level that each value is another spelling of, or itself where it is one or there is no telling which; None
    where all are themselves."""
    known = set(levels)
    strange = [k for k, value in enumerate(values.tolist()) if value not in known]
    if not strange:
        return None
    spelled: dict[str, list[Any]] = {}
    for level in levels:
        spelled.setdefault(_spelling(level), []).append(level)
    meant = values.copy()
    for k in strange:
        options = spelled.get(_spelling(values[k]), [])
        exact = [level for level in options if str(level) == str(values[k])]
        if len(exact or options) == 1:
            meant[k] = (exact or options)[0]
    return meant


def _spelling(value: Any) -> str:
    """The same text for 1, 1.0, "1", "01" and "1.0". Text is a number only where it is a plain decimal one: "1_2" and
    "1e3" are names."""
    if isinstance(value, (float, np.floating)):
        value = int(value) if float(value).is_integer() else float(value)
    number = _DECIMAL.fullmatch(str(value))
    if not number:
        return str(value)
    whole, fraction = number["whole"].lstrip("0") or "0", (number["fraction"] or "").rstrip("0")
    text = f"{whole}.{fraction}" if fraction else whole
    return f"-{text}" if number["sign"] == "-" and text != "0" else text
