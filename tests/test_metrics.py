import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recourse_gen import metrics
from recourse_gen.constraints import Constraints
from recourse_gen.cost import RecourseCost
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

TRAIN = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 10.0, 25.0, 50.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
    }
)
SCHEMA = Schema.infer(TRAIN)


class ByIncome:
    """Favourable above an income of `limit`."""

    def __init__(self, limit=20.0):
        self.limit = limit

    def probability(self, frame):
        assert not frame.isna().any(axis=None), "a classifier must never see a missing answer"
        return (frame["income"].to_numpy(dtype=float) > self.limit) * 0.8 + 0.1


def without(frame, *rows):
    """`frame` with no answer in these rows."""
    return frame.drop(index=frame.index[list(rows)]).reindex(frame.index)


def test_cost_is_scaled_l1_plus_mismatches():
    after = pd.DataFrame(
        {
            "age": [20, 40, 40, 50],
            "income": [0.0, 35.0, 25.0, 50.0],
            "owner": [True, True, True, False],
            "job": ["clerk", "nurse", "nurse", "clerk"],
        }
    )
    np.testing.assert_allclose(metrics.cost(TRAIN, after, SCHEMA), [0.0, 10 / 40 + 25 / 50 + 1, 1.0, 10 / 40])
    np.testing.assert_array_equal(metrics.sparsity(TRAIN, after), [0, 3, 1, 1])


def test_cost_ignores_weights_and_counts_values_that_training_never_held():
    weighted = Schema.infer(TRAIN, weights={"age": 7.0})
    after = TRAIN.assign(age=[21, 30, 40, 80], job=["pilot", "nurse", "smith", "clerk"])
    np.testing.assert_allclose(metrics.cost(TRAIN, after, weighted), [1 / 40 + 1, 0, 0, 20 / 40])


def test_metric_cost_agrees_with_the_training_cost_and_with_its_own_coordinates():
    transform = TableTransform(SCHEMA).fit(TRAIN)
    before, after = TRAIN.iloc[[0, 1, 2, 3, 0]], TRAIN.iloc[[3, 2, 2, 1, 1]]
    expected = RecourseCost(SCHEMA)(transform.encode(before), transform.encode(after)).numpy()
    np.testing.assert_allclose(metrics.cost(before, after, SCHEMA), expected, atol=1e-6)
    difference = metrics.coordinates(before, SCHEMA) - metrics.coordinates(after, SCHEMA)
    np.testing.assert_allclose(np.abs(difference).sum(1), metrics.cost(before, after, SCHEMA), atol=1e-12)


def test_a_row_without_an_answer_is_a_failure():
    after = without(TRAIN.assign(income=40.0), 1)
    assert metrics.answered(after).tolist() == [True, False, True, True]
    assert metrics.validity(after, ByIncome()).tolist() == [True, False, True, True]
    assert metrics.robustness(after, [ByIncome(), ByIncome(45.0)]).tolist() == [0.5, 0, 0.5, 0.5]
    assert np.isnan(metrics.cost(TRAIN, after, SCHEMA)).tolist() == [False, True, False, False]
    assert np.isnan(metrics.sparsity(TRAIN, after)).tolist() == [False, True, False, False]
    assert metrics.sparsity(TRAIN, after)[[0, 2, 3]].tolist() == [1, 1, 1]
    assert not metrics.plausibility(after, TRAIN, SCHEMA)[1]
    nobody = without(TRAIN, 0, 1, 2, 3)
    assert not metrics.validity(nobody, ByIncome()).any()
    assert not metrics.plausibility(nobody, TRAIN, SCHEMA).any()


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "str", "category", "bool"])
def test_missing_rows_do_not_make_unchanged_cells_look_changed(dtype):
    frame = pd.DataFrame({"x": pd.Series([0, 1, 1, 0]).astype(dtype), "y": [1.0, 2.0, 3.0, 4.0]})
    after = without(frame, 2)
    assert not metrics.changed(frame, after).any()
    restored = metrics.restore_dtypes(after[metrics.answered(after)], frame)
    assert restored.dtypes.equals(frame.dtypes)


def test_restoring_dtypes_never_rounds_a_value():
    after = TRAIN.assign(age=[20.5, 30, 40, 60])
    assert metrics.restore_dtypes(after, TRAIN)["age"].tolist() == [20.5, 30, 40, 60]
    assert metrics.sparsity(TRAIN, after).tolist() == [1, 0, 0, 0]


def test_plausibility_tells_a_cluster_from_a_far_point():
    rng = np.random.default_rng(0)
    reference = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    schema = Schema.infer(reference)
    asked = pd.DataFrame({"a": [0.0, 30.0], "b": [0.0, -30.0]})
    assert metrics.plausibility(asked, reference, schema).tolist() == [True, False]
    with pytest.raises(ValueError, match="at least two reference rows"):
        metrics.plausibility(asked, reference[:1], schema)


def test_violations_name_the_rows_that_break_a_constraint():
    constraints = Constraints(immutable=["job"], monotone={"age": "increase"})
    after = without(TRAIN.assign(age=[19, 31, 40, 60], job=["clerk", "nurse", "clerk", "nurse"]), 3)
    assert metrics.violations(TRAIN, after, constraints).tolist() == [True, False, True, False]
    assert not metrics.violations(TRAIN, after, None).any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_diversity_is_the_mean_cost_over_pairs(draws):
    """The sorted closed form against the definition, for ragged groups."""
    people, picks = [person for person, _ in draws], [pick for _, pick in draws]
    answers = TRAIN.iloc[picks].set_axis(pd.MultiIndex.from_arrays([people, range(len(people))]))
    diversity = metrics.diversity(answers, SCHEMA)
    for person in set(people):
        rows = TRAIN.iloc[[pick for owner, pick in draws if owner == person]]
        pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
        if pairs:
            left, right = rows.iloc[[i for i, _ in pairs]], rows.iloc[[j for _, j in pairs]]
            assert diversity[person] == pytest.approx(metrics.cost(left, right, SCHEMA).mean(), abs=1e-12)
        else:
            assert np.isnan(diversity[person])


def test_score_is_the_papers_formula():
    assert metrics.score(1.0, 0.98, 0.69, 13) == pytest.approx(1.98 - 0.69 / 13)


def test_frames_that_do_not_correspond_are_refused():
    with pytest.raises(ValueError, match="4 factuals but 3"):
        metrics.cost(TRAIN, TRAIN[:3], SCHEMA)
    with pytest.raises(ValueError, match="lack column 'job'"):
        metrics.cost(TRAIN, TRAIN.drop(columns="job"), SCHEMA)
    with pytest.raises(ValueError, match="at least one classifier"):
        metrics.robustness(TRAIN, [])


def test_classifiers_may_be_models_as_they_come():
    def by_income(frame):
        return ByIncome().probability(frame)

    after = without(TRAIN.assign(income=40.0), 1)
    assert metrics.validity(after, by_income).tolist() == [True, False, True, True]
    assert metrics.robustness(after, [by_income, ByIncome(45.0)]).tolist() == [0.5, 0, 0.5, 0.5]


def test_classifiers_whose_classes_have_names() -> None:
    class Named(ByIncome):
        classes_ = ("yes", "no")

        def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
            yes = self.probability(frame)
            return np.stack([yes, 1 - yes], 1)

    after = pd.DataFrame({"income": [70.0, 20.0]})
    assert metrics.validity(after, Named(), target_class="yes").tolist() == [True, False]
    assert metrics.robustness(after, [Named(), Named()], target_class="no").tolist() == [0, 1]


def test_constraints_of_violations_may_be_those_of_each_person():
    free, strict = Constraints(), Constraints(immutable=["age"])
    before, after = TRAIN.iloc[[0, 1, 1]], TRAIN.assign(age=25).iloc[[0, 1, 1]]
    for rules in ({0: free, 1: strict}, pd.Series([free, strict])):
        assert metrics.violations(before, after, rules).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="1 has none"):
        metrics.violations(before, after, {0: free})
    with pytest.raises(ValueError, match="for 1, constraints must be a Constraints object, got str"):
        metrics.violations(before, after, {0: free, 1: "age"})


@pytest.mark.parametrize("name", ["age", "owner"])
def test_text_of_what_the_factuals_hold_is_refused(name):
    after = TRAIN.assign(income=40.0).astype({name: "str"})
    for measure in (metrics.changed, metrics.sparsity, lambda *pair: metrics.violations(*pair, None)):
        for pair in ((TRAIN, after), (after, TRAIN)):
            with pytest.raises(
                ValueError, match=f"column '{name}' of the counterfactuals holds .*; give both the same"
            ):
                measure(*pair)
    with pytest.raises(ValueError, match=f"column '{name}' of the counterfactuals holds"):
        metrics.cost(TRAIN, after.astype({name: object}), SCHEMA)
    assert metrics.changed(TRAIN, TRAIN.assign(job=["pilot", 1, None, "clerk"])).sum() == 2


def test_columns_of_the_schema_must_be_there():
    rest = TRAIN.drop(columns="age")
    for measure in (metrics.cost, metrics.misfits):
        with pytest.raises(ValueError, match="column 'age' is missing from the factuals"):
            measure(rest, rest, SCHEMA)
