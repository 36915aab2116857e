"""Every dtype is either kept, through a saved generator too, or refused in one sentence that names the column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recourse_gen import RecourseGenerator, metrics
from recourse_gen.dtypes import column_dtype, dtype_name
from recourse_gen.schema import Schema

WORDS = np.random.default_rng(1).choice(["north", "south", "west"], 200)
LARGE = pd.ArrowDtype(pa.large_string())
KEPT: dict[str, Callable[[], Any]] = {
    "large strings": lambda: LARGE,
    "Arrow strings": lambda: pd.ArrowDtype(pa.string()),
    "pandas strings in Arrow": lambda: pd.StringDtype("pyarrow"),
    "pandas strings": lambda: pd.StringDtype("python"),
    "categories of large strings": lambda: pd.CategoricalDtype(pd.Index(["west", "south", "north"], dtype=LARGE)),
}


def approves(frame: pd.DataFrame) -> np.ndarray:
    west = (frame["region"] == "west").to_numpy(dtype=np.float64)
    return 1 / (1 + np.exp(-3 * (frame["a"].to_numpy() + 4 * west - 2)))


@pytest.mark.parametrize("case", KEPT)
def test_text_keeps_its_dtype_from_fit_to_a_loaded_generator(case: str, tmp_path: Path) -> None:
    rng, dtype = np.random.default_rng(0), KEPT[case]()
    frame = pd.DataFrame({"a": rng.normal(0, 1, 200), "region": pd.Series(WORDS).astype(dtype)})
    options: dict[str, Any] = {"audit": {"n_estimators": 10, "n_jobs": 1}, "pairs": {"top_k": 50}}
    RecourseGenerator("exact", **options).fit(frame, classifier=approves).save(tmp_path)
    denied = frame[approves(frame) < 0.5].head(5)
    found = RecourseGenerator.load(tmp_path, classifier=approves).generate(denied, n=2)
    answers = found.to_frame()
    assert len(answers) > 5 and answers["region"].dtype == dtype and (found.changes()["feature"] == "region").any()
    assert isinstance(dtype, pd.CategoricalDtype) or column_dtype(dtype_name(dtype)) == dtype
    told = metrics.evaluate(denied, answers, classifier=approves, schema=found.schema).rows["n_changed"]
    np.testing.assert_array_equal(told, found.report["n_changed"].dropna())


SWAPPED = {">f8": "float64", ">f4": "float32", ">i4": "int32", ">u2": "uint16"}


@pytest.mark.parametrize("dtype", SWAPPED)
def test_the_byte_order_of_another_machine_is_refused_by_name(dtype: str) -> None:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20).astype(dtype)})
    with pytest.raises(
        ValueError, match=rf"column 'y' has dtype {dtype}, .*convert it with astype\('{SWAPPED[dtype]}'\)"
    ):
        Schema.infer(frame)
    assert Schema.infer(frame.astype({"y": SWAPPED[dtype]}))["y"].dtype == SWAPPED[dtype]


@pytest.mark.parametrize("dtype", SWAPPED)
def test_people_and_answers_in_another_byte_order_are_read(
    fitted: RecourseGenerator, denied: pd.DataFrame, dtype: str
) -> None:
    asked = denied.iloc[:3].assign(age=denied["age"].iloc[:3].astype("int32"))
    swapped = asked.assign(age=asked["age"].to_numpy().astype(dtype))
    found = fitted.generate(asked, candidates=16)
    pd.testing.assert_frame_equal(fitted.generate(swapped, candidates=16).report, found.report)
    answers = found.to_frame()
    read = answers.assign(age=answers["age"].to_numpy().astype(dtype))
    options: dict[str, Any] = {"classifier": fitted.classifier, "schema": fitted.schema}
    told = metrics.evaluate(asked, read, **options).rows
    pd.testing.assert_frame_equal(told, metrics.evaluate(asked, answers, **options).rows)


UNKNOWN: dict[str, Callable[[], pd.Series]] = {
    "complex": lambda: pd.Series(np.arange(5) * 1j),
    "dates": lambda: pd.Series(pd.date_range("2020-01-01", periods=5)),
    "bytes": lambda: pd.Series([b"a"] * 5, dtype=pd.ArrowDtype(pa.binary())),
    "views": lambda: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(list("abcab"), pa.string_view()))),
    "encoded": lambda: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(list("abcab")).dictionary_encode())),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_other_dtypes_are_refused_by_name(case: str) -> None:
    with pytest.raises(
        ValueError, match="column 'y' has dtype .*; supported are numbers, text, booleans and categories"
    ):
        Schema.infer(pd.DataFrame({"x": np.arange(5.0), "y": UNKNOWN[case]()}))
