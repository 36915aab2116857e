"""`metrics.evaluate` on frames as different methods hand them over."""

import numpy as np
import pandas as pd
import pytest

from recourse_gen import metrics
from recourse_gen.constraints import Constraints
from recourse_gen.schema import Schema

PEOPLE = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 10.0, 15.0, 5.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
        "region": pd.Categorical(["north", "south", "north", "south"]),
        "grade": ["1", "2", "1", "2"],
    },
    index=[7, 3, 9, 5],
)
REFERENCE = pd.concat([PEOPLE.assign(income=[20.0, 30.0, 40.0, 50.0])] * 5, ignore_index=True)
SCHEMA = Schema.infer(pd.concat([PEOPLE, REFERENCE]))


def huge(frame):
    return pd.Series([10**400] * 4, frame.index, dtype=object)


def by_income(frame):
    assert not frame.isna().any(axis=None), "a classifier must never see a missing answer"
    assert list(frame.columns[: len(PEOPLE.columns)]) == list(PEOPLE.columns)
    return 0.1 + 0.8 * (frame["income"] > 20)


def evaluate(answers, people=PEOPLE, **options):
    return metrics.evaluate(people, answers, classifier=by_income, **{"schema": SCHEMA, **options})


def test_a_row_per_factual_and_failures_count_as_failures():
    answers = PEOPLE.assign(income=[25.0, 15.0, 40.0, 55.0], age=[20, 30, 50, 60])
    answers = answers.drop(index=5).reindex(PEOPLE.index)  # NaN rows, ints as floats, booleans as objects
    found = evaluate(answers, constraints=Constraints(immutable=["age"]))
    assert found.rows.index.tolist() == [(7, 0), (3, 0), (9, 0), (5, 0)]
    assert found.rows["found"].tolist() == [True, True, True, False]
    assert found.rows["validity"].tolist() == [True, False, True, False]
    assert found.rows["violation"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.rows["cost"], [25 / 50, 5 / 50, 25 / 50 + 10 / 40, np.nan])
    np.testing.assert_array_equal(found.rows["n_changed"], [1, 1, 2, np.nan])
    assert found.summary["found"] == 0.75 and found.summary["validity"] == 0.5
    assert found.summary["cost"] == pytest.approx((0.5 + 0.1 + 0.75) / 3)
    assert (found.summary["n_factuals"], found.summary["n_answers"]) == (4, 3)
    assert found.answers.dtypes.equals(PEOPLE.dtypes)
    assert found == found and found != evaluate(answers)  # the same object, as of frames themselves


def test_everybody_counts_once_however_many_answers_they_have():
    rows = [(9, 0, 40.0), (9, 1, 10.0), (9, 2, 45.0), (3, 1, 60.0)]
    index = pd.MultiIndex.from_tuples([(person, rank) for person, rank, _ in rows], names=["factual", "rank"])
    answers = PEOPLE.loc[[9, 9, 9, 3]].set_axis(index).assign(income=[income for *_, income in rows])
    found = evaluate(answers)
    assert found.rows.index.tolist() == [(7, 0), (3, 1), (9, 0), (9, 1), (9, 2), (5, 0)]
    assert found.summary["found"] == 0.5
    assert found.summary["validity"] == pytest.approx((2 / 3 + 1) / 4)
    assert found.summary["cost"] == pytest.approx(((25 + 5 + 30) / 50 / 3 + 50 / 50) / 2)
    assert found.summary["diversity"] == pytest.approx((30 + 5 + 35) / 50 / 3)
    pd.testing.assert_frame_equal(found.answers, answers.loc[[(3, 1), (9, 0), (9, 1), (9, 2)]])


def test_result_of_generate_is_read_either_way(fitted, denied, classifier, table):
    found = fitted.generate(denied[:6], n=3, candidates=8, sparsify=False)
    options = {"classifier": classifier, "reference": table[0], "schema": fitted.schema}
    several = metrics.evaluate(denied[:6], found.to_frame(), **options)
    ok = found.report[found.report["status"] == "ok"]
    measured = several.rows[several.rows["found"]]
    assert measured.index.equals(ok.index)
    for name in ("cost", "probability", "n_changed"):
        np.testing.assert_allclose(measured[name], ok[name], atol=1e-5)
    assert measured["validity"].all() and not measured["misfit"].any()
    one = metrics.evaluate(denied[:6], found.best(), **options)
    pd.testing.assert_frame_equal(one.rows, several.rows[several.rows.index.get_level_values("rank") == 0])


def test_foreign_frames_are_read_in_the_values_of_the_factuals():
    """As DiCE gives them: the outcome beside the features, text for numbers, numbers for text, another order."""
    theirs = PEOPLE.assign(income=30.0).astype({"age": str, "owner": str, "region": str})
    theirs = theirs.assign(grade=[1, "2", 1.0, 2], approved=np.nan)[["approved", *reversed(PEOPLE.columns)]]
    found = evaluate(theirs)
    pd.testing.assert_frame_equal(found.answers.droplevel(1), PEOPLE.assign(income=30.0), check_names=False)
    assert found.rows["n_changed"].tolist() == [1, 1, 1, 1]
    for position, person in enumerate(PEOPLE.index):
        alone = evaluate(theirs.iloc[[position, position]].reset_index(drop=True), PEOPLE.loc[[person]])
        assert alone.rows.index.tolist() == [(person, 0), (person, 1)]
        assert alone.rows["n_changed"].tolist() == [1, 1]
    together = evaluate(pd.concat([theirs.iloc[[i, i]].reset_index(drop=True) for i in (0, 2)], keys=[7, 9]))
    assert together.summary["found"] == 0.5
    for theirs_too in ([0, 0], [262, 114]):  # what DiCE's methods leave in the index
        frames = [theirs.iloc[[i, i]].set_axis(theirs_too) for i in (0, 2)]
        pd.testing.assert_frame_equal(evaluate(pd.concat(frames, keys=[7, 9])).rows, together.rows)


def test_values_that_do_not_fit_are_kept_and_told():
    theirs = PEOPLE.assign(age=[20.5, 30, 40, 60], job=["clerk", "pilot", "smith", "clerk"], grade=["1", "2", "1", "3"])
    found = evaluate(theirs)
    assert found.rows["misfit"].tolist() == [True, True, False, True]
    assert found.rows["n_changed"].tolist() == [1, 1, 0, 1]
    assert found.answers["age"].tolist() == [20.5, 30, 40, 60]


def test_reference_gives_plausibility_the_unit_of_cost_and_the_score():
    answers = PEOPLE.assign(income=[20.0, 30.0, 40.0, 5_000.0])
    found = evaluate(answers, reference=REFERENCE.assign(granted="yes"), schema=None)
    assert found.rows["plausibility"].tolist() == [True, True, True, False]
    np.testing.assert_allclose(found.rows["cost"], [20 / 50, 20 / 50, 25 / 50, 4995 / 50])
    s = found.summary
    assert s["score"] == pytest.approx(metrics.score(s["validity"], s["plausibility"], s["cost"], 6))
    without = evaluate(answers)
    assert without.rows["plausibility"].isna().all() and np.isnan(without.summary["score"])


def test_no_answer_at_all():
    found = evaluate(PEOPLE[:0], reference=REFERENCE)
    assert not found.rows[["found", "validity", "plausibility", "violation", "misfit"]].any(axis=None)
    assert found.summary[["found", "validity", "plausibility", "score"]].tolist() == [0, 0, 0, 0]
    assert found.summary[["cost", "n_changed", "probability", "diversity"]].isna().all()


def test_classifier_may_name_its_favourable_class():
    class Model:
        classes_ = np.array(["no", "yes"])

        def predict_proba(self, frame):
            yes = by_income(frame)
            return np.stack([1 - yes, yes], 1)

    found = metrics.evaluate(PEOPLE, PEOPLE.assign(income=30.0), classifier=Model(), schema=SCHEMA, target_class="no")
    assert found.summary["validity"] == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a.drop(columns="job"), {}, "'job' is missing from the counterfactuals"),
        (lambda a: a.assign(age="old"), {}, "'age' of the counterfactuals holds 'old' among its numbers"),
        (lambda a: a.assign(income=np.inf), {}, "'income' of the counterfactuals holds infinite"),
        (lambda a: a.reset_index(drop=True), {}, "answer 0, which is not a factual"),
        (lambda a: pd.concat([a, a]), {}, "repeats 7; with several answers"),
        (lambda a: pd.concat([a, a], keys=[7, 3]).droplevel(1), {}, "repeats 7; with several answers"),
        (lambda a: a.set_axis(pd.MultiIndex.from_product([[7, 3], [0], [0, 1]])), {}, "got 3 levels"),
        (lambda a: pd.concat([a, a[["job"]]], axis=1), {}, "'job' is repeated in the counterfactuals"),
        (lambda a: None, {}, "counterfactuals must be a pandas DataFrame, got NoneType"),
        (lambda a: a, {"schema": None}, "needs schema= or reference="),
        (
            lambda a: a,
            {"schema": None, "reference": REFERENCE.assign(age=40), "people": PEOPLE.assign(age=40)},
            "column 'age' is constant in the factuals and the reference",
        ),
        (lambda a: a, {"schema": {"age": 1}}, "schema must be a Schema, got dict"),
        (lambda a: a.assign(age=40 + 1j), {}, "'age' of the counterfactuals holds .40.1j. among its numbers"),
        (lambda a: a.assign(age=huge), {}, "'age' of the counterfactuals holds a number that is too large"),
        (lambda a: a.assign(job=[{}] * 4), {}, "'job' of the counterfactuals holds a value that is no category"),
        (lambda a: a, {"reference": REFERENCE.drop(columns="age")}, "'age' is missing from the reference"),
        (lambda a: a, {"reference": REFERENCE[:1]}, "at least two reference rows"),
        (lambda a: a, {"constraints": Constraints(immutable=["height"])}, "immutable names column 'height'"),
        (lambda a: a, {"people": PEOPLE[:0]}, "no factuals"),
        (lambda a: a, {"people": PEOPLE.set_axis([1, 1, 2, 3])}, "index of the factuals"),
        (lambda a: a, {"people": PEOPLE.assign(age=[20, None, 40, 60])}, "'age' has 1 missing"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(change(PEOPLE), **options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "Float32"])
def test_short_floats_are_the_same_after_a_round_trip_through_text(dtype, tmp_path):
    rng = np.random.default_rng(0)
    people = PEOPLE.assign(income=pd.Series(rng.uniform(0, 20, 4), PEOPLE.index).astype(dtype))
    people.assign(age=[21, 30, 40, 60]).to_csv(tmp_path / "answers.csv")
    answers = pd.read_csv(tmp_path / "answers.csv", index_col=0, dtype={"grade": str})
    assert answers["income"].dtype == np.float64
    for read in (answers, answers.drop(index=5).reindex(PEOPLE.index)):
        found = evaluate(read, people, constraints=Constraints(immutable=["income"]))
        assert found.rows["n_changed"].dropna().tolist() == [1, 0, 0, 0][: len(found.answers)]
        assert not found.rows["violation"].any()
        assert found.answers["income"].dtype == dtype
        np.testing.assert_array_equal(found.rows["cost"].dropna(), [1 / 40, 0, 0, 0][: len(found.answers)])


def test_a_float_that_is_too_large_for_the_factuals_stays_as_it_is():
    people = PEOPLE.assign(income=PEOPLE["income"].astype(np.float16))
    found = evaluate(PEOPLE.assign(income=[1e9, 0.25, 30.0, 2.0]), people)
    assert found.answers["income"].tolist() == [1e9, 0.25, 30.0, 2.0]


def test_large_whole_numbers_in_text_are_read_exactly():
    people = PEOPLE.assign(age=[2**53 + 1, 2**53 + 3, 5, 6])
    schema = Schema.infer(pd.concat([people, REFERENCE]))
    found = evaluate(people.astype({"age": str}), people, schema=schema)
    assert found.rows["n_changed"].tolist() == [0, 0, 0, 0]
    assert found.answers["age"].tolist() == people["age"].tolist()


@pytest.mark.parametrize("option", ["people", "reference"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"age": "40"}, r"must hold numbers \(int64\), got '40'"),
        ({"age": pd.Categorical([20] * 4)}, r"must hold numbers \(int64\), got dtype category"),
        ({"age": 40 + 1j}, r"must hold numbers \(int64\), got \(40\+1j\)"),
        ({"age": huge}, "holds a number that is too large"),
        ({"age": pd.Series([20, np.inf, 1, 1], dtype=object).to_numpy()}, "holds infinite"),
        ({"grade": 1}, "holds 1, a category that the schema lacks; known are '1', '2'"),
        ({"owner": "True"}, "holds 'True', a category that the schema lacks; known are False, True"),
        ({"job": [["clerk"]] * 4}, "holds a value that is no category: unhashable type: 'list'"),
    ],
)
def test_people_and_reference_must_have_the_values_of_the_schema(option, values, message):
    name, frame = next(iter(values)), "factuals" if option == "people" else option
    with pytest.raises(ValueError, match=f"column '{name}' of the {frame} {message}"):
        evaluate(PEOPLE, **{option: PEOPLE.assign(**values)})


def test_numbers_that_people_and_reference_keep_as_objects_or_floats_are_numbers():
    answers, expected = PEOPLE.assign(age=[20, 30, 50, 60]), evaluate(PEOPLE.assign(age=[20, 30, 50, 60]))
    for dtype in (object, "float64", "Int64"):
        for schema in (SCHEMA, None):
            options = {"people": PEOPLE.astype({"age": dtype}), "reference": REFERENCE, "schema": schema}
            pd.testing.assert_series_equal(evaluate(answers, **options).rows["cost"], expected.rows["cost"])


@pytest.mark.parametrize("name", ["age", "grade", "owner"])
def test_without_a_schema_a_column_must_be_of_one_kind(name):
    other = {"age": str, "grade": int, "owner": str}[name]
    with pytest.raises(ValueError, match=f"column '{name}' is .* in the factuals and .* in the reference"):
        evaluate(PEOPLE, PEOPLE.astype({name: other}), reference=REFERENCE, schema=None)
    with pytest.raises(ValueError, match=f"column '{name}' is .* in the factuals and .* in the reference"):
        evaluate(PEOPLE, reference=REFERENCE.astype({name: other}), schema=None)


@pytest.mark.parametrize("dtype", [object, "str", "category", "string"])
def test_text_is_read_alike_in_whatever_dtype_it_comes(dtype):
    people = PEOPLE.assign(code=["12", "34", "007", "7.0"])
    theirs = pd.Series(["1_2", "7", "1.2e1", "34.0"], PEOPLE.index).astype(dtype)
    found = evaluate(people.assign(code=theirs), people, schema=Schema.infer(people))
    assert found.answers["code"].tolist() == ["1_2", "7", "1.2e1", "34"]  # 7 may be 007 or 7.0
    assert found.rows["misfit"].tolist() == [True, True, True, False]


def test_long_numbers_in_text_are_not_taken_for_their_neighbours():
    people = PEOPLE.assign(code=[str(10**20), str(10**20 + 1), "-0.50", "+3"])
    theirs = [f"{10**20 + 1}.0", f"0{10**20}", "-0.5", 3]
    found = evaluate(people.assign(code=theirs), people, schema=Schema.infer(people))
    assert found.answers["code"].tolist() == [str(10**20 + 1), str(10**20), "-0.50", "+3"]
