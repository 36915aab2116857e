import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import MAKERS, quick, tables

from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

FRAME = pd.DataFrame(
    {
        "age": np.array([20, 30, 41, 60], dtype=np.int8),
        "income": np.array([0.0, 10.0, 25.5, 50.0], dtype=np.float32),
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
        "size": pd.Categorical(["s", "l", "s", "l"], categories=["s", "m", "l"], ordered=True),
    }
)
SCHEMA = Schema.infer(FRAME, kinds={"income": "continuous"})
TRANSFORM = TableTransform(SCHEMA).fit(FRAME)


def assert_round_trip(table, frame):
    back = table.transform.decode(table.transform.encode(frame))
    expected = frame.reset_index(drop=True)
    assert list(back.columns) == list(expected.columns)
    assert dict(back.dtypes) == dict(expected.dtypes)
    for feature in table.schema.features:
        mine, theirs = expected[feature.name], back[feature.name]
        if feature.is_token or feature.storage.kind in "iu":
            pd.testing.assert_series_equal(theirs, mine)
        else:
            span = feature.bounds[1] - feature.bounds[0]
            np.testing.assert_allclose(theirs.astype(float), mine.astype(float), rtol=1e-6, atol=1e-6 * span)
    for name in frame.columns:
        assert {type(v) for v in back[name]} == {type(v) for v in expected[name]}


@quick
@given(tables(), st.randoms(use_true_random=False))
def test_decode_inverts_encode_with_the_training_dtypes(table, random):
    assert_round_trip(table, table.frame)
    assert_round_trip(table, table.frame.sample(frac=1, random_state=random.randrange(1000)))


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("tokenize", ["none", "all"])
def test_every_kind_of_column_survives_the_saved_transform(name, tokenize):
    frame = pd.DataFrame({"x": MAKERS[name](np.random.default_rng(1), 40)})
    schema = Schema.infer(frame, tokenize=tokenize)
    fitted = TableTransform(schema).fit(frame)
    loaded = TableTransform.from_json(Schema.from_json(schema.to_json()), fitted.to_json())
    assert loaded.to_json() == fitted.to_json()
    assert loaded.dtypes == fitted.dtypes == {"x": frame["x"].dtype}
    rows = fitted.encode(frame)
    pd.testing.assert_frame_equal(loaded.decode(rows), fitted.decode(rows))
    for mine, theirs in zip(rows, loaded.encode(frame), strict=True):
        assert torch.equal(mine, theirs)


@quick
@given(tables())
def test_shapes_types_and_ranges_of_encoded_rows(table):
    rows = table.transform.encode(table.frame)
    assert rows.num.shape == (len(table.frame), len(table.schema.numbers))
    assert rows.cat.shape == (len(table.frame), len(table.schema.tokens))
    assert rows.num.dtype == torch.float32 and rows.cat.dtype == torch.int64
    assert ((rows.num >= 0) & (rows.num <= 1)).all()
    assert (rows.cat >= 0).all() and (rows.cat < torch.tensor([len(f.levels) for f in table.schema.tokens])).all()
    nobody = table.transform.encode(table.frame.iloc[:0])
    assert nobody.num.shape == (0, rows.num.shape[1]) and nobody.cat.shape == (0, rows.cat.shape[1])
    empty = table.transform.decode(nobody)
    assert len(empty) == 0 and dict(empty.dtypes) == dict(table.frame.dtypes)


@quick
@given(tables(makers=("int8", "steps"), tokenize="all"), st.lists(st.floats(-9, 9), min_size=1, max_size=20))
def test_a_number_that_training_lacks_is_the_nearest_level(table, values):
    for t, feature in enumerate(table.schema.tokens):
        whole = feature.storage.kind in "iu"
        probes = np.rint(values) if whole else np.asarray(values)
        frame = pd.concat([table.frame.iloc[:1]] * len(probes), ignore_index=True).assign(**{feature.name: probes})
        code = table.transform.encode(frame).cat[:, t].numpy()
        distance = np.abs(np.asarray(feature.levels, dtype=float) - probes[:, None])
        np.testing.assert_array_equal(distance[np.arange(len(probes)), code], distance.min(1))


def test_column_order_and_dtypes_are_restored():
    shuffled = FRAME[["job", "size", "age", "income", "owner"]].astype(
        {"age": float, "income": float, "owner": object, "job": object, "size": object}
    )
    pd.testing.assert_frame_equal(TRANSFORM.check(shuffled), FRAME)
    for mine, theirs in zip(TRANSFORM.encode(FRAME), TRANSFORM.encode(shuffled), strict=True):
        assert torch.equal(mine, theirs)


def test_check_keeps_the_index_and_leaves_its_input_alone():
    given_frame = FRAME.astype({"age": "int64"}).set_axis([7, 3, 9, 1])
    before = given_frame.copy()
    assert list(TRANSFORM.check(given_frame).index) == [7, 3, 9, 1]
    pd.testing.assert_frame_equal(given_frame, before)


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float[pyarrow]"])
def test_a_number_that_the_training_dtype_cannot_hold_is_refused(dtype):
    frame = pd.DataFrame({"a": np.arange(6.0)}).astype(dtype)
    transform = TableTransform(Schema.infer(frame, tokenize="none")).fit(frame)
    for method in (transform.check, transform.encode):
        with pytest.raises(ValueError, match="column 'a' holds infinite values"):
            method(pd.DataFrame({"a": [1.0, 1e39]}))


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"age": 1}, "expected a pandas DataFrame, got dict"),
        (FRAME.drop(columns="job"), "column 'job' is missing; the generator was fitted on the columns age, income"),
        (FRAME.assign(wage=1), "column 'wage' is not known; the generator was fitted on the columns age, income"),
        (FRAME[[*FRAME.columns, "age"]], "duplicate column names: 'age'"),
        (FRAME.assign(income=[1.0, np.nan, 1.0, 1.0]), "column 'income' has 1 missing values"),
        (FRAME.assign(income=[1.0, np.inf, 1.0, 1.0]), "column 'income' holds infinite values"),
        (FRAME.assign(age=["1", "2", "3", "4"]), r"column 'age' must hold numbers \(int8\), got dtype"),
        (FRAME.assign(income=[True, False, True, False]), "column 'income' must hold numbers .*, got dtype bool"),
        (FRAME.assign(age=[20.0, 30.5, 40.0, 60.0]), r"column 'age' must hold whole numbers \(int8\), got 30.5"),
        (FRAME.assign(age=[20, 30, 40, 128]), r"column 'age' must hold whole numbers \(int8\), got 128"),
        (FRAME.assign(job=["clerk", "nurse", "pilot", "clerk"]), "column 'job' holds the category 'pilot', which the"),
        (FRAME.assign(size=pd.Categorical(["m", "l", "s", "s"])), "column 'size' holds the category 'm', which the"),
        (FRAME.assign(owner=[1, 0, 1, 0]), "column 'owner' must hold bool values, got dtype int64"),
        (FRAME.assign(job=[["clerk"]] * 4), "column 'job' holds a value that is no category"),
    ],
)
def test_wrong_input_gets_one_sentence_that_names_the_column(frame, sentence):
    for method in (TRANSFORM.check, TRANSFORM.encode):
        with pytest.raises(ValueError, match=sentence) as caught:
            method(frame)
        assert "\n" not in str(caught.value)


def test_zero_and_one_are_not_booleans():
    frame = pd.DataFrame({"x": [0, 1, 1, 0]})
    fitted = TableTransform(Schema.infer(frame, kinds={"x": "categorical"})).fit(frame)
    with pytest.raises(ValueError, match="column 'x' must hold int64 values, got dtype bool"):
        fitted.check(frame.astype(bool))


def test_fit_refuses_rows_that_the_schema_does_not_describe():
    with pytest.raises(ValueError, match="column 'age' is missing"):
        TableTransform(SCHEMA).fit(FRAME.drop(columns="age"))
    with pytest.raises(ValueError, match="at least two rows"):
        TableTransform(SCHEMA).fit(FRAME.iloc[:1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"columns": 3}', '{"columns": ["age"], "categories": {}}'])
def test_what_is_not_this_schemas_transform_is_refused(text):
    with pytest.raises(ValueError, match=r"not a transform|other columns than the schema"):
        TableTransform.from_json(SCHEMA, text)


def test_rows_take_repeat_and_flatten_agree_with_indexing():
    rows = TRANSFORM.encode(FRAME)
    assert rows.batch_size == 4
    picked = rows.take(torch.tensor([2, 0]))
    assert torch.equal(picked.cat, rows.cat[[2, 0]]) and torch.equal(picked.num, rows.num[[2, 0]])
    thrice = rows.repeat(3)
    blocks = Rows(thrice.num.reshape(4, 3, -1), thrice.cat.reshape(4, 3, -1))
    assert (blocks.cat == rows.cat[:, None]).all() and (blocks.num == rows.num[:, None]).all()
    for mine, theirs in zip(blocks.flatten(), thrice, strict=True):
        assert torch.equal(mine, theirs)


def test_categories_in_another_order_are_put_back_in_that_of_the_training():
    frame = pd.DataFrame({"job": pd.Categorical(["a", "b", "c", "a"]), "x": [1.0, 2.0, 3.0, 4.0]})
    transform = TableTransform(Schema.infer(frame)).fit(frame)
    other = frame.assign(job=frame["job"].cat.reorder_categories(["c", "a", "b"]))
    assert other["job"].dtype == frame["job"].dtype  # to pandas
    checked = transform.check(other)
    assert checked["job"].cat.codes.tolist() == [0, 1, 2, 0]
    assert checked["job"].tolist() == frame["job"].tolist()
    assert other["job"].cat.codes.tolist() == [1, 2, 0, 1]


def test_large_whole_numbers_stay_as_they_are():
    big = 1_700_000_000_000_000_001
    frame = pd.DataFrame({"opened": np.arange(big, big + 700, 7)})
    transform = TableTransform(Schema.infer(frame, tokenize="none")).fit(frame)
    (feature,) = transform.schema.features
    assert transform.restore(feature, frame["opened"].to_numpy()).tolist() == frame["opened"].tolist()


def test_objects_that_are_all_text_stay_objects():
    frame = pd.DataFrame({"mixed": pd.Series(["a", 1, 2.5, "a"], dtype=object)})
    transform = TableTransform(Schema.infer(frame)).fit(frame)
    assert transform.decode(transform.encode(frame).take(torch.tensor([0, 3])))["mixed"].dtype == object
