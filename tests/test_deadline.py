"""A time budget decides who is served, never what anybody is told. Clocks are counters: nothing here waits."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator
from recourse_gen.deadline import FIRST, RESERVED, Deadline
from recourse_gen.rows import Rows
from recourse_gen.search import Search, SearchOptions
from tests.stubs import Stub, on_cpu

OPTIONS: dict[str, Any] = {
    "n": 2,
    "candidates": 16,
    "select": "cheapest",
    "confidence": 0.5,
    "audit": True,
    "sparsify": True,
    "max_candidates": 64,
    "cost_weight": 5.0,
    "temperature": 1.0,
    "seed": 0,
    "batch_size": 30,
}
RULES = Constraints(ranges={"income": (40, None)}, monotone={"income": "decrease"})  # leaves some nothing


class Clock:
    """Goes by what is done, not by itself."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def people(table: tuple[pd.DataFrame, np.ndarray]) -> pd.DataFrame:
    """Denied, approved, and some who cannot be helped."""
    return table[0].iloc[:180]


def run(
    fitted: RecourseGenerator, people: pd.DataFrame, seconds: float | None, **options: Any
) -> tuple[Counterfactuals, float]:
    """The answers of a search in which every draft takes a second, and when it ended."""
    clock, model = Clock(), on_cpu(fitted)

    def draw(factual: Rows, **given: Any) -> Rows:
        clock.now += factual.batch_size * given["num_samples"]
        return model.sample(factual, **given)

    asked = SearchOptions(**{**OPTIONS, "time_budget": seconds, **options})
    parts = fitted.transform, fitted.classifier, fitted.auditor, RULES
    done: list[int] = []
    found = Search(Stub(fitted.schema, draw), *parts, asked, Deadline(seconds, clock))(people, done.append)
    assert sum(done) == len(people), "progress is told for those too who were not served"
    return found, clock.now


@pytest.mark.parametrize(("select", "seconds"), [("score", 1), ("score", 200), ("diverse", 400), ("pareto", 700)])
def test_who_is_served_is_told_the_same(
    fitted: RecourseGenerator, people: pd.DataFrame, select: str, seconds: float
) -> None:
    whole, _ = run(fitted, people, None, select=select)
    found, _ = run(fitted, people, seconds, select=select)
    pd.testing.assert_index_equal(found.report.index, whole.report.index)
    late = found.report["reason"].str.startswith(f"the time budget of {seconds} s ended after ")
    assert 0 < late.sum() < len(late)
    pd.testing.assert_frame_equal(found.report[~late], whole.report[~late])
    pd.testing.assert_frame_equal(found.to_frame(), whole.to_frame().loc[found.to_frame().index])
    assert set(found.report.loc[late, "status"]) == {"not_found"}
    assert not whole.report.loc[late, "status"].isin(["already_favourable", "infeasible"]).any()
    pd.testing.assert_series_equal(found.report["forced"], whole.report["forced"])
    assert late.groupby(level=0).nunique().eq(1).all(), "with all their answers or none"
    assert {"already_favourable", "infeasible"} <= set(found.report["status"])


def test_more_time_serves_more_people(fitted: RecourseGenerator, people: pd.DataFrame) -> None:
    found = [run(fitted, people, seconds, sparsify=False)[0] for seconds in (1, 300, 600, 1e6)]
    served = [(each.report["status"] == "ok").sum() for each in found]
    assert served[0] < served[1] < served[2] < served[3]
    pd.testing.assert_frame_equal(found[-1].report, run(fitted, people, None, sparsify=False)[0].report)


@pytest.mark.parametrize("seconds", [FIRST * 16, 300, 555])
def test_the_call_ends_in_time(fitted: RecourseGenerator, people: pd.DataFrame, seconds: float) -> None:
    options = {"max_candidates": 16, "n": 1, "batch_size": 1000, "sparsify": False}
    _, ended = run(fitted, people, seconds, **options)
    assert seconds / 3 < ended <= seconds
    assert run(fitted, people, None, **options)[1] > 600


def test_nobody_is_told_what_more_candidates_might_change(fitted: RecourseGenerator, people: pd.DataFrame) -> None:
    """The time is over when the first portion has been drawn: those of it for whom that was enough are served."""
    options = {"candidates": 3, "n": 3, "sparsify": False, "select": "score"}
    whole, _ = run(fitted, people, None, **options)
    found, ended = run(fitted, people, FIRST * 3 - 1, **options)
    assert ended == FIRST * 3
    asking = ~whole.report["status"].isin(["already_favourable", "infeasible"])
    first = found.report[asking].iloc[: 3 * FIRST]
    enough = whole.report.loc[first.index, "candidates"] == 3
    assert 0 < enough.sum() < len(enough)
    assert (first["status"][enough] == "ok").all()
    assert (first["reason"][~enough] == "the time budget of 23 s ended after 3 candidates").all()
    rest = found.report[asking].iloc[3 * FIRST :]
    assert (rest["reason"] == "the time budget of 23 s ended after 0 candidates").all()


def test_without_a_budget_nothing_is_cut_and_no_clock_is_read() -> None:
    def broken() -> float:
        raise AssertionError

    deadline = Deadline(None, lambda: 0.0)
    assert [part.tolist() for part in deadline.portions(5)] == [[0, 1, 2, 3, 4]]
    assert list(deadline.portions(0)) == []
    assert not deadline.passed()
    assert [len(part) for part in Deadline(None, broken).portions(5)] == [5]


def pace(clock: Clock, fixed: float, each: float) -> Callable[[int], float]:
    def spend(people: int) -> float:
        clock.now += fixed + each * people
        return fixed + each * people

    return spend


@quick
@given(st.integers(1, 5000), st.floats(0, 2), st.floats(1e-3, 1), st.floats(0.1, 100))
def test_portions_grow_while_they_fit(people: int, fixed: float, each: float, seconds: float) -> None:
    clock = Clock()
    spend, deadline, sizes, served = pace(clock, fixed, each), Deadline(seconds, clock), [], 0
    for part in deadline.portions(people):
        assert part.tolist() == list(range(served, served + len(part)))
        served += len(part)
        sizes.append(len(part))
        took = spend(len(part))
    assert sizes[0] == min(FIRST, people)
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
    if fixed + each * FIRST <= seconds:
        assert clock.now <= seconds + fixed, "the share that does not depend on the people is not known"
    if served < people and not deadline.passed():
        left = (1 - RESERVED) * seconds - clock.now
        assert left < 2 * took, "it could have gone on"
    assert list(deadline.portions(0)) == []
