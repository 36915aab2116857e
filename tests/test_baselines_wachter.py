"""Wachter's counterfactual of a linear classifier is the projection onto its boundary."""

import numpy as np
import pytest
from worlds import linear

from bench.baselines.wachter import Wachter
from recourse_gen import metrics

SLOPE, INTERCEPT = [4.0, 2.0, 1.0], -3.5


def margins(points: np.ndarray) -> np.ndarray:
    return points @ np.array(SLOPE) + INTERCEPT


@pytest.mark.parametrize(("norm", "dual"), [(1.0, 4.0), (2.0, np.sqrt(21.0))])
def test_it_is_as_far_as_the_boundary_in_its_norm(norm: float, dual: float) -> None:
    given = linear(SLOPE, INTERCEPT)
    # Those whose projection is inside the box: away from the edges.
    asked = given.denied[(given.denied < 0.6).all(axis=1) & (margins(given.denied.to_numpy()) > -1.5)].iloc[:40]
    answers = Wachter(norm=norm, steps=400).fit(given).counterfactuals(asked)
    assert answers.index.equals(asked.index) and (answers.dtypes == asked.dtypes).all()
    distance = np.linalg.norm(answers - asked, norm, axis=1)
    expected = -margins(asked.to_numpy()) / dual
    assert (distance >= expected - 1e-9).all()
    np.testing.assert_allclose(distance, expected, rtol=0, atol=0.02)
    assert (margins(answers.to_numpy()) > 0).all()


def test_immutables_stay_and_the_rest_makes_up_for_it() -> None:
    given = linear(SLOPE, INTERCEPT, immutable=("a",))
    answers = Wachter(norm=2.0, steps=400).fit(given).counterfactuals(given.denied)
    found = metrics.answered(answers)
    # b and c can give 3 at most.
    possible = 4 * given.denied["a"].to_numpy() + 3 + INTERCEPT > 0
    np.testing.assert_array_equal(found, possible)
    assert 0 < found.sum() < len(found)
    assert (answers["a"] == given.denied["a"])[found].all()
