"""The dtypes that a training column may have, and their names in files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

_ARROW_TEXT = "ArrowDtype(string)"  # pandas calls it string[pyarrow], as it calls a StringDtype


def dtype_name(dtype: Any) -> str:
    """What pandas calls a dtype, except where it calls two kinds of text the same; `column_dtype` is the inverse."""
    if isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA:
        return f"string[{dtype.storage}]"
    return _ARROW_TEXT if dtype == pd.ArrowDtype(pa.string()) else str(dtype)


def column_dtype(name: Any) -> Any:
    """The pandas dtype of that name. Raises ValueError unless a training column may have it."""
    if name == _ARROW_TEXT:
        return pd.ArrowDtype(pa.string())
    try:
        dtype = pd.api.types.pandas_dtype(name) if isinstance(name, str) else None
    except (TypeError, ValueError, NotImplementedError):
        dtype = None
    if not _is_known(dtype):
        raise ValueError(f"{name!r} is no dtype of a training column")
    return dtype


def check_dtype(column: pd.Series) -> None:
    """Raise ValueError, naming the column, unless a training column may have its dtype."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        raise ValueError(
            f"column {column.name!r} has dtype {dtype}, the byte order of another kind of machine, with which pandas "
            f"cannot work; convert it with astype({dtype.newbyteorder('=').name!r})"
        )
    if not _is_known(dtype):
        raise ValueError(
            f"column {column.name!r} has dtype {dtype}; supported are numbers, text, booleans and categories"
        )


def is_number(column: pd.Series) -> bool:
    """Whether the column's dtype is one of integers or floats, of NumPy or an extension that keeps them so."""
    storage = getattr(column.dtype, "numpy_dtype", column.dtype)
    return isinstance(storage, np.dtype) and storage.kind in "iuf"


def _is_known(dtype: Any) -> bool:
    if isinstance(dtype, pd.ArrowDtype):
        kind = dtype.pyarrow_dtype
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return True
        return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if isinstance(dtype, (pd.CategoricalDtype, pd.StringDtype)):
        return True
    storage = getattr(dtype, "numpy_dtype", dtype)
    return isinstance(storage, np.dtype) and storage.kind in "biufO" and storage.isnative
