"""Growing Spheres find the boundary of a linear classifier to within what their draws can tell."""

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import linear

from bench.baselines.growing_spheres import GrowingSpheres
from bench.baselines.shells import shell, stream

SLOPE, INTERCEPT = [4.0, 2.0, 1.0], -3.5


def test_a_shell_is_filled_uniformly() -> None:
    noise = stream(torch.zeros(1, 3), seed=0)
    points = shell(noise, 4000, 3, torch.tensor([0.5]).double(), torch.tensor([1.0]).double())[0]
    radius = points.norm(dim=1)
    assert ((radius >= 0.5 - 1e-6) & (radius <= 1 + 1e-6)).all()
    # The share of the volume up to r is (r³ − 0.5³) / (1 − 0.5³), and directions have no preference.
    share = (radius**3 - 0.125) / 0.875
    assert (share.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 0.03
    assert points.mean(0).abs().max() < 0.04


def test_answers_are_within_a_shell_of_the_projection() -> None:
    given = linear(SLOPE, INTERCEPT)
    margin = given.denied.to_numpy() @ np.array(SLOPE) + INTERCEPT
    inside = (given.denied < 0.6).all(axis=1) & (margin > -1.5)
    asked, expected = given.denied[inside], -margin[inside] / np.linalg.norm(SLOPE)
    method = GrowingSpheres(sparse=False).fit(given)
    distance = np.linalg.norm(method.counterfactuals(asked) - asked, axis=1)
    step = method.radius(method.space.coordinates.encode(asked)).numpy()
    # A ball or shell that reaches a little over the boundary may hold no draw beyond it.
    assert (step < 1.1 * expected + 1e-3).all()
    assert (distance >= expected - 1e-9).all() and (distance <= (expected // step + 2) * step + 1e-9).all()
    assert np.mean(distance - expected) < 0.01


def test_undoing_takes_back_what_does_not_matter() -> None:
    given = linear([4.0, 2.0, 0.0, 1.0], -3.5, immutable=("d",))
    some = given.denied.iloc[:60]
    full = GrowingSpheres(sparse=False).fit(given).counterfactuals(some)
    few = GrowingSpheres().fit(given).counterfactuals(some)
    smallest = (full - some)[["a", "b", "c"]].abs().idxmin(axis=1) == "c"
    assert smallest.sum() > 20 and (full["c"] != some["c"]).all()
    assert (few["c"] == some["c"])[smallest].all()
    assert (few["d"] == some["d"]).all() and (few.to_numpy() @ np.array([4, 2, 0, 1]) > 3.5).all()
    changed = few != some
    pd.testing.assert_frame_equal(full.where(changed), few.where(changed))


@pytest.mark.parametrize("place", [0, 17])
def test_an_answer_depends_on_its_row_alone(place: int) -> None:
    given = linear(SLOPE, INTERCEPT)
    method = GrowingSpheres(seed=4).fit(given)
    some = given.denied.iloc[:30]
    alone, together = method.counterfactuals(some.iloc[[place]]), method.counterfactuals(some).iloc[[place]]
    pd.testing.assert_frame_equal(alone, together)


def test_nobody_is_answered_where_nothing_may_move() -> None:
    given = linear([4.0, 2.0], -3.5, immutable=("a", "b"))
    assert GrowingSpheres().fit(given).counterfactuals(given.denied.iloc[:3]).isna().all(axis=None)
