"""The outlier factor is the paper's: equal to scikit-learn's where no distances are equal, and independent of order."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from strategies import quick

from recourse_gen import outliers
from recourse_gen.outliers import OutlierFactor


def by_definition(reference: np.ndarray, query: np.ndarray, k: int) -> float:
    """The factor of one row among reference rows, word for word after Breunig et al. (2000)."""

    def near(row: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        apart = np.sqrt(((others - row) ** 2).sum(1))
        kth = np.sort(apart)[k - 1]
        at = np.flatnonzero(apart <= kth * (1 + 1e-9))
        return at, apart[at], kth

    def density(row: np.ndarray, others: np.ndarray, kth: np.ndarray) -> float:
        at, apart, _ = near(row, others)
        return 1 / (np.maximum(kth[at], apart).mean() + 1e-10)

    rest = [np.delete(np.arange(len(reference)), i) for i in range(len(reference))]
    kth = np.array([near(row, reference[rest[i]])[2] for i, row in enumerate(reference)])
    densities = np.array([density(row, reference[rest[i]], kth[rest[i]]) for i, row in enumerate(reference)])
    at, _, _ = near(query, reference)
    return float(densities[at].mean() / density(query, reference, kth))


@pytest.mark.parametrize("boxed", [False, True])
@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_it_is_the_definition_with_ties_and_repeats(boxed: bool, seed: int, k: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 4, (12, columns)) * 1.0
    asked = rng.integers(0, 5, (5, columns)) * 1.0
    with patch.object(outliers, "_ALL", 0 if boxed else outliers._ALL), patch.object(outliers, "_BOX", 2):
        found = OutlierFactor.fit(reference, k)(asked)
    np.testing.assert_allclose(found, [by_definition(reference, row, k) for row in asked], rtol=1e-6)


@pytest.mark.parametrize("size", [200, 3000])
def test_it_is_scikit_learns_where_no_two_distances_are_equal(size: int) -> None:
    rng = np.random.default_rng(0)
    reference, asked = rng.random((size, 6)), rng.random((500, 6)) * 1.2
    theirs = -LocalOutlierFactor(5, novelty=True).fit(reference).score_samples(asked)
    np.testing.assert_allclose(OutlierFactor.fit(reference, 5)(asked), theirs, rtol=1e-7)


def test_company_and_the_order_of_the_reference_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    codes = [np.eye(levels)[rng.integers(0, levels, 4000)] for levels in (3, 7, 12)]
    rows = np.concatenate([*codes, rng.integers(0, 9, (4000, 2)) / 9], 1)
    reference, asked = rows[:3000], rows[3000:]
    factor = OutlierFactor.fit(reference, 5)
    together = factor(asked)
    np.testing.assert_array_equal(together[:100], [factor(row[None])[0] for row in asked[:100]])
    np.testing.assert_array_equal(together, OutlierFactor.fit(reference[rng.permutation(3000)], 5)(asked))


@pytest.mark.parametrize("boxed", [False, True])
def test_far_from_the_origin_and_far_from_everything(boxed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_ALL", 0 if boxed else outliers._ALL)
    monkeypatch.setattr(outliers, "_BOX", 32)
    rng = np.random.default_rng(2)
    reference, asked = 50 + rng.random((300, 3)), 50 + rng.random((50, 3)) * 3
    theirs = -LocalOutlierFactor(5, novelty=True).fit(reference).score_samples(asked)
    np.testing.assert_allclose(OutlierFactor.fit(reference, 5)(asked), theirs, rtol=1e-7)
    for far in (1e6, 1e19, 1e25):  # from 2e19 on, a square has no float32
        assert OutlierFactor.fit(reference, 5)(np.array([[0.0, far, 0.0]]))[0] > 100


def test_nothing_is_asked() -> None:
    assert OutlierFactor.fit(np.eye(4), 2)(np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    "part", [{"k": "5"}, {"rows": np.zeros(4)}, {"density": np.zeros(3)}, {"weight": np.zeros(4)}, {"distance": None}]
)
def test_parts_that_do_not_fit_together_are_seen(part: dict[str, object]) -> None:
    whole = OutlierFactor.fit(np.eye(4), 2)
    assert whole.whole()
    assert not replace(whole, **part).whole()  # type: ignore[arg-type]


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_others_of_a_crowd_are_those_of_the_rows_that_they_have_seen(seed: int, k: int) -> None:
    """Each is what `fit` makes of its rows, as often as they occur, and every one has seen so many more."""
    rng = np.random.default_rng(seed)
    reference, asked = rng.integers(0, 4, (30, 2)) * 1.0, rng.integers(0, 5, (9, 2)) * 1.0
    reference = np.concatenate([reference, reference[:1].repeat(3, 0)])  # so that something is repeated
    first, *others = OutlierFactor.crowd(reference, k, 3, 0.5, seed=seed)
    np.testing.assert_array_equal(first(asked), OutlierFactor.fit(reference, k)(asked))
    pairs = first.pairs(asked)
    assert len(others) == 3
    for other in others:
        assert (other.weight >= first.weight).all() and other.weight.sum() == others[0].weight.sum() > len(reference)
        alone = OutlierFactor.fit(other.rows.repeat(other.weight, axis=0), k)
        np.testing.assert_allclose(other.factor(pairs), alone(asked), rtol=1e-6)


def test_rows_that_never_repeat_are_not_repeated() -> None:
    """A larger sample of numbers holds other rows; of whole numbers, the same ones, the more often they occur."""
    rng = np.random.default_rng(0)
    assert len(OutlierFactor.crowd(rng.random((500, 3)), 5, 4, 0.5, seed=0)) == 1
    counted = rng.geometric(0.15, (4000, 1)) * 1.0
    sample, larger = counted[:2000], counted[:3000]
    first, *others = OutlierFactor.crowd(sample, 5, 20, 0.5, seed=0)
    assert len({other.weight.tobytes() for other in others}) == 20, "draws of their own"
    due = (larger == first.rows[:, 0]).sum(0)
    often = due > 50
    found = np.mean([other.weight for other in others], axis=0)
    np.testing.assert_allclose(found[often], due[often], rtol=0.15)
