import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from strategies import MAKERS, NUMBERS, STEPS, TOKENS, quick, tables

from recourse_gen.schema import Feature, Schema

FRAME = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 10.0, 25.5, 50.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
    }
)


def column_of(values, dtype=None):
    return pd.DataFrame({"x": pd.Series(values, dtype=dtype), "y": np.arange(len(values))})


@pytest.mark.parametrize("name", list(TOKENS))
def test_text_booleans_and_categories_are_categorical_whatever_the_tokenisation(name):
    column = MAKERS[name](np.random.default_rng(0), 50)
    for tokenize in ("auto", "none", "all"):
        feature = Schema.infer(pd.DataFrame({"x": column}), tokenize=tokenize)["x"]
        assert (feature.kind, feature.bounds, feature.quantiles) == ("categorical", None, ())
        assert set(feature.levels) == set(column.tolist())


@pytest.mark.parametrize("name", [*STEPS, *NUMBERS])
def test_numbers_are_ordinal_up_to_max_levels_and_continuous_beyond(name):
    column = MAKERS[name](np.random.default_rng(0), 60)
    distinct = column.nunique()

    def kind(**options):
        return Schema.infer(pd.DataFrame({"x": column}), **options)["x"].kind

    assert kind(max_levels=distinct) == kind(tokenize="all", max_levels=2) == "ordinal"
    assert kind(max_levels=distinct - 1) == kind(tokenize="none") == "continuous"


def test_a_number_of_two_values_is_a_token_even_without_tokenisation():
    assert Schema.infer(FRAME.assign(age=[0, 1, 1, 0]), tokenize="none")["age"].kind == "ordinal"


@quick
@given(tables())
def test_levels_bounds_and_quantiles_describe_the_column(table):
    for feature in table.schema.features:
        column = table.frame[feature.name]
        if feature.kind == "categorical":
            assert sorted(map(repr, feature.levels)) == sorted(map(repr, column.unique().tolist()))
            continue
        values = column.to_numpy(dtype=np.float64)
        assert feature.bounds == (values.min(), values.max())
        assert feature.scaled(values).min() == 0 and feature.scaled(values).max() == 1
        if feature.kind == "ordinal":
            assert list(feature.levels) == sorted(set(values))
            np.testing.assert_array_equal(feature.level_values, feature.scaled(feature.levels))
        else:
            assert feature.quantiles[0] == values.min() and feature.quantiles[-1] == values.max()
            assert list(feature.quantiles) == sorted(feature.quantiles)
            assert feature.quantiles[32] == np.median(values)


@quick
@given(tables(weighted=True))
def test_json_round_trip_is_exact(table):
    again = Schema.from_json(table.schema.to_json())
    assert again == table.schema
    for mine, theirs in zip(table.schema.features, again.features, strict=True):
        assert [type(level) for level in mine.levels] == [type(level) for level in theirs.levels]
    assert again.to_json() == table.schema.to_json()


@quick
@given(tables())
def test_places_number_the_columns_of_both_parts_of_a_row(table):
    schema = table.schema
    assert [d for d, _, _ in schema.places] == list(range(len(schema.features)))
    for d, t, n in schema.places:
        assert (t is None) != (n is None)
        assert schema.features[d] is (schema.tokens[t] if n is None else schema.numbers[n])


def test_overrides_by_name():
    schema = Schema.infer(
        FRAME, kinds={"age": "categorical", "income": "continuous"}, weights={"job": 2}, bounds={"income": (-10, 90)}
    )
    assert [feature.kind for feature in schema.features] == ["categorical", "continuous", "categorical", "categorical"]
    assert schema["age"].levels == (20, 30, 40, 60)
    assert schema["income"].bounds == (-10.0, 90.0)
    assert schema["job"].weight == 2.0 and schema["age"].weight == 1.0
    np.testing.assert_allclose(schema["income"].scaled([-10, 40, 90]), [0, 0.5, 1])


def test_categories_keep_their_order_and_lose_those_that_no_row_has():
    column = pd.Categorical(["m", "s", "s"], categories=["s", "never", "m"], ordered=True)
    assert Schema.infer(pd.DataFrame({"x": column}))["x"].levels == ("s", "m")


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        ([1, 2], {}, "expected a pandas DataFrame, got list"),
        (FRAME.iloc[:1], {}, "needs at least two rows, got 1"),
        (FRAME.iloc[:0], {}, "needs at least two rows, got 0"),
        (FRAME[[]], {}, "needs at least one column"),
        (FRAME[["age", "job", "age"]], {}, "duplicate column names: 'age'"),
        (FRAME.rename(columns={"age": 7}), {}, "column names must be strings, got 7"),
        (FRAME.assign(job="clerk"), {}, "column 'job' is constant"),
        (FRAME.assign(age=3), {}, "column 'age' is constant"),
        (FRAME.assign(income=[1.0, np.nan, np.nan, 2.0]), {}, "column 'income' has 2 missing values"),
        (FRAME.assign(job=["clerk", None, "smith", "clerk"]), {}, "column 'job' has 1 missing values"),
        (FRAME.assign(income=[1.0, 2.0, 3.0, -np.inf]), {}, "column 'income' holds infinite values"),
        (FRAME.assign(age=pd.date_range("2020", periods=4)), {}, "column 'age' has dtype datetime64"),
        (FRAME.assign(age=np.arange(4) * 1j), {}, "column 'age' has dtype complex128"),
        (FRAME.assign(age=pd.arrays.SparseArray([0, 1, 0, 2])), {}, "column 'age' has dtype Sparse"),
        (FRAME.assign(job=[[1], [2], [1], [2]]), {}, r"column 'job' holds \[1\]; categories must be text"),
        (FRAME.assign(job=["a", b"b", "a", "b"]), {}, "column 'job' holds b'b'; categories must be text"),
        (FRAME.assign(job=pd.Categorical([1.0, np.inf, 1.0, 1.0])), {}, "column 'job' holds inf; categories must be"),
        (FRAME.assign(job=pd.cut(FRAME["age"], 2)), {}, "column 'job' holds Interval"),
        (FRAME, {"kinds": {"age": "token"}}, "kind must be one of categorical, ordinal, continuous, got 'token'"),
        (FRAME, {"kinds": {"wage": "ordinal"}}, "kinds names column 'wage', which the frame lacks"),
        (FRAME, {"weights": {"wage": 1}}, "weights names column 'wage', which the frame lacks"),
        (FRAME, {"bounds": {"wage": (0, 1)}}, "bounds names column 'wage', which the frame lacks"),
        (FRAME, {"bounds": {"job": (0, 1)}}, "bounds names column 'job', which is categorical"),
        (FRAME, {"bounds": {"age": (5, 5)}}, "column 'age': bounds must be two finite numbers low < high"),
        (FRAME, {"bounds": {"age": (5, np.inf)}}, "column 'age': bounds must be two finite numbers low < high"),
        (FRAME, {"weights": {"age": -1}}, "column 'age': the cost weight must be finite and not negative, got -1"),
        (FRAME, {"weights": {"age": np.nan}}, "column 'age': the cost weight must be finite"),
        *(
            (FRAME, {"weights": {"age": value}}, "column 'age': the cost weight must be a num")
            for value in ("2", None, [1])
        ),
        *(
            (FRAME, {"bounds": {"age": ends}}, "column 'age': bounds must be two")
            for ends in (3, (1,), "12", (None, 1))
        ),
        *(
            (FRAME, {option: ["age"]}, f"{option} must map columns to values")
            for option in ("kinds", "weights", "bounds")
        ),
        (
            FRAME.assign(income=[-1.7e308, 0, 1, 1.7e308]),
            {},
            r"column 'income' spans -1.7e\+308 to 1.7e\+308, .* divide",
        ),
        (FRAME.assign(age=[-1.7e308, 0, 1, 1.7e308]), {"tokenize": "all"}, "column 'age' spans"),
        (FRAME, {"bounds": {"age": (-1.7e308, 1.7e308)}}, "column 'age' spans"),
        (FRAME, {"kinds": {"job": "ordinal"}}, "column 'job' is not numeric .*, so its kind must be categorical"),
        (FRAME, {"kinds": {"owner": "continuous"}}, "column 'owner' is not numeric .bool."),
        (FRAME, {"max_levels": "many"}, "max_levels must be a whole number of at least 0, got 'many'"),
        (FRAME, {"tokenize": "some"}, "tokenize must be one of auto, none, all, got 'some'"),
    ],
)
def test_wrong_input_gets_one_sentence_that_names_the_column(frame, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Schema.infer(frame, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_column_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"column 'wage' is not in the schema; its columns are age, income, owner, job"
    ):
        Schema.infer(FRAME)["wage"]


def test_a_feature_refuses_what_cannot_be():
    age = Schema.infer(FRAME)["age"]
    for change, sentence in (
        ({"levels": ()}, "needs levels"),
        ({"levels": (30, 20)}, "sorted and distinct"),
        ({"levels": (20, 20)}, "sorted and distinct"),
        ({"bounds": None}, "bounds must be two finite numbers"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(age, **change)
    with pytest.raises(dataclasses.FrozenInstanceError):
        age.name = "years"
    with pytest.raises(ValueError, match="duplicate column names: 'age'"):
        Schema((age, age))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"features": 3}', '{"features": ["x"]}', '{"features": [{"name": "x"}]}']
)
def test_what_is_not_a_schema_is_refused(text):
    with pytest.raises(ValueError, match="not a schema"):
        Schema.from_json(text)


def test_a_schema_of_a_later_version_is_refused():
    state = json.loads(Schema.infer(FRAME).to_json())
    state["features"][0]["colour"] = "red"
    with pytest.raises(ValueError, match=r"not a schema: .*colour"):
        Schema.from_json(json.dumps(state))


def test_object_columns_of_numbers_stay_categories_of_those_numbers():
    feature = Schema.infer(column_of([2, 1, 2], dtype=object))["x"]
    assert feature == Feature("x", "categorical", "object", levels=(1, 2))


@pytest.mark.parametrize("dtype", [object, "str", "string[pyarrow]", "category"])
def test_a_column_of_identifiers_is_refused_unless_it_is_asked_for(dtype):
    frame = pd.DataFrame({"id": pd.Series([f"P{i:05}" for i in range(1001)], dtype=dtype), "x": range(1001)})
    with pytest.raises(ValueError, match="column 'id' has 1001 categories, more than 1000: drop it"):
        Schema.infer(frame)
    assert len(Schema.infer(frame.iloc[1:])["id"].levels) == 1000
    assert len(Schema.infer(frame, kinds={"id": "categorical"})["id"].levels) == 1001
