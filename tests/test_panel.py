"""A panel's opinions, and how far they reach: laws that are found again, flatter where labels are noise."""

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from strategies import quick

from recourse_gen.panel import Agreement, Curve, Panel

SMALL: dict[str, Any] = {"n_estimators": 20, "n_neighbors": 5, "n_jobs": None}
DEFAULT = Curve(2.0, -1.0)


def people(size: int, noise: float = 0.0, favourable: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two features, of which the first decides; a share `noise` of the labels is shuffled among everybody."""
    rng = np.random.default_rng(seed)
    features = rng.random((size, 2))
    clear = features[:, 0] >= 1 - favourable
    shuffled = rng.random(size) < noise
    return features, np.where(shuffled, rng.permutation(clear), clear).astype(np.int64)


def agreement(features: np.ndarray, target: np.ndarray, approved: Any = None, seed: int = 0) -> Agreement:
    approved = np.ones(len(target), dtype=bool) if approved is None else approved
    return Agreement.fit(features, target, approved, seed=seed, **SMALL)


def only(count: int, size: int) -> np.ndarray:
    """Int64 ``(size,)``: ones in `count` places, spread evenly."""
    flags = np.zeros(size, dtype=np.int64)
    flags[np.linspace(0, size - 1, count).astype(int)] = 1
    return flags


@pytest.mark.parametrize("curve", [Curve(2.0, 0.5), Curve(0.7, -3.0, lowest=1.0, below=4.0)])
@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.95, 0.999])
def test_a_curve_is_read_backwards(curve: Curve, probability: float) -> None:
    assert curve(np.array(curve.reaches(probability))) == pytest.approx(probability)


def test_no_rows_no_opinions() -> None:
    panel = Panel.fit(*people(60), seed=0, **SMALL)
    for opinion in (panel.consensus(np.zeros((0, 2))), panel.plausibility(np.zeros((0, 2)))):
        assert opinion.shape == (0,)
        assert opinion.dtype == np.float64


def test_a_consensus_is_the_mean_of_the_models() -> None:
    features, target = people(300, noise=0.3)
    panel = Panel.fit(features, target, seed=0, **SMALL)
    votes = np.stack([model.predict_proba(features)[:, 1] for model in panel.models])
    assert (np.ptp(votes, axis=0).max() > 0.1) and len(votes) == 3
    np.testing.assert_allclose(panel.consensus(features), votes.mean(0), atol=1e-8)


def test_odd_favourable_labels_make_nobody_plausible() -> None:
    """Favourable rows one by one in a crowd of unfavourable ones are no example to follow."""
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.uniform(0.0, 0.4, (300, 2)), rng.uniform(0.6, 1.0, (300, 2))])
    target = (np.arange(600) >= 300).astype(np.int64)
    target[:8] = 1
    panel = Panel.fit(features, target, seed=0, **SMALL)
    assert (panel.plausibility(features[:8]) == -1).all()
    assert (panel.consensus(features[:8]) < 0.5).all()
    assert panel.plausibility(np.array([[0.8, 0.8]])) > 0


def test_a_panel_that_favours_nobody_follows_the_labels() -> None:
    """Rows that are all the same: whether the one tree leans to either side depends on its sample. Ten favourable rows
    have nine neighbours at most."""
    features, target = np.zeros((20, 2)), only(10, 20)
    leanings = []
    for seed in range(8):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            panel = Panel.fit(features, target, seed=seed, n_estimators=1, n_neighbors=15, n_jobs=None)
        leanings.append(bool(panel.consensus(features[:1])[0] > 0.5))
        assert np.isfinite(panel.plausibility(features)).all()
    assert set(leanings) == {True, False}


@quick
@given(st.floats(0.3, 12), st.floats(-2, 2), st.integers(0, 2**32 - 1))
def test_a_known_law_is_found_again(slope: float, intercept: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    opinion = rng.normal(0, 2 / slope, 20000)
    shared = (rng.random(len(opinion)) < expit(slope * opinion + intercept)).astype(float)
    found = Curve.fit(opinion, shared, DEFAULT)
    assert found.slope == pytest.approx(slope, rel=0.15)
    assert found.intercept == pytest.approx(intercept, abs=0.15)
    grid = np.linspace(-4, 4, 41).reshape(1, 41) / slope
    np.testing.assert_allclose(found(grid), expit(slope * grid + intercept), atol=0.03)


@quick
@given(st.sampled_from([0.0, 1.0]), st.integers(1, 200))
def test_outcomes_that_are_all_the_same_say_how_often_and_no_more(outcome: float, size: int) -> None:
    opinion = np.linspace(-1, 3, size)
    found = Curve.fit(opinion, np.full(size, outcome), DEFAULT)
    assert found.slope == DEFAULT.slope
    assert found(opinion.mean()) == pytest.approx((size * outcome + 1) / (size + 2))


@quick
@given(st.floats(0.3, 10), st.integers(0, 2**32 - 1))
def test_a_relation_that_falls_is_not_believed(slope: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    opinion = rng.normal(0, 2 / slope, 1000)
    shared = (rng.random(len(opinion)) < expit(slope * opinion)).astype(float)
    assert Curve.fit(opinion, shared, DEFAULT).slope != DEFAULT.slope
    found = Curve.fit(-opinion, shared, DEFAULT)
    assert found.slope == DEFAULT.slope
    assert found(-opinion.mean()) == pytest.approx(shared.mean(), abs=0.01)


def test_what_was_never_measured_is_not_extrapolated_from_chance() -> None:
    """One in forty disagrees, whatever the opinion: nearly flat, but not for rows of which nobody has said such."""
    rng = np.random.default_rng(0)
    opinion, shared = rng.normal(0.4, 0.2, 2000), rng.random(2000) < 0.975
    opinion[~shared] -= 0.02  # so that the fitted slope rises
    found = Curve.fit(opinion, shared.astype(np.int64), DEFAULT)
    assert 0 < found.slope < DEFAULT.slope
    lowest = np.quantile(opinion, 0.01)
    assert found(np.array([lowest, 0.8])) == pytest.approx(0.975, abs=0.01)
    steps = logit(found(lowest - np.array([0.0, 1.0, 2.0])))
    np.testing.assert_allclose(np.diff(steps), -DEFAULT.slope)
    steep = Curve.fit(10 * opinion, (opinion > rng.normal(0.3, 0.01, 2000)).astype(np.int64), DEFAULT)
    assert steep.below == steep.slope > DEFAULT.slope, "a slope that was measured goes on"


def test_by_default_a_consensus_is_taken_at_its_word() -> None:
    consensus, plausibility = np.meshgrid(np.linspace(0.001, 0.999, 21), np.linspace(-1, 1.5, 11))
    expected = Agreement().expected(consensus, plausibility)
    np.testing.assert_allclose(expected, consensus + expit(10 * plausibility), rtol=1e-9)


def test_the_two_opinions_are_not_interchangeable() -> None:
    law = Agreement(Curve(2.0, 0.0), Curve(5.0, 1.0))
    assert law.expected(np.array([0.5]), np.array([0.0])) == pytest.approx(0.5 + expit(1))
    assert law.expected(np.array([0.8]), np.array([-9.0])) == pytest.approx(16 / 17 + expit(-4))


ROUNDING = 1e-14
curves = st.builds(Curve, st.floats(1e-3, 20), st.floats(-10, 10), st.floats(-3, 3), st.floats(0, 20))
opinions = st.tuples(st.floats(0, 1), st.floats(-1e6, 2))


@quick
@given(st.builds(Agreement, curves, curves), opinions, opinions, st.lists(st.integers(0, 3), max_size=3))
def test_more_of_either_opinion_never_lowers_what_is_expected(
    law: Agreement, one: tuple[float, float], other: tuple[float, float], shape: list[int]
) -> None:
    (low, high), (far, near) = sorted([one[0], other[0]]), sorted([one[1], other[1]])
    values = {
        (c, p): law.expected(np.full(shape, c), np.full(shape, p)) for c in (0.0, low, high, 1.0) for p in (far, near)
    }
    for value in values.values():
        assert value.shape == tuple(shape)
        assert ((value >= 0) & (value <= 2)).all()
    for p in (far, near):
        assert (values[0.0, p] <= values[low, p] + ROUNDING).all()
        assert (values[low, p] <= values[high, p] + ROUNDING).all()
        assert (values[high, p] <= values[1.0, p] + ROUNDING).all()
    assert (values[low, far] <= values[low, near] + ROUNDING).all()


def test_either_opinion_counts() -> None:
    law = Agreement(Curve(0.5, -1.0), Curve(2.0, 1.0))
    ladder = np.linspace(0.001, 0.999, 50)
    assert (np.diff(law.expected(ladder, np.zeros(50))) > 0).all()
    assert (np.diff(law.expected(np.full(50, 0.5), -ladder)) < 0).all(), "also below the border of an inlier"


def test_no_opinion_is_certain() -> None:
    """A thousandth from either end of a consensus, and one below the border of an inlier, all has been said."""
    consensus, plausibility = np.array([0.0, 1.0, 0.3]), np.array([0.0, 0.0, -1e9])
    expected = Agreement().expected(consensus, plausibility)
    np.testing.assert_allclose(expected, [0.501, 1.499, 0.3 + expit(-10)])


@pytest.mark.parametrize("seed", range(3))
def test_noisy_labels_make_agreement_rarer(seed: int) -> None:
    clear, noisy = (agreement(*people(900, noise, seed=seed)) for noise in (0.1, 0.8))
    half = logit(np.array([0.5, 0.6, 0.7]))
    assert (clear.favoured(half) > noisy.favoured(half) + 0.1).all()
    assert clear.favoured.slope > noisy.favoured.slope
    assert 0.4 < noisy.favoured(half)[0] < 0.62, "of what one panel doubts, another favours half, unless it saw it"
    assert 0.5 < noisy.inlier(-0.05) < 0.95, "whom one critic finds just odd, another often does not"


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_what_is_expected_is_what_strangers_say(noise: float) -> None:
    """Panels of as many rows as a part has, and people whom neither has seen."""
    law = agreement(*people(1200, noise))
    gaps = []
    for seed in range(1, 7):
        mine, theirs = (Panel.fit(*people(400, noise, seed=100 * seed + k), seed=seed, **SMALL) for k in range(2))
        features, target = people(400, noise, seed=100 * seed + 2)
        asked = features[target == 1]
        said = (theirs.consensus(asked) > 0.5).astype(int) + (theirs.plausibility(asked) >= 0)
        gaps.append((law.expected(mine.consensus(asked), mine.plausibility(asked)) - said).mean())
    assert abs(np.mean(gaps)) < 0.05


@pytest.mark.parametrize("seed", range(2))
def test_a_rare_class_is_favoured_where_it_is_more_likely_than_not(seed: int) -> None:
    """One in five: a consensus of 0.6, both classes weighed the same, is a probability of 3 in 11."""
    favoured = agreement(*people(900, 0.5, favourable=0.2, seed=seed)).favoured
    assert favoured != Agreement().favoured
    assert favoured(logit(0.6)) < 0.2
    assert favoured(logit(0.95)) > 0.5


@pytest.mark.parametrize("count", [6, 9, 20])
def test_a_very_rare_class_does_no_harm(count: int) -> None:
    features, _ = people(600)
    found = agreement(features, only(count, 600))
    numbers = [number for curve in asdict(found).values() for number in curve.values()]
    assert np.isfinite(numbers).all()
    assert found.favoured.slope > 0
    assert found.inlier.slope > 0
    assert np.isfinite(found.expected(np.array([0.0, 0.5, 1.0]), np.array([-9.0, 0.0, 1.0]))).all()


def test_too_few_of_a_class_give_the_defaults() -> None:
    features, _ = people(300)
    for count in (1, 2, 5):
        assert agreement(features, only(count, 300)) == Agreement()
        assert agreement(features, 1 - only(count, 300)) == Agreement()
    assert agreement(features, 1 - only(6, 300)) != Agreement()


def test_too_few_approved_rows_give_the_defaults() -> None:
    """Each row is asked about twice, so fifteen rows are thirty opinions. Approved but unfavourable rows are none."""
    features, target = people(300, noise=0.3)
    favourable = np.flatnonzero(target == 1)
    for count, default in ((0, True), (14, True), (15, False), (len(favourable), False)):
        approved = target == 0
        approved[favourable[:count]] = True
        found = agreement(features, target, approved)
        assert (found == Agreement()) is default
        assert agreement(features, target, approved & (target == 1)) == found


def test_only_approved_rows_are_asked_about() -> None:
    """Where the classifier approves only what is clear, another panel agrees with more of it."""
    features, target = people(900, noise=0.6)
    everyone, some = agreement(features, target), agreement(features, target, features[:, 0] > 0.5)
    assert some.favoured(logit(0.5)) > everyone.favoured(logit(0.5)) + 0.2


def test_the_seed_decides() -> None:
    features, target = people(300, noise=0.3)
    assert agreement(features, target) == agreement(features, target)
    assert agreement(features, target) != agreement(features, target, seed=1)
