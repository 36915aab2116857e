"""Frames to encoded rows and back."""

from __future__ import annotations

import json
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
import torch

from recourse_gen.dtypes import column_dtype, dtype_name, is_number
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema, check_frame, check_values


class TableTransform:
    """Encodes frames of one schema as `Rows` and decodes them with the training frame's dtypes.

    Fitted on training rows only. Token columns round-trip exactly; continuous ones to float32 precision, and integer
    columns are rounded to whole numbers. A number that an ordinal column never held in training is encoded as the
    nearest level.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._keep({})

    def _keep(self, categories: dict[str, pd.CategoricalDtype]) -> None:
        """Take these for the training frame's categories, by column."""
        self._categories = categories
        # The training frame's dtype of each column, and its levels: asked for by every call, and slow to make.
        features = self.schema.features
        self.dtypes: dict[str, Any] = {f.name: categories.get(f.name, column_dtype(f.dtype)) for f in features}
        self._levels: dict[str, pd.Series] = {}

    def fit(self, train: pd.DataFrame) -> TableTransform:
        check_frame(train)
        kept = {str(name): dtype for name, dtype in train.dtypes.items()}
        self._keep({name: dtype for name, dtype in kept.items() if isinstance(dtype, pd.CategoricalDtype)})
        self.check(train)
        return self

    def check(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`frame` with its columns in training order and in the training dtypes.

        Raises ValueError, naming the column, for missing, extra or duplicate columns, missing or infinite values,
        text or booleans where numbers are due, fractions where whole numbers are, and unseen categories.
        """
        if not isinstance(frame, pd.DataFrame):
            raise ValueError(f"expected a pandas DataFrame, got {type(frame).__name__}")
        repeated = frame.columns[frame.columns.duplicated()].unique()
        if len(repeated):
            raise ValueError(f"duplicate column names: {', '.join(map(repr, repeated))}")
        missing = [name for name in self.schema.names if name not in frame.columns]
        extra = [name for name in frame.columns if name not in self.schema.names]
        if missing or extra:
            noun, names = ("is missing", missing) if missing else ("is not known", extra)
            columns = ", ".join(self.schema.names)
            raise ValueError(f"column {names[0]!r} {noun}; the generator was fitted on the columns {columns}")
        for feature in self.schema.features:
            column = frame[feature.name]
            check_values(column)
            if feature.kind != "categorical" and not is_number(column):
                raise ValueError(
                    f"column {feature.name!r} must hold numbers ({feature.dtype}), got dtype {column.dtype}"
                )
            if feature.kind == "categorical":
                _codes(feature, column)
            elif feature.storage.kind in "iu":
                _check_whole(feature, column)
        # Rows are taken more than once from here on.
        frame = frame[list(self.schema.names)].set_flags(allows_duplicate_labels=True)
        cast = {name: dtype for name, dtype in self.dtypes.items() if frame[name].dtype != dtype}
        if cast:
            with np.errstate(over="ignore"):
                frame = frame.astype(cast)
        for name in cast:
            check_values(frame[name])  # a narrower dtype need not hold them
        # To pandas, unordered categories are the same in any order; to a classifier that takes codes they are not.
        order = {name: dtype.categories for name, dtype in self._categories.items()}
        moved = {name: to for name, to in order.items() if not frame[name].cat.categories.equals(to)}
        return frame.assign(**{name: frame[name].cat.set_categories(to) for name, to in moved.items()})

    def encode(self, frame: pd.DataFrame) -> Rows:
        """``(B, D)`` frame to `Rows` on the CPU. Raises ValueError as `check` does."""
        return self.encode_checked(self.check(frame))

    def encode_checked(self, frame: pd.DataFrame) -> Rows:
        """`encode`, of rows of a frame that `check` returned."""
        num = [feature.scaled(frame[feature.name]) for feature in self.schema.numbers]
        cat = [_codes(feature, frame[feature.name]) for feature in self.schema.tokens]
        return Rows(
            torch.from_numpy(np.stack(num, 1).astype(np.float32)) if num else torch.zeros(len(frame), 0).float(),
            torch.from_numpy(np.stack(cat, 1)) if cat else torch.zeros(len(frame), 0, dtype=torch.int64),
        )

    def decode(self, rows: Rows) -> pd.DataFrame:
        """`Rows` of shape ``(B, ·)`` to a frame with the training columns and dtypes, index 0 to B - 1."""
        columns: dict[str, pd.Series] = {}
        for d, t, n in self.schema.places:
            feature = self.schema.features[d]
            if n is None:
                levels = self.values(feature)
                columns[feature.name] = pd.Series(levels.array.take(rows.cat[:, t].cpu().numpy()), dtype=levels.dtype)
            else:
                columns[feature.name] = self.restore(feature, self.raw(feature, rows.num[:, n]))
        return pd.DataFrame(columns)

    def values(self, feature: Feature) -> pd.Series:
        """The levels ``(L,)`` of a token column, in the training dtype. Not to be changed."""
        if feature.name not in self._levels:
            self._levels[feature.name] = self.restore(feature, _level_array(feature))
        return self._levels[feature.name]

    def raw(self, feature: Feature, scaled: torch.Tensor) -> np.ndarray:
        """Float64 ``(B,)``: values of a continuous column in raw units, not yet rounded, of scaled ones ``(B,)``."""
        assert feature.bounds is not None
        low, high = feature.bounds
        return low + scaled.cpu().double().numpy() * (high - low)

    def restore(self, feature: Feature, values: np.ndarray) -> pd.Series:
        """Raw values as a column of the training dtype; whole numbers where that dtype is an integer."""
        if feature.name in self._categories:
            return pd.Series(pd.Categorical(values, dtype=self._categories[feature.name]))
        if feature.kind == "continuous" and feature.storage.kind in "iu" and values.dtype.kind == "f":
            values = np.rint(values)
        # With its dtype, or pandas would try objects that are all text as a column of text, which cannot hold any.
        return pd.Series(values, dtype=values.dtype).astype(self.dtypes[feature.name])

    def to_json(self) -> str:
        categories = {
            name: {
                "categories": dtype.categories.tolist(),
                "dtype": dtype_name(dtype.categories.dtype),
                "ordered": bool(dtype.ordered),
            }
            for name, dtype in self._categories.items()
        }
        return json.dumps({"columns": list(self.schema.names), "categories": categories}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, schema: Schema, text: str) -> TableTransform:
        """Inverse of `to_json`. Raises ValueError if the text does not belong to the schema."""
        try:
            state = json.loads(text)
            if tuple(state["columns"]) != schema.names:
                raise ValueError("the transform was fitted on other columns than the schema lists")
            transform = cls(schema)
            if not set(state["categories"]) <= set(schema.names):
                raise ValueError("the transform has categories of columns that the schema lacks")
            transform._keep(
                {
                    name: pd.CategoricalDtype(
                        pd.Index(entry["categories"], dtype=column_dtype(entry["dtype"])), bool(entry["ordered"])
                    )
                    for name, entry in state["categories"].items()
                }
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not a transform: {error}") from error
        return transform


def _level_array(feature: Feature) -> np.ndarray:
    """Levels as an array that keeps each value's own type (text beside text, True as bool)."""
    if feature.kind == "ordinal" or len({type(level) for level in feature.levels}) == 1:
        return np.asarray(feature.levels, dtype=object if isinstance(feature.levels[0], str) else None)
    return np.asarray(feature.levels, dtype=object)


def _check_whole(feature: Feature, column: pd.Series) -> None:
    """Raise ValueError unless the training column's integer dtype can hold every value."""
    values, info = column.to_numpy(dtype=np.float64), np.iinfo(feature.storage)
    outside = (values != np.rint(values)) | (values < info.min) | (values > info.max)
    if outside.any():
        raise ValueError(
            f"column {feature.name!r} must hold whole numbers ({feature.dtype}), got {values[outside][0]:g}"
        )


def _codes(feature: Feature, column: pd.Series) -> np.ndarray:
    """``(B,)`` level index of each value: exact for categories, nearest level for numbers."""
    if feature.kind == "ordinal":
        levels = np.asarray(feature.levels, dtype=np.float64)
        values = column.to_numpy(dtype=np.float64)
        right = np.searchsorted(levels, values).clip(1, len(levels) - 1)
        nearer_left = values - levels[right - 1] <= levels[right] - values
        return (right - nearer_left).astype(np.int64)
    # Python takes True for 1, so an integer column would pass for a boolean one and the other way round.
    boolean = all(isinstance(level, bool) for level in feature.levels)
    if (boolean and is_number(column)) or (not boolean and pd.api.types.is_bool_dtype(column.dtype)):
        raise ValueError(f"column {feature.name!r} must hold {feature.dtype} values, got dtype {column.dtype}")
    place, values = {level: code for code, level in enumerate(feature.levels)}, column.to_numpy(dtype=object)
    try:
        codes = np.fromiter(map(place.get, values, repeat(-1)), np.int64, len(values))
    except TypeError as error:
        raise ValueError(f"column {feature.name!r} holds a value that is no category: {error}") from error
    if (codes < 0).any():
        unseen = column[codes < 0].iloc[0]
        raise ValueError(
            f"column {feature.name!r} holds the category {unseen!r}, which the training rows lack; "
            f"known are {', '.join(map(repr, feature.levels[:20]))}{', ...' if len(feature.levels) > 20 else ''}"
        )
    return codes
