import numpy as np
import pandas as pd
import pytest
import sklearn

from recourse_gen.judge import GoldJudge
from recourse_gen.schema import Schema


def world(rows=600, seed=0):
    """Mixed columns and a noisy outcome that depends on all of them; one outcome in four is favourable."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a": rng.normal(size=rows),
            "b": rng.integers(0, 5, rows),
            "c": rng.choice(["x", "y", "z"], rows),
            "d": rng.choice([False, True], rows),
        }
    )
    merit = frame["a"] + 0.5 * frame["b"] + (frame["c"] == "z") + frame["d"] + rng.normal(size=rows)
    return frame, (merit > np.quantile(merit, 0.75)).astype(int).to_numpy()


@pytest.fixture(scope="module")
def fitted():
    frame, target = world()
    return GoldJudge(Schema.infer(frame), seed=3, n_estimators=25).fit(frame, target), frame, target


def test_same_seed_same_judge_other_seed_another(fitted):
    judge, frame, target = fitted
    again = GoldJudge(judge.schema, seed=3, n_estimators=25).fit(frame, target)
    other = GoldJudge(judge.schema, seed=4, n_estimators=25).fit(frame, target)
    np.testing.assert_allclose(again.probability(frame), judge.probability(frame), atol=1e-9)
    assert np.abs(other.probability(frame) - judge.probability(frame)).max() > 1e-3


def test_probabilities_learn_the_outcome_and_do_not_depend_on_company(fitted):
    judge, frame, target = fitted
    probability = judge.probability(frame)
    assert probability.shape == (len(frame),)
    assert (probability >= 0).all()
    assert (probability <= 1).all()
    assert probability[target == 1].mean() > probability[target == 0].mean() + 0.2
    np.testing.assert_array_equal(judge.probability(frame[100:130]), probability[100:130])
    assert judge.probability(frame[:0]).shape == (0,)


def test_weights_reach_both_forest_and_calibration(fitted, monkeypatch):
    """Without a signal, balanced weights lift the mean probability from the base rate, 1/4, to about 1/2."""
    judge, frame, target = fitted
    noise = np.random.default_rng(0).permutation(target)
    weighed = GoldJudge(judge.schema, seed=0, n_estimators=25).fit(frame, noise).probability(frame).mean()
    assert weighed > 0.4
    seen = []
    forest = sklearn.ensemble.RandomForestClassifier
    original = forest.fit

    def spy(self, X, y, sample_weight=None):
        seen.append(None if sample_weight is None else {y[i]: round(sample_weight[i], 6) for i in range(len(y))})
        return original(self, X, y, sample_weight=sample_weight)

    monkeypatch.setattr(forest, "fit", spy)
    with sklearn.config_context(enable_metadata_routing=True):
        GoldJudge(judge.schema, seed=0, n_estimators=2).fit(frame, target)
    assert len(seen) == 5
    assert all(weights is not None and weights[1] == pytest.approx(3 * weights[0], rel=1e-3) for weights in seen)


def test_labels_are_bernoulli_draws_of_the_probabilities(fitted):
    judge, frame, _ = fitted
    probability = judge.probability(frame)
    draws = np.stack([judge.draw_labels(frame, seed) for seed in range(20)])
    assert set(np.unique(draws)) == {0, 1}
    spread = np.sqrt((probability * (1 - probability)).sum()) / len(frame) / np.sqrt(len(draws))
    assert abs(draws.mean() - probability.mean()) < 5 * spread
    np.testing.assert_array_equal(draws[7], judge.draw_labels(frame, 7))
    assert (draws[7] != draws[8]).any()
    certain = (probability == 0) | (probability == 1)
    assert (draws[:, certain] == probability[certain]).all()


def test_plausible_means_near_favoured_rows(fitted):
    judge, frame, _ = fitted
    favoured = frame[judge.probability(frame) > 0.5]
    assert judge.plausible(favoured).mean() > 0.7
    assert not judge.plausible(favoured[:3].assign(a=1000.0)).any()
    assert judge.description["favoured_rows"] == len(favoured)
    assert judge.description["rows"] == len(frame)


def test_a_category_that_the_schema_lacks_is_judged_all_the_same(fitted):
    judge, frame, _ = fitted
    assert np.isfinite(judge.probability(frame[:5].assign(c="new"))).all()
    assert judge.plausible(frame[:5].assign(c="new")).shape == (5,)


def test_refitting_forgets_the_old_rows(fitted):
    _, frame, target = fitted
    judge = GoldJudge(Schema.infer(frame), n_estimators=5).fit(frame, target)
    before = judge.description["favoured_rows"]
    judge.fit(frame, 1 - target)
    assert judge.description["favoured_rows"] != before


def test_unusable_labels_are_refused(fitted):
    judge, frame, target = fitted
    fresh = GoldJudge(judge.schema)
    with pytest.raises(ValueError, match="600 rows but 10 labels"):
        fresh.fit(frame, target[:10])
    with pytest.raises(ValueError, match="must be 0 or 1"):
        fresh.fit(frame, target + 1)
    with pytest.raises(ValueError, match="two rows of each outcome"):
        fresh.fit(frame, np.zeros(len(frame), dtype=int))
    with pytest.raises(ValueError, match="not fitted"):
        fresh.probability(frame)
