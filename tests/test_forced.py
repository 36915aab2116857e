"""People whose values today break the constraints: moved where they may be, and told so; infeasible where not."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from recourse_gen import Constraints, RecourseGenerator

FEW: dict[str, Any] = {"candidates": 32, "max_candidates": 128, "cost_weight": 5.0, "audit": False}


@pytest.fixture(scope="module")
def people(denied: pd.DataFrame) -> pd.DataFrame:
    """Ten who earn little."""
    return (
        pd.concat([denied.iloc[[3]]] * 10).assign(income=30.0, late=4, job="none", age=np.int32(40)).set_axis(range(10))
    )


def answers(generator: RecourseGenerator, people: pd.DataFrame, **rules: Any) -> Any:
    return generator.generate(people, constraints=Constraints(**rules), **FEW)


@pytest.mark.parametrize(
    ("rules", "forced"),
    [
        ({"ranges": {"income": (40, 90)}}, "income"),
        ({"ranges": {"late": (None, 2)}}, "late"),
        ({"allowed": {"job": ["part", "full"]}}, "job"),
        ({"allowed": {"job": {"none": ["part"]}}}, "job"),
        ({"ranges": {"income": (40, 90)}, "monotone": {"income": "increase"}}, "income"),
        ({"ranges": {"income": (40, 90)}, "together": [("income", "late")]}, "income, late"),
        ({"ordered": [("savings", "income")]}, "savings, savings ≤ income"),
        ({"ordered": [("age", "income")]}, "age ≤ income"),
        ({"ranges": {"late": (None, 4)}}, ""),
        ({"max_changes": 3}, ""),
    ],
)
def test_who_stands_outside_is_moved_inside_and_told(
    fitted: RecourseGenerator, people: pd.DataFrame, rules: Any, forced: str
) -> None:
    found = answers(fitted, people, **rules)
    assert (found.report["forced"] == forced).all()
    frame = found.to_frame().droplevel(1)
    assert len(frame) == 10
    assert not Constraints(**rules).violations(people, frame).any()
    for name in set(forced.split(", ")) & set(people):
        assert (frame[name].to_numpy() != people[name].to_numpy()).all()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"ranges": {"income": (40, 90)}, "immutable": ["income"]}, "no admissible value for 'income'"),
        ({"ranges": {"late": (None, 2)}, "monotone": {"late": "increase"}}, "no admissible value for 'late'"),
        ({"ranges": {"income": (None, 20)}, "monotone": {"income": "increase"}}, "no admissible value for 'income'"),
        ({"allowed": {"job": ["full"]}, "immutable": ["job"]}, "no admissible value for 'job'"),
        ({"ordered": [("age", "income")], "immutable": ["age", "income"]}, "no admissible value for 'age'"),
        ({"ranges": {"income": (40, 90), "late": (0, 2)}, "max_changes": 1}, "2 columns must change, more than max"),
        (
            {"ranges": {"income": (40, 90)}, "together": [("income", "job")], "immutable": ["job"]},
            "'income', 'job' change together, but one of them has to and another may not",
        ),
    ],
)
def test_who_stands_outside_and_may_not_move_is_infeasible(
    fitted: RecourseGenerator, people: pd.DataFrame, rules: Any, reason: str
) -> None:
    report = answers(fitted, people, **rules).report
    assert (report["status"] == "infeasible").all()
    assert report["reason"].str.startswith(reason).all()
    assert (report["forced"] == "").all()


def test_who_may_change_nothing_is_infeasible_and_told(fitted: RecourseGenerator, people: pd.DataFrame) -> None:
    every = [*people]
    report = answers(fitted, people, immutable=every).report
    assert (report["status"] == "infeasible").all()
    assert (report["reason"] == "the constraints let no column change").all()
    assert (report["candidates"] == 0).all()
    # One by one: who has the best job already may keep it only, as others may not.
    mixed = people.assign(job=["none", "full"] * 5)
    report = answers(fitted, mixed, immutable=every[:3] + every[4:], allowed={"job": {"none": ["none", "part"]}}).report
    assert (report["status"] == "infeasible").tolist() == [False, True] * 5


def test_values_beyond_the_training_range_may_stay_unless_a_rule_says_otherwise(
    fitted: RecourseGenerator, people: pd.DataFrame
) -> None:
    far = people.assign(income=-200.0, savings=20_000, late=[9] * 5 + [-3] * 5)
    for rules in ({}, {"immutable": ["late", "savings"]}, {"monotone": {"savings": "increase", "late": "decrease"}}):
        found = answers(fitted, far, **rules)
        assert set(found.report["forced"]) == {""}
        frame = found.to_frame().droplevel(1)
        assert len(frame) == 10
        assert not Constraints(**rules).violations(far, frame).any()
    found = answers(fitted, far, ranges={"savings": (0, 5000)})
    assert set(found.report["forced"]) == {"savings"}
    assert found.to_frame()["savings"].between(0, 5000).all()
    # A monotone number beyond the range cannot come back, and need not: it stays where it is.
    stuck = answers(fitted, far, monotone={"savings": "increase"}, ranges={"savings": (0, 30_000)})
    assert (stuck.to_frame()["savings"] == 20_000).sum() == 10
