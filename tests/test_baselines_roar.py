"""ROAR of a linear classifier: the boundary moves by delta times the dual norm of (x, 1)."""

import math

import numpy as np
import pytest
import torch
from worlds import linear, world

from bench.baselines.roar import Roar
from recourse_gen.classifier import fit_classifier

SLOPE, INTERCEPT = np.array([4.0, 2.0, 1.0]), -3.0


def test_the_local_model_of_a_linear_classifier_is_itself() -> None:
    given = linear(SLOPE.tolist(), INTERCEPT)
    method = Roar().fit(given)
    slope, intercept = method.local(method.space.coordinates.encode(given.denied))
    torch.testing.assert_close(slope, torch.from_numpy(SLOPE).expand_as(slope))
    torch.testing.assert_close(intercept, torch.full_like(intercept, INTERCEPT))


def test_the_local_model_follows_the_slope_of_a_network(table, schema) -> None:
    network = fit_classifier("mlp", *table, schema=schema, seed=0, activation="tanh")
    method = Roar(samples=4000).fit(world(*table, network, schema))
    origin = method.space.coordinates.encode(table[0].iloc[:50])
    slope, gradient = method.local(origin)[0], method.space.logit.gradient(origin)[1]
    assert torch.nn.functional.cosine_similarity(slope, gradient).median() > 0.9


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_in_an_l_inf_ball_the_answer_is_the_projection_onto_the_worst_boundary(delta: float) -> None:
    given = linear(SLOPE.tolist(), INTERCEPT)
    points = given.denied.to_numpy()
    # Coordinates are not negative, so the dual norm of (x, 1) is their sum + 1, and the worst model is linear too.
    margin = points @ (SLOPE - delta) + INTERCEPT - delta
    inside = (given.denied < 0.6).all(axis=1).to_numpy() & (margin > -1.2)
    answers = Roar(delta=delta, norm=2.0, steps=400).fit(given).counterfactuals(given.denied[inside])
    distance = np.linalg.norm(answers - given.denied[inside], axis=1)
    expected = -margin[inside] / np.linalg.norm(SLOPE - delta)
    assert (distance >= expected - 1e-9).all()
    np.testing.assert_allclose(distance, expected, rtol=0, atol=0.02)


def test_in_an_l2_ball_every_model_approves_and_none_much() -> None:
    delta = 0.2
    given = linear(SLOPE.tolist(), INTERCEPT)
    asked = given.denied[(given.denied < 0.6).all(axis=1)]
    answers = Roar(delta=delta, ball=2, norm=2.0, steps=400).fit(given).counterfactuals(asked).to_numpy()
    lifted = np.concatenate([answers, np.ones((len(answers), 1))], axis=1)
    worst = answers @ SLOPE + INTERCEPT - delta * np.linalg.norm(lifted, axis=1)
    assert (worst > 0).all() and worst.max() < 0.1
    noise = np.random.default_rng(0).normal(size=(500, 4))
    models = np.append(SLOPE, INTERCEPT) + delta * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert (lifted @ models.T > 0).all()


def test_what_the_worst_model_allows_nowhere_is_answered_by_the_classifier() -> None:
    given = linear(SLOPE.tolist(), INTERCEPT)
    answers = Roar(delta=3.0, steps=200).fit(given).counterfactuals(given.denied)
    assert (answers.to_numpy() @ SLOPE + INTERCEPT > 0).all()


def test_other_balls_are_refused() -> None:
    with pytest.raises(ValueError, match="ball must be 2 or inf"):
        Roar(ball=1)
    Roar(ball=math.inf)
