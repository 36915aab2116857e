"""A panel's opinions, and the curves that say how likely another panel shares them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import quick

from recourse_gen.panel import Agreement, Curve, Panel

SMALL = {"n_estimators": 10, "n_neighbors": 5, "n_jobs": 1}


def people(size: int, noise: float, seed: int = 0, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features in the unit square; the first decides the label, and `noise` of the labels are thrown at random."""
    rng = np.random.default_rng(seed)
    features = rng.random((size, 2))
    clear = features[:, 0] > 1 - share
    return features, np.where(rng.random(size) < noise, rng.random(size) < share, clear).astype(np.int64)


def everybody(target: np.ndarray) -> np.ndarray:
    return np.ones(len(target), dtype=bool)


def test_a_curve_finds_the_law_behind_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    opinion = rng.normal(size=20_000)
    shared = rng.random(len(opinion)) < 1 / (1 + np.exp(-1.5 * opinion - 0.5))
    curve = Curve.fit(opinion, shared, Curve(9.0, 9.0))
    assert curve.slope == pytest.approx(1.5, abs=0.1)
    assert curve.intercept == pytest.approx(0.5, abs=0.1)
    assert curve(np.array([0.0])) == pytest.approx(1 / (1 + np.exp(-curve.intercept)))


@pytest.mark.parametrize("shared", [np.zeros(50), np.ones(50), np.arange(50) < 25])
def test_outcomes_that_say_nothing_or_fall_leave_the_default(shared: np.ndarray) -> None:
    default = Curve(2.0, -1.0)
    assert Curve.fit(np.linspace(-1, 1, 50), shared, default) is default


opinions = arrays(np.float64, (3, 4), elements=st.floats(0, 1))


@quick
@given(opinions, opinions, st.floats(0, 1), st.floats(0, 0.5))
def test_more_of_either_opinion_never_lowers_what_is_expected(consensus, plausibility, agreed, apart) -> None:
    agreement = Agreement()
    expected = agreement.expected(consensus, plausibility)
    assert expected.shape == consensus.shape
    assert ((expected >= 0) & (expected <= 2)).all()
    assert (agreement.expected(np.maximum(consensus, agreed), plausibility) >= expected).all()
    assert (agreement.expected(consensus, plausibility + apart) >= expected).all()


def test_the_two_opinions_are_not_interchangeable() -> None:
    agreement = Agreement(Curve(2.0, 0.0), Curve(5.0, 1.0))
    assert agreement.expected(np.array([0.5]), np.array([0.0])) == pytest.approx(0.5 + 1 / (1 + np.exp(-1)))
    assert agreement.expected(np.array([0.8]), np.array([-9.0])) == pytest.approx(16 / 17 + 1 / (1 + np.exp(4)))


def test_noisy_labels_make_agreement_less_likely() -> None:
    at = np.array([0.7])
    clear, noisy = (
        Agreement.fit(features, target, everybody(target), seed=0, **SMALL)
        for features, target in (people(1500, 0.1), people(1500, 0.8))
    )
    assert clear.favoured(at) > noisy.favoured(at)


def test_the_same_seed_gives_the_same_curves() -> None:
    features, target = people(600, 0.3)
    first, again, other = (Agreement.fit(features, target, everybody(target), seed=seed, **SMALL) for seed in (1, 1, 2))
    assert dataclasses.asdict(first) == dataclasses.asdict(again) != dataclasses.asdict(other)


def test_too_few_rows_leave_the_defaults() -> None:
    features, target = people(300, 0.3)
    assert Agreement.fit(features, target, ~everybody(target), seed=0, **SMALL) == Agreement()
    rare = np.zeros(300, dtype=np.int64)
    rare[:5] = 1
    assert Agreement.fit(features, rare, everybody(rare), seed=0, **SMALL) == Agreement()


def test_a_rare_favourable_class_is_asked_to_be_likely_as_it_occurs() -> None:
    """Three in ten: a consensus in which both classes weigh the same has to pass 0.7 to be more likely than not."""
    rare, common = (
        Agreement.fit(features, target, everybody(target), seed=0, **SMALL | {"n_estimators": 50})
        for features, target in (people(3000, 0.4, share=0.3), people(3000, 0.4, share=0.7))
    )
    middling = np.log([0.55 / 0.45])
    assert rare.favoured(middling) < 0.5 < common.favoured(middling)


def test_nobody_gets_no_opinion() -> None:
    features, target = people(200, 0.3)
    panel = Panel.fit(features, target, seed=0, **SMALL)
    assert panel.consensus(features[:0]).shape == panel.plausibility(features[:0]).shape == (0,)
