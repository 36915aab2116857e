"""People are told apart by whatever labels the index of their frame has."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator, metrics
from recourse_gen.evaluation import examples
from recourse_gen.robustness import noise_validity

FEW: dict[str, Any] = {"candidates": 8, "max_candidates": 16, "cost_weight": 5.0}
Table = tuple[pd.DataFrame, np.ndarray]
LABELS = {
    "numbers, one missing": pd.Index([3.0, np.nan, 1.0, 2.0]),
    "whole numbers, one missing": pd.Index([3, None, 1, 2], dtype="Int64"),
    "text, one missing": pd.Index(["c", None, "a", "b"]),
    "objects, one missing": pd.Index(["c", np.nan, 1, 2.5], dtype=object),
    "intervals": pd.interval_range(0, 4),
    "short whole numbers": pd.Index([3, 2, 1, 0], dtype="int16"),
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
        told = [text.split(": ", 1)[1] for text in expected.describe(0).splitlines()]
        assert [text.split(": ", 1)[1] for text in found.describe(asked.index[0]).splitlines()] == told
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


def test_generate_refuses_an_index_of_intervals_that_overlap(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    ages = pd.IntervalIndex.from_tuples([(0, 2), (1, 3)])
    with pytest.raises(ValueError, match="index of X has intervals that overlap,.*reset_index"):
        fitted.generate(denied.iloc[:2].set_axis(ages))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a", None, "b"], "None"),
        (["a", pd.NA, "b"], "<NA>"),
        (["a", pd.NaT, 1], "NaT"),
        (["a", np.nan, None], "None"),
    ],
)
def test_generate_refuses_labels_that_would_be_others_beside_a_rank(
    fitted: RecourseGenerator, denied: pd.DataFrame, labels: list[Any], told: str
) -> None:
    asked = denied.iloc[:3].set_axis(pd.Index(labels, dtype=object))
    with pytest.raises(ValueError, match=f"index of X has the label {told}, which.*reset_index"):
        fitted.generate(asked, **FEW)


def test_an_answer_of_nobody_is_never_shown_beside_the_last_person(
    fitted: RecourseGenerator, denied: pd.DataFrame
) -> None:
    found = fitted.generate(denied.iloc[:3], n=2, **FEW)
    strays = replace(found, factuals=found.factuals.set_axis(["a", "b", "c"]))
    for read in (strays.changes, strays.best, lambda: strays.describe("a")):
        with pytest.raises(ValueError, match="an answer for .*, which is not a factual"):
            read()


def test_a_frame_that_allows_no_repeated_labels_is_a_frame_like_any_other(
    fitted: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline, table: Table
) -> None:
    asked, kept = denied.iloc[:4], fitted.generate(denied.iloc[:4], n=3, **FEW)
    strict = asked.set_flags(allows_duplicate_labels=False)
    found = fitted.generate(strict, n=3, **FEW)
    assert found == kept and not strict.flags.allows_duplicate_labels
    for answers in (kept.to_frame(), kept.best()):
        measured = [
            metrics.evaluate(
                *(frame.set_flags(**flags) for frame in (asked, answers)), classifier=classifier, **reference
            )
            for flags in ({"allows_duplicate_labels": False}, {"allows_duplicate_labels": True})
            for reference in [{"reference": table[0].set_flags(**flags)}]
        ]
        pd.testing.assert_series_equal(measured[0].summary, measured[1].summary)
    best = [kept.best().set_flags(allows_duplicate_labels=flag) for flag in (False, True)]
    noisy = [noise_validity(answers, classifier, fitted.schema, factuals=asked) for answers in best]
    np.testing.assert_array_equal(*noisy)
