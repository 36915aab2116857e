"""Classifiers that might have been deployed instead, and answers that are followed inexactly."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from recourse_gen import metrics
from recourse_gen.classifier import as_classifier, fit_classifier
from recourse_gen.robustness import noise_validity, retrained
from recourse_gen.schema import Schema

TRAIN = pd.DataFrame(
    {
        "age": pd.Series([20, 30, 40, 60], dtype="int32"),
        "income": [0.0, 10.5, 25.0, 50.0],
        "visits": [0.0, 1.0, 2.0, 5.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
    }
)
SCHEMA = Schema.infer(TRAIN, kinds={"income": "continuous"})


class Watching:
    """Favours incomes above 20 and remembers the frame it saw."""

    def probability(self, frame):
        self.seen = frame
        return 0.1 + 0.8 * (frame["income"].to_numpy() > 20)


def test_retrained_named_families_differ_as_they_should(table, schema):
    frame, target = table
    models = retrained(frame, target, schema, families=["logistic", "random_forest"], seeds=2, bootstraps=2, seed=3)
    logistic, forest = np.split(np.stack([model.probability(frame) for model in models]), 2)
    deployed = as_classifier(fit_classifier("logistic", frame, target, schema=schema, seed=0)).probability(frame)
    np.testing.assert_allclose(logistic[:2], [deployed, deployed])  # no random state to depend on
    assert not any(np.allclose(logistic[i], logistic[j]) for i, j in [(0, 2), (0, 3), (2, 3)])
    assert not any(np.allclose(forest[i], forest[j]) for i in range(4) for j in range(i))
    again = retrained(frame, target, schema, families=["random_forest"], seeds=2, bootstraps=2, seed=3)
    np.testing.assert_array_equal([model.probability(frame) for model in again], forest)


def test_a_users_own_estimator_is_cloned_with_its_settings(table):
    frame, target = table
    numbers = frame[["income", "savings", "late", "age"]]
    words = np.where(target == 1, "yes", "no")
    own = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", alpha=0.1, random_state=0)).fit(numbers, words)
    options = {"families": [own, DecisionTreeClassifier(max_depth=3)], "seeds": 1, "bootstraps": 2}
    models = retrained(numbers, words, **options, target_class="yes")
    assert len(models) == 6 and own.classes_.tolist() == ["no", "yes"]
    opposite = retrained(numbers, words, **options, target_class="no")
    for model, other in zip(models, opposite, strict=True):
        assert ((model.probability(frame) > 0.5) == (target == 1)).mean() > 0.7
        assert ((other.probability(frame) > 0.5) == (target == 0)).mean() > 0.7


def test_robustness_of_generated_recourse(fitted, denied, table):
    answers = fitted.generate(denied[:10]).best()
    models = retrained(*table, fitted.schema, families=["logistic"], seeds=1, bootstraps=3)
    share = metrics.robustness(answers, models)
    assert set(np.unique(share)) <= {0, 0.25, 0.5, 0.75, 1} and share.mean() > 0.5


@pytest.mark.parametrize("z", [-1.0, 0.5, 2.0])
def test_share_valid_under_noise_is_the_normal_law(z):
    scale = 0.01  # of a range of 50
    answers = TRAIN.assign(income=20 + z * scale * 50)
    share = noise_validity(answers, Watching(), SCHEMA, scale=scale, draws=4000)
    np.testing.assert_allclose(share, norm.cdf(z), atol=0.03)
    assert noise_validity(answers, Watching(), SCHEMA, scale=0.0, draws=1).tolist() == [z > 0] * 4


def test_noise_ends_where_a_person_could_be():
    watching, answers = Watching(), TRAIN.assign(age=[20, 30, 40, 70])
    noise_validity(answers, watching, SCHEMA, scale=0.3, draws=200)
    seen = watching.seen
    assert seen.dtypes.equals(TRAIN.dtypes)
    assert (seen["age"].min(), seen["age"].max()) == (20, 70)
    assert (seen["income"].min(), seen["income"].max()) == (0, 50)
    assert (seen["visits"] % 1 == 0).all() and seen["visits"].nunique() > 4
    assert seen["income"].nunique() > 300
    for name in ("owner", "job"):
        assert seen[name].tolist() == TRAIN[name].tolist() * 200
    noise_validity(answers, watching, SCHEMA, scale=0.01, draws=200)
    assert watching.seen["visits"].tolist() == TRAIN["visits"].tolist() * 200


def test_with_the_factuals_only_changed_numbers_move():
    watching, answers = Watching(), TRAIN.assign(income=[20.1, 10.5, 25.0, 20.1])
    share = noise_validity(answers, watching, SCHEMA, factuals=TRAIN, scale=0.1, draws=300)
    assert 0.4 < share[0] < 0.7 and share[[1, 2]].tolist() == [0, 1]
    assert watching.seen["age"].tolist() == TRAIN["age"].tolist() * 300
    assert noise_validity(answers, Watching(), SCHEMA, scale=0.1, draws=300)[2] < 1


def test_no_answer_is_not_valid_under_noise():
    answers = TRAIN.assign(income=45.0).drop(index=1).reindex(TRAIN.index)
    watching = Watching()
    assert noise_validity(answers, watching, SCHEMA, draws=5).tolist() == [1, 0, 1, 1]
    assert watching.seen.dtypes.equals(TRAIN.dtypes)
    assert noise_validity(answers[1:2], watching, SCHEMA).tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["svm"]}, "unknown classifier 'svm'"),
        ({"families": "mlp"}, "families must be a list"),
        ({"families": [3]}, "families takes mlp"),
        ({"families": []}, "families must be a list"),
        ({"seeds": 0, "bootstraps": 0}, "nothing to retrain"),
        ({"bootstraps": 1.5}, "bootstraps must be a whole number"),
        ({"target": ["a", "b", "a", "b"]}, "must hold both 0 and 1"),
        ({"target_class": "yes"}, "never holds the favourable class 'yes'"),
        ({"target": [1, 0, 1]}, "each of the 4 rows"),
    ],
)
def test_wrong_options_of_retraining_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        retrained(TRAIN, **{"target": [0, 1, 0, 1], "schema": SCHEMA, **options})


def test_wrong_options_of_noise_are_refused():
    with pytest.raises(ValueError, match="scale must be a number"):
        noise_validity(TRAIN, Watching(), SCHEMA, scale=-1)
    with pytest.raises(ValueError, match="draws must be a whole number"):
        noise_validity(TRAIN, Watching(), SCHEMA, draws=0)
    with pytest.raises(ValueError, match="'job' is missing from the counterfactuals"):
        noise_validity(TRAIN.drop(columns="job"), Watching(), SCHEMA)
    with pytest.raises(ValueError, match="3 factuals but 4"):
        noise_validity(TRAIN, Watching(), SCHEMA, factuals=TRAIN[:3])
