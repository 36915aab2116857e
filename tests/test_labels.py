"""People are told apart by whatever labels the index of their frame has."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator, metrics
from recourse_gen.evaluation import examples

FEW: dict[str, Any] = {"candidates": 8, "max_candidates": 16, "cost_weight": 5.0}
Table = tuple[pd.DataFrame, np.ndarray]
LABELS = {
    "numbers, one missing": pd.Index([3.0, np.nan, 1.0, 2.0]),
    "whole numbers, one missing": pd.Index([3, None, 1, 2], dtype="Int64"),
    "text, one missing": pd.Index(["c", None, "a", "b"]),
    "objects, one missing": pd.Index(["c", np.nan, 1, 2.5], dtype=object),
    "dates, one missing": pd.DatetimeIndex(["2020-03-01", None, "2020-01-01", "2020-02-01"]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_change_nothing_but_the_index(
    fitted: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline, table: Table, case: str
) -> None:
    rules = [Constraints(immutable=[name]) for name in ("late", "age", "job", "income")]
    plain = denied.iloc[:4].reset_index(drop=True)
    expected = fitted.generate(plain, n=3, constraints=pd.Series(rules), **FEW)
    asked = plain.set_axis(LABELS[case])
    # Keys of a mapping are what iterating over an index gives; NaN among them is not the NaN of the index.
    for given in (pd.Series(rules, asked.index), dict(zip(asked.index.copy(), rules, strict=True))):
        found = fitted.generate(asked, n=3, constraints=given, **FEW)
        frame = found.to_frame()
        assert frame.equals(expected.to_frame().set_axis(frame.index)) and len(frame) > 4
        np.testing.assert_array_equal(found.diversity(), expected.diversity())
        np.testing.assert_array_equal(found.best().notna(), expected.best().notna())
        assert examples(found)["person"].nunique(dropna=False) == examples(expected)["person"].nunique() > 1
        options = {"classifier": classifier, "schema": fitted.schema, "reference": table[0]}
        for ours, theirs in ((found.best(), expected.best()), (frame, expected.to_frame())):
            measured = metrics.evaluate(asked, ours, constraints=given, **options)
            same = metrics.evaluate(plain, theirs, constraints=pd.Series(rules), **options)
            pd.testing.assert_series_equal(measured.summary, same.summary)
            assert not measured.rows["violation"].any()


def test_a_person_without_a_label_needs_constraints_too(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    asked = denied.iloc[:2].set_axis(pd.Index([1.0, np.nan]))
    with pytest.raises(ValueError, match="nan has none"):
        fitted.generate(asked, constraints={1.0: Constraints()})
