import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import constraints, quick, tables

from recourse_gen.constraints import Constraints, Feasible, changed_cells
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

FRAME = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 10.5, 25.0, 50.0],
        "limit": [5.0, 20.0, 30.0, 60.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
    }
)
SCHEMA = Schema.infer(FRAME, kinds={"income": "continuous", "limit": "continuous"})
TRANSFORM = TableTransform(SCHEMA).fit(FRAME)
ROWS = TRANSFORM.encode(FRAME)
NOBODY = torch.zeros(0, dtype=torch.int64)


def compiled(rules, frame=FRAME, schema=SCHEMA, transform=TRANSFORM):
    return rules.compile(schema, frame, transform.encode(frame))


def alone(rules, name):
    """Only what `rules` say about one column by itself."""
    return Constraints(
        immutable=[name] if name in rules.immutable else [],
        **{
            option: {name: getattr(rules, option)[name]} if name in getattr(rules, option) else {}
            for option in ("monotone", "ranges", "allowed")
        },
    )


def moved(frame, name, values):
    """`frame` with one column's values replaced, in its own dtype."""
    return frame.assign(**{name: pd.Series(list(values), index=frame.index, dtype=object).astype(frame[name].dtype)})


@st.composite
def ruled(draw, **options):
    table = draw(tables(max_rows=12))
    return table, draw(constraints(table, **options))


@quick
@given(ruled(ordered=False, max_changes=False, together=False))
def test_masks_and_bounds_agree_with_violations_on_every_move_of_one_column(case):
    table, rules = case
    frame, rows = table.frame, table.transform.encode(table.frame)
    feasible = rules.compile(table.schema, frame, rows)
    for d, t, n in table.schema.places:
        feature = table.schema.features[d]
        rule, name = alone(rules, feature.name), feature.name
        np.testing.assert_array_equal(feasible.stay[:, d], ~rule.violations(frame, frame))
        if n is None:
            for code, level in enumerate(feature.levels):
                allowed = ~rule.violations(frame, moved(frame, name, [level] * len(frame)))
                np.testing.assert_array_equal(feasible.tokens[:, t, code], allowed)
            assert not feasible.tokens[:, t, len(feature.levels) :].any()
            continue
        low, high = feasible.raw_low[:, n], feasible.raw_high[:, n]
        some = low <= high
        for share in (0.0, 0.3, 1.0):
            inside = np.where(some, (low + share * (high - low)).clip(low, high), frame[name].to_numpy(float))
            inside = np.rint(inside) if feature.storage.kind in "iu" else inside
            assert not (rule.violations(frame, moved(frame, name, inside)) & some).any()
        for bound, away in ((low[some], -1), (high[some], 1)):
            edge, whole = bound.astype(feature.storage), feature.storage.kind in "iu"
            beyond = bound + away if whole else np.nextafter(edge, feature.storage.type(away * np.inf))
            outside = (beyond < feature.bounds[0]) | (beyond > feature.bounds[1])
            broken = rule.violations(frame[some], frame[some].assign(**{name: beyond}))
            assert (broken | outside).all(), "a bound is tighter than the rules and the training range"
        empty = frame[~some]
        for probe in (*feature.bounds, *frame[name]):
            value = np.rint(float(probe)) if feature.storage.kind in "iu" else float(probe)
            assert rule.violations(empty, moved(empty, name, [value] * len(empty))).all()


@quick
@given(ruled(ordered=False, max_changes=False))
def test_admits_is_what_violations_says_of_training_rows(case):
    table, rules = case
    frame, rows = table.frame, table.transform.encode(table.frame)
    admitted = rules.compile(table.schema, frame, rows).admits(table.schema, rows, rows).numpy()
    for b in range(len(frame)):
        person = frame.iloc[[b] * len(frame)]
        np.testing.assert_array_equal(admitted[b], ~rules.violations(person, frame))


@quick
@given(ruled(), st.data())
def test_taking_rows_is_compiling_fewer(case, data):
    table, rules = case
    keep = np.array(data.draw(st.lists(st.integers(0, len(table.frame) - 1), max_size=5)), dtype=np.int64)
    whole = compiled(rules, table.frame, table.schema, table.transform)
    fewer = compiled(rules, table.frame.iloc[keep], table.schema, table.transform)
    mask = np.isin(np.arange(len(table.frame)), keep)
    for taken, expected in ((whole.take(keep), fewer), (whole.take(mask), whole.take(np.flatnonzero(mask)))):
        for field in dataclasses.fields(Feasible):
            mine, theirs = getattr(taken, field.name), getattr(expected, field.name)
            if isinstance(mine, (torch.Tensor, np.ndarray)):
                np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
            else:
                assert mine == theirs
    there = whole.to("meta")
    assert there.tokens.device.type == there.low.device.type == there.stay.device.type == "meta"
    assert there.reasons == whole.reasons and there.tokens.shape == whole.tokens.shape


@quick
@given(ruled(max_changes=False))
def test_staying_put_breaks_nothing_exactly_where_every_column_may_stay(case):
    table, rules = case
    feasible = compiled(rules, table.frame, table.schema, table.transform)
    broken = rules.violations(table.frame, table.frame)
    possible = np.array([not reason for reason in feasible.reasons])
    narrow = dataclasses.replace(rules, ordered=())
    apart = compiled(narrow, table.frame, table.schema, table.transform).stay.all(1).numpy()
    np.testing.assert_array_equal(apart, ~narrow.violations(table.frame, table.frame))
    assert feasible.stay.all(1).numpy()[possible & ~broken].all()


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_ordered_columns_keep_exactly_the_values_that_some_completion_has(seed, columns):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {f"c{d}": rng.permutation(np.r_[rng.choice(9, 3, replace=False), 0, 9]) for d in range(columns)}
    )
    schema = Schema.infer(frame)
    names = rng.permutation(frame.columns).tolist()
    pairs = [pair for pair in itertools.combinations(names, 2) if rng.random() < 0.6]
    low = {name: (None, int(rng.integers(2, 10))) for name in names if rng.random() < 0.4}
    monotone = {name: rng.choice(["increase", "decrease"]) for name in names if rng.random() < 0.4}
    rules = Constraints(ordered=pairs, ranges=low, monotone=monotone)
    feasible = compiled(rules, frame, schema, TableTransform(schema).fit(frame))
    grid = pd.DataFrame(list(itertools.product(*(f.levels for f in schema.features))), columns=frame.columns)
    codes = np.array(list(itertools.product(*(range(len(f.levels)) for f in schema.features))))
    for b in range(len(frame)):
        fine = ~rules.violations(frame.iloc[[b] * len(grid)], grid)
        assert fine.any() == (feasible.reasons[b] == "")
        if fine.any():
            for d, feature in enumerate(schema.features):
                expected = np.isin(np.arange(len(feature.levels)), codes[fine, d])
                np.testing.assert_array_equal(feasible.tokens[b, d, : len(feature.levels)], expected)


def test_ordered_bounds_of_continuous_columns_narrow_each_other():
    feasible = compiled(Constraints(ordered=[("limit", "income")]))
    np.testing.assert_allclose(feasible.raw_high[:, 1], [50, 50, 50, 50])
    np.testing.assert_allclose(feasible.raw_low[:, 0], [5, 5, 5, 5])
    chain = compiled(Constraints(ordered=[("age", "income"), ("income", "limit")], ranges={"limit": (None, 35)}))
    np.testing.assert_allclose(chain.raw_high[:, 0], 35)
    np.testing.assert_array_equal(chain.tokens[:, 0, :4], [[True, True, False, False]] * 4)
    assert chain.raw_low[0, 0] == 20 and not chain.stay[0, 1]


def test_ordered_columns_are_narrowed_until_nothing_changes():
    frame = pd.DataFrame({"a": [1, 2], "m": [1, 3], "b": [0, 2]})
    schema = Schema.infer(frame)
    rules = Constraints(ordered=[("a", "m"), ("m", "b")])
    feasible = compiled(rules, frame, schema, TableTransform(schema).fit(frame))
    assert feasible.tokens[0].tolist() == [[True, False], [True, False], [False, True]], "only 1 ≤ 1 ≤ 2 is left"


def test_whole_and_single_precision_columns_get_bounds_that_they_can_hold():
    frame = pd.DataFrame({"n": np.arange(300), "x": np.linspace(0, 1, 300, dtype=np.float32)})
    schema = Schema.infer(frame)
    rules = Constraints(ranges={"n": (2.5, 99.9), "x": (0.7, 0.8)})
    feasible = compiled(rules, frame[:1], schema, TableTransform(schema).fit(frame))
    assert (feasible.raw_low[0, 0], feasible.raw_high[0, 0]) == (3, 99)
    low, high = np.float32(feasible.raw_low[0, 1]), np.float32(feasible.raw_high[0, 1])
    assert float(np.nextafter(low, np.float32(0))) < 0.7 <= float(low)
    assert float(high) <= 0.8 < float(np.nextafter(high, np.float32(1)))


def test_a_number_that_training_lacks_stands_on_its_own_token():
    person = FRAME.iloc[[1]].assign(age=33)
    grown, same, shrunk = (
        compiled(Constraints(**rule), person)
        for rule in ({"monotone": {"age": "increase"}}, {"immutable": ["age"]}, {"ranges": {"age": (None, 32)}})
    )
    assert grown.tokens[0, 0, :4].tolist() == [False, True, True, True] and grown.stay[0, 0]
    assert same.tokens[0, 0, :4].tolist() == [False, True, False, False] and same.stay[0, 0]
    assert shrunk.tokens[0, 0, :4].tolist() == [True, False, False, False] and not shrunk.stay[0, 0]


def test_a_factual_beyond_the_training_range_may_stay_there():
    person = FRAME.iloc[[1]].assign(income=80.0)
    feasible = compiled(Constraints(), person)
    assert (feasible.raw_low[0, 0], feasible.raw_high[0, 0]) == (0, 80) and feasible.stay.all()
    assert compiled(Constraints(immutable=["income"]), person).reasons == [""]


def test_allowed_lists_and_transitions():
    allow = compiled(Constraints(allowed={"job": ["nurse"], "age": [40, 60]}))
    assert allow.tokens[:, 2, :3].tolist() == [[False, True, False]] * 4
    assert allow.stay[:, 4].tolist() == [False, True, False, False]
    assert allow.stay[:, 0].tolist() == [False, False, True, True]
    steps = compiled(Constraints(allowed={"job": {"clerk": ["nurse", "clerk"], "nurse": ["smith"]}}))
    expected = [[True, True, False], [False, False, True], [False, False, True], [True, True, False]]
    assert steps.tokens[:, 2, :3].tolist() == expected, "smith is not in the mapping and must stay"
    assert steps.stay[:, 4].tolist() == [True, False, True, True]


def test_mixed_categories_are_compared_by_value_not_by_spelling():
    frame = pd.DataFrame({"x": pd.Series([1, "1", "a", 1], dtype=object)})
    schema = Schema.infer(frame)
    feasible = compiled(Constraints(allowed={"x": [1, "a"]}), frame, schema, TableTransform(schema).fit(frame))
    assert feasible.stay[:, 0].tolist() == [True, False, True, True]


def test_reasons_name_what_leaves_nothing():
    reasons = compiled(Constraints(immutable=["income"], ranges={"income": (10, 30)})).reasons
    assert reasons == ["no admissible value for 'income'", "", "", "no admissible value for 'income'"]
    reasons = compiled(Constraints(allowed={"job": ["nurse"]}, ranges={"age": (30, None)}, max_changes=1)).reasons
    assert reasons == ["2 columns must change, more than max_changes=1", "", "", ""]
    assert compiled(Constraints(allowed={"job": []})).reasons == ["no admissible value for 'job'"] * 4


def test_at_most_max_changes_columns_change():
    rules, after = Constraints(max_changes=2), FRAME.copy()
    for count, name in enumerate(FRAME.columns, 1):
        after[name] = FRAME[name].iloc[[3, 2, 1, 0]].to_numpy() if name != "owner" else ~FRAME[name]
        assert changed_cells(FRAME, after).sum(1)[0] <= count
        np.testing.assert_array_equal(rules.violations(FRAME, after), changed_cells(FRAME, after).sum(1) > 2)
    assert rules.violations(FRAME, after).any()


def test_changed_cells_are_exact_and_ignore_the_dtype():
    after = FRAME.astype({"age": float, "owner": object}).assign(income=np.nextafter(FRAME["income"], 99))
    assert changed_cells(FRAME, after).tolist() == [[False, True, False, False, False]] * 4


@quick
@given(ruled())
def test_rules_survive_yaml(case):
    table, rules = case
    again = Constraints(**yaml.safe_load(yaml.safe_dump(rules.to_dict(), allow_unicode=True)))
    assert again.to_dict() == rules.to_dict()
    again.check(table.schema)
    mixed = table.frame.iloc[::-1].set_axis(table.frame.index)
    np.testing.assert_array_equal(again.violations(table.frame, mixed), rules.violations(table.frame, mixed))


def test_nobody_has_nothing_to_change():
    feasible = compiled(Constraints(immutable=["age"], ordered=[("income", "limit")], max_changes=1), FRAME.iloc[:0])
    assert feasible.reasons == [] and feasible.tokens.shape[0] == feasible.low.shape[0] == 0
    assert feasible.admits(SCHEMA, ROWS.take(NOBODY), ROWS).shape == (0, 4)
    assert compiled(Constraints()).admits(SCHEMA, ROWS, ROWS.take(NOBODY)).shape == (4, 0)


def test_a_mapping_may_start_from_a_number_that_training_lacks():
    rules = Constraints(allowed={"age": {33: [40]}})
    feasible = compiled(rules, FRAME.iloc[[1]].assign(age=33))
    assert feasible.tokens[0, 0, :4].tolist() == [False, False, True, False]


LARGE = 2**53 + 1  # as a float64, it is 2**53


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "int64[pyarrow]"])
def test_whole_numbers_that_float64_does_not_tell_apart_are_told_apart(dtype):
    frame = pd.DataFrame({"a": [LARGE, LARGE, LARGE], "b": [LARGE, LARGE - 1, LARGE]}, dtype=dtype)
    after = pd.DataFrame({"a": [LARGE - 1, LARGE, LARGE + 1], "b": [LARGE, LARGE, LARGE - 1]}, dtype=dtype)
    assert changed_cells(frame, after).tolist() == [[True, False], [False, True], [True, True]]
    for rules, broken in (
        (Constraints(immutable=["b"]), [False, True, True]),
        (Constraints(monotone={"a": "increase"}), [True, False, False]),
        (Constraints(monotone={"b": "decrease"}), [False, True, False]),
        (Constraints(ranges={"a": (LARGE, LARGE + 1)}), [True, False, False]),
        (Constraints(ranges={"a": (None, LARGE)}), [False, False, True]),
        (Constraints(ordered=[("a", "b")]), [False, False, True]),
        (Constraints(together=[("a", "b")]), [True, True, False]),
    ):
        assert rules.violations(frame, after).tolist() == broken


def test_levels_that_float64_does_not_tell_apart_are_told_apart():
    frame = pd.DataFrame({"a": [0, LARGE - 1, LARGE, LARGE + 1]})
    schema = Schema.infer(frame)
    own, rows = frame.iloc[3:], TableTransform(schema).fit(frame).encode(frame.iloc[3:])
    least = Constraints(ranges={"a": (LARGE, None)}).compile(schema, own, rows)
    assert least.tokens[0, 0].tolist() == [False, False, True, True]
