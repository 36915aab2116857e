"""What the columns of a table are: kinds, levels, bounds and cost weights."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd

from recourse_gen.dtypes import check_dtype, column_dtype, dtype_name, is_number
from recourse_gen.options import check_whole

KINDS = ("categorical", "ordinal", "continuous")
TOKENIZE = ("auto", "none", "all")
MAX_CATEGORIES = 1000  # where nobody asked for more
_QUANTILES = 65


@dataclass(frozen=True)
class Feature:
    """One column.

    name: column name in the frame.
    kind: ``categorical`` (one token per level), ``ordinal`` (numeric, one token per observed value)
        or ``continuous`` (numeric, everything else).
    dtype: name of the pandas dtype of the training column, see `dtype_name`.
    levels: the values of a token column; sorted numbers when ordinal.
    bounds: (low, high) of a numeric column in raw units; the range that scales its cost to 0-1.
    quantiles: evenly spaced training quantiles of a continuous column, raw units.
    weight: multiplies this column's share of the cost.
    """

    name: str
    kind: str
    dtype: str
    levels: tuple[Any, ...] = ()
    bounds: tuple[float, float] | None = None
    quantiles: tuple[float, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"column {self.name!r}: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"column {self.name!r}: the cost weight must be finite and not negative, got {self.weight}"
            )
        if self.kind != "continuous" and len(self.levels) < 1:
            raise ValueError(f"column {self.name!r}: a {self.kind} column needs levels")
        if self.kind != "categorical":
            if self.bounds is None or not np.isfinite(self.bounds).all() or not self.bounds[0] < self.bounds[1]:
                raise ValueError(
                    f"column {self.name!r}: bounds must be two finite numbers low < high, got {self.bounds}"
                )
            low, high = map(float, self.bounds)
            if not np.isfinite(high - low):
                raise ValueError(
                    f"column {self.name!r} spans {low:g} to {high:g}, a range that no float64 holds; divide its values"
                )
            if list(self.levels) != sorted(set(self.levels)):
                raise ValueError(f"column {self.name!r}: ordinal levels must be sorted and distinct")

    @cached_property
    def storage(self) -> np.dtype:
        """The NumPy dtype in which a numeric column keeps its values."""
        dtype: Any = column_dtype(self.dtype)
        return getattr(dtype, "numpy_dtype", dtype)

    @property
    def is_token(self) -> bool:
        """Whether its values are levels: it is categorical or ordinal."""
        return self.kind != "continuous"

    def scaled(self, values: Any) -> np.ndarray:
        """Raw numbers to the cost's unit: 0 at the low bound, 1 at the high bound (float64)."""
        assert self.bounds is not None
        low, high = self.bounds
        return (np.asarray(values, dtype=np.float64) - low) / (high - low)

    @cached_property
    def level_values(self) -> np.ndarray:
        """``(L,)`` scaled values of an ordinal column's levels, or 0, 1, ... of a categorical one's."""
        return self.scaled(self.levels) if self.kind == "ordinal" else np.arange(len(self.levels), dtype=np.float64)


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order. Immutable; `to_json` and `from_json` are inverse."""

    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a schema needs at least one column")
        repeated = {name for name, times in Counter(self.names).items() if times > 1}
        if repeated:
            raise ValueError(f"duplicate column names: {', '.join(sorted(map(repr, repeated)))}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def tokens(self) -> tuple[Feature, ...]:
        """The C token columns, in schema order: the columns of ``Rows.cat``."""
        return tuple(feature for feature in self.features if feature.is_token)

    @cached_property
    def numbers(self) -> tuple[Feature, ...]:
        """The N continuous columns, in schema order: the columns of ``Rows.num``."""
        return tuple(feature for feature in self.features if not feature.is_token)

    @cached_property
    def places(self) -> tuple[tuple[int, int | None, int | None], ...]:
        """(position d, column of ``Rows.cat`` or None, column of ``Rows.num`` or None) of each column."""
        t, n = itertools.count(), itertools.count()
        return tuple((d, next(t), None) if f.is_token else (d, None, next(n)) for d, f in enumerate(self.features))

    def __getitem__(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise ValueError(f"column {name!r} is not in the schema; its columns are {', '.join(self.names)}")

    @classmethod
    def infer(
        cls,
        frame: pd.DataFrame,
        *,
        kinds: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        tokenize: str = "auto",
        max_levels: int = 256,
    ) -> Schema:
        """Read a schema off training rows.

        Text, boolean and categorical columns are ``categorical``. Numeric ones are ``ordinal`` up to `max_levels`
        distinct values and ``continuous`` beyond (`tokenize="auto"`); ``"none"`` makes every numeric column of more
        than two values continuous, ``"all"`` makes every one ordinal. `kinds`, `weights` and `bounds` override by name.

        Raises ValueError, naming the column, for missing or infinite values, constant or unsupported columns, and for
        more than 1000 categories where `kinds` does not ask for them: a column of identifiers, most likely.
        """
        if tokenize not in TOKENIZE:
            raise ValueError(f"tokenize must be one of {', '.join(TOKENIZE)}, got {tokenize!r}")
        check_whole("max_levels", max_levels, 0)
        check_frame(frame)
        for option, given in (("kinds", kinds), ("weights", weights), ("bounds", bounds)):
            if not isinstance(given, (Mapping, NoneType)):
                raise ValueError(f"{option} must map columns to values, got {given!r}")
            for name in given or {}:
                if name not in frame.columns:
                    raise ValueError(f"{option} names column {name!r}, which the frame lacks")
        features = []
        for name in frame.columns:
            feature = _infer_feature(frame[name], (kinds or {}).get(name), tokenize, max_levels)
            if bounds and name in bounds:
                if feature.kind == "categorical":
                    raise ValueError(f"bounds names column {name!r}, which is categorical; only numbers have bounds")
                feature = replace(feature, bounds=_ends(name, bounds[name]))
            weight: Any = (weights or {}).get(name, 1.0)
            if not isinstance(weight, Real):
                raise ValueError(f"column {name!r}: the cost weight must be a number, got {weight!r}")
            features.append(replace(feature, weight=float(weight)))
        return cls(tuple(features))

    def to_json(self) -> str:
        """Text from which `from_json` makes the same schema."""
        return json.dumps({"features": [asdict(feature) for feature in self.features]}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Inverse of `to_json`. Raises ValueError if the text is not a schema."""
        try:
            return cls(tuple(_feature(entry) for entry in json.loads(text)["features"]))
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not a schema: {error}") from error


def _feature(entry: dict[str, Any]) -> Feature:
    """Inverse of ``asdict``, with a look at every part: a file may hold anything. Raises ValueError or TypeError."""
    levels, quantiles = tuple(entry["levels"]), tuple(entry["quantiles"])
    bounds = None if entry["bounds"] is None else tuple(entry["bounds"])
    feature = Feature(**{**entry, "levels": levels, "quantiles": quantiles, "bounds": bounds})
    name, number = feature.name, feature.kind != "categorical"
    if not isinstance(name, str) or not isinstance(feature.weight, (int, float)):
        raise ValueError("a column has no name, or its weight is no number")
    column_dtype(feature.dtype)
    if number and feature.storage.kind not in "iuf":
        raise ValueError(f"column {name!r} holds numbers, which {feature.dtype!r} is no dtype for")
    _check_categories(name, levels)
    numbers = (*(levels if number else ()), *quantiles, *(bounds or ()))
    if not all(isinstance(value, (int, float)) for value in numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"column {name!r} has levels, bounds or quantiles that are not finite numbers")
    if list(quantiles) != sorted(quantiles):
        raise ValueError(f"column {name!r} has quantiles that fall")
    return feature


def check_frame(frame: pd.DataFrame) -> None:
    """Raise ValueError unless `frame` is a table of at least two complete rows with distinct column names."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"expected a pandas DataFrame, got {type(frame).__name__}")
    if len(frame) < 2:
        raise ValueError(f"the training table needs at least two rows, got {len(frame)}")
    repeated = frame.columns[frame.columns.duplicated()].unique()
    if len(repeated):
        raise ValueError(f"duplicate column names: {', '.join(map(repr, repeated))}")
    unnamed = [name for name in frame.columns if not isinstance(name, str)]
    if unnamed:
        raise ValueError(f"column names must be strings, got {unnamed[0]!r}")


def check_values(column: pd.Series) -> None:
    """Raise ValueError, naming the column, when it holds missing or infinite values."""
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(
            f"column {column.name!r} has {missing} missing values; impute them before fitting or generating"
        )
    if pd.api.types.is_float_dtype(column.dtype) and not np.isfinite(column.to_numpy(dtype=np.float64)).all():
        raise ValueError(f"column {column.name!r} holds infinite values")


def _infer_feature(column: pd.Series, kind: str | None, tokenize: str, max_levels: int) -> Feature:
    check_dtype(column)
    check_values(column)
    name = str(column.name)
    if column.dtype == object:
        _check_categories(name, column)
    distinct = column.unique()
    if len(distinct) < 2:
        raise ValueError(f"column {name!r} is constant in the training rows; drop it")
    if kind is None:
        kind = "categorical" if not is_number(column) else _numeric_kind(len(distinct), tokenize, max_levels)
        if kind == "categorical" and len(distinct) > MAX_CATEGORIES:
            raise ValueError(
                f"column {name!r} has {len(distinct)} categories, more than {MAX_CATEGORIES}: drop it if it only "
                f"says who somebody is, merge rare values if not, or keep all with kinds={{{name!r}: 'categorical'}}"
            )
    dtype = dtype_name(column.dtype)
    if kind == "categorical":
        levels = [value.item() if isinstance(value, np.generic) else value for value in distinct]
        if isinstance(column.dtype, pd.CategoricalDtype):
            observed = set(levels)
            levels = [value for value in column.cat.categories.tolist() if value in observed]
        elif len({type(level) for level in levels}) == 1:
            levels = sorted(levels)
        _check_categories(name, levels)
        return Feature(name, kind, dtype, levels=tuple(levels))
    if not is_number(column):
        raise ValueError(f"column {name!r} is not numeric ({dtype}), so its kind must be categorical, not {kind!r}")
    values = column.to_numpy(dtype=np.float64)
    span = (float(values.min()), float(values.max()))
    if kind == "ordinal":
        whole = pd.api.types.is_integer_dtype(column.dtype)
        steps = sorted(int(value) if whole else float(value) for value in distinct)
        return Feature(name, kind, dtype, levels=tuple(steps), bounds=span)
    feature = Feature(name, kind, dtype, bounds=span)  # whose range is one that quantiles can be computed in
    knots = np.quantile(values, np.linspace(0.0, 1.0, _QUANTILES))
    return replace(feature, quantiles=tuple(float(knot) for knot in knots))


def _ends(name: str, given: Any) -> tuple[float, float]:
    ends = list(given) if isinstance(given, Iterable) else []
    if len(ends) != 2 or not all(isinstance(end, Real) for end in ends):
        raise ValueError(f"column {name!r}: bounds must be two finite numbers low < high, got {given!r}")
    return float(ends[0]), float(ends[1])


def _check_categories(name: str, values: Iterable[Any]) -> None:
    for value in values:
        finite = not isinstance(value, (float, np.floating)) or np.isfinite(value)
        if not (finite and isinstance(value, (str, int, float, bool, np.number, np.bool_))):
            raise ValueError(f"column {name!r} holds {value!r}; categories must be text, finite numbers or booleans")


def _numeric_kind(distinct: int, tokenize: str, max_levels: int) -> str:
    limit = {"auto": max_levels, "none": 2, "all": distinct}[tokenize]
    return "ordinal" if distinct <= limit else "continuous"
