"""PROBE of a linear classifier: noise invalidates with probability Φ(−margin / (σ‖w‖))."""

import numpy as np
import pytest
import torch
from scipy.stats import norm as gaussian
from worlds import linear

from bench.baselines.probe import Probe
from recourse_gen import metrics

SLOPE, INTERCEPT = np.array([4.0, 2.0, 1.0]), -3.0


def test_the_rate_is_the_share_of_noisy_points_that_lose_the_approval() -> None:
    given = linear(SLOPE.tolist(), INTERCEPT)
    method = Probe(sigma=0.2).fit(given)
    x = method.space.train[:20]
    noise = torch.randn(20000, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lost = (method.space.logit(x + 0.2 * noise) <= 0).double().mean(0)
    assert (method.rate(x) - lost).abs().max() < 0.015
    assert method.rate(x).min() < 0.1 and method.rate(x).max() > 0.9


@pytest.mark.parametrize(("invalidation", "sigma"), [(0.35, 0.1), (0.05, 0.1), (0.05, 0.02)])
def test_answers_are_as_far_beyond_the_boundary_as_the_rate_asks(invalidation: float, sigma: float) -> None:
    given = linear(SLOPE.tolist(), INTERCEPT)
    length = np.linalg.norm(SLOPE)
    margin = given.denied.to_numpy() @ SLOPE + INTERCEPT
    inside = (given.denied < 0.6).all(axis=1).to_numpy() & (margin > -1.0)
    asked = given.denied[inside]
    answers = Probe(invalidation=invalidation, sigma=sigma, norm=2.0, steps=400).fit(given).counterfactuals(asked)
    beyond = answers.to_numpy() @ SLOPE + INTERCEPT
    rate = gaussian.cdf(-beyond / (sigma * length))
    assert (rate <= invalidation).all()
    distance = np.linalg.norm(answers - asked, axis=1)
    expected = -margin[inside] / length + sigma * gaussian.ppf(1 - invalidation)
    np.testing.assert_allclose(distance, expected, rtol=0, atol=0.02)


def test_a_rate_out_of_reach_gets_the_most_robust_row() -> None:
    given = linear([1.0, 1.0], -1.5, immutable=("a",))
    asked = given.denied[given.denied["a"] > 0.6]
    answers = Probe(invalidation=0.001, sigma=0.5, steps=200).fit(given).counterfactuals(asked)
    assert metrics.answered(answers).all()
    np.testing.assert_allclose(answers["b"], 1.0, atol=0.01)
