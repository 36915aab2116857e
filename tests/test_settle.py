"""`Feasible.settle` turns any rows into ones that obey, and leaves alone those that do."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import NUMBERS, STEPS, Table, constraints, quick, restored, tables

from recourse_gen.constraints import Constraints
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

SAMPLES = 6


def anything(table, people, seed):
    """Rows ``(B, SAMPLES, ·)`` that respect nothing but the schema; many cells are the factual's."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([len(feature.levels) for feature in table.schema.tokens])
    num = torch.rand(people.batch_size, SAMPLES, people.num.shape[1], generator=generator) * 1.4 - 0.2
    cat = (torch.rand(people.batch_size, SAMPLES, len(levels), generator=generator) * levels).long()
    keep_num, keep_cat = (torch.rand(part.shape, generator=generator) < 0.3 for part in (num, cat))
    return Rows(torch.where(keep_num, people.num[:, None], num), torch.where(keep_cat, people.cat[:, None], cat))


def settled(table, rules, seed):
    """(people's frame, rows, feasible sets, anything, the same settled), of those for whom something is feasible."""
    everybody = rules.compile(table.schema, table.frame, table.transform.encode(table.frame))
    possible = np.array([not reason for reason in everybody.reasons])
    people, feasible = table.frame[possible], everybody.take(possible)
    rows = table.transform.encode(people)
    drawn = anything(table, rows, seed)
    return people, rows, feasible, drawn, feasible.settle(table.schema, rows, drawn)


def equal(a, b):
    return torch.equal(a.num, b.num) and torch.equal(a.cat, b.cat)


@quick
@given(st.data(), st.integers(0, 2**32 - 1))
def test_settled_rows_obey_and_stay_settled(data, seed):
    table = data.draw(tables(max_rows=12))
    rules = data.draw(constraints(table, ordered=False))
    people, rows, feasible, _, after = settled(table, rules, seed)
    if len(people):
        before = people.iloc[np.arange(len(people)).repeat(SAMPLES)]
        assert not rules.violations(before, restored(table, people, feasible, after)).any()
    assert equal(feasible.settle(table.schema, rows, after), after)


@quick
@given(st.data(), st.integers(0, 2**32 - 1))
def test_ordered_tokens_are_exact(data, seed):
    table = data.draw(tables(STEPS, tokenize="all", min_columns=2, max_rows=12))
    rules = data.draw(constraints(table, max_changes=False, together=False))
    people, _, feasible, drawn, after = settled(table, rules, seed)
    if len(people):
        before = people.iloc[np.arange(len(people)).repeat(SAMPLES)]
        assert not rules.violations(before, restored(table, people, feasible, after)).any()
        fine = ~rules.violations(before, restored(table, people, feasible, drawn))
        assert equal(drawn.flatten().take(torch.from_numpy(fine)), after.flatten().take(torch.from_numpy(fine)))


@quick
@given(tables((*STEPS, *NUMBERS), max_rows=12), st.integers(0, 2**32 - 1))
def test_rules_that_say_nothing_change_nothing_inside_the_ranges(table, seed):
    _, rows, feasible, drawn, _ = settled(table, Constraints(), seed)
    inside = Rows(drawn.num.clamp(0, 1), drawn.cat)
    assert equal(feasible.settle(table.schema, rows, inside), inside)


@quick
@given(tables(NUMBERS, tokenize="none", max_rows=12, min_columns=3), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_max_changes_keeps_what_moves_furthest(table, most, seed):
    _, rows, _, drawn, after = settled(table, Constraints(max_changes=most), seed)
    wanted, kept = ((part - rows.num[:, None]).abs() for part in (drawn.num.clamp(0, 1), after.num))
    assert torch.equal((kept > 0).sum(2), (wanted > 0).sum(2).clamp(max=most))
    assert torch.equal(kept.sort(2).values[..., -most:], wanted.sort(2).values[..., -most:])


def test_columns_that_have_to_move_come_first():
    frame = pd.DataFrame({"a": [0, 1, 2, 9], "b": [0, 5, 2, 9], "c": [1.0, 2.0, 3.0, 4.0]})
    schema = Schema.infer(frame)
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rules = Constraints(ranges={"a": (1, None)}, max_changes=1)
    people, rows, feasible, _, _ = settled(table, rules, 0)
    drawn = Rows(rows.num[:, None], rows.cat.new_tensor([1, 2, 3]).expand(4, 1, 3))
    after = restored(table, people, feasible, feasible.settle(schema, rows, drawn))
    assert after.iloc[0].tolist() == [1, 0, 1.0], "the first has to leave 0, by however little"
    assert not rules.violations(people, after).any()


@pytest.mark.parametrize("tokenize", ["none", "all"])
def test_the_upper_column_is_raised_by_no_more_than_it_takes(tokenize):
    frame = pd.DataFrame({"limit": [0.0, 1.0, 3.0, 7.0], "used": [0.0, 2.0, 5.0, 6.0]})
    schema = Schema.infer(frame, tokenize=tokenize)
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rules = Constraints(ordered=[("used", "limit")])
    feasible = rules.compile(schema, frame, table.transform.encode(frame))
    for used, limit, raised in ((5.0, 1.0, 5.0), (2.0, 0.0, 2.0), (2.0, 3.0, 3.0), (0.0, 0.0, 0.0)):
        wish = table.transform.encode(pd.DataFrame({"limit": [limit] * 2, "used": [used] * 2}))
        people, may = frame.iloc[[0, 3]], feasible.take(np.array([0, 3]))
        rows = table.transform.encode(people)
        after = restored(table, people, may, may.settle(schema, rows, Rows(wish.num[:, None], wish.cat[:, None])))
        due = raised if tokenize == "none" else frame["limit"][frame["limit"] >= raised].min()
        np.testing.assert_allclose(after["limit"], due, atol=1e-5)
        np.testing.assert_allclose(after["used"], used, atol=1e-5)


@pytest.mark.parametrize("scale", [("float64", 1.0), ("float32", 1.0), ("int64", 1e9)])
def test_a_raised_number_is_not_below_the_other_one_after_decoding(scale):
    dtype, size = scale
    values = np.random.default_rng(0).random((400, 2)) * size
    frame = pd.DataFrame({"used": values.min(1), "limit": values.max(1)}).astype(dtype)
    schema = Schema.infer(frame, tokenize="none")
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rows = table.transform.encode(frame)
    feasible = Constraints(ordered=[("used", "limit")]).compile(schema, frame, rows)
    generator = torch.Generator().manual_seed(0)
    used = torch.rand(400, 3, 1, generator=generator)
    wish = Rows(
        torch.cat([used, used * torch.rand(400, 3, 1, generator=generator)], 2), rows.cat[:, None].expand(-1, 3, -1)
    )
    after = restored(table, frame, feasible, feasible.settle(schema, rows, wish))
    before = frame.iloc[np.arange(400).repeat(3)]
    broken = Constraints(ordered=[("used", "limit")]).violations(before, after)
    assert not broken.any()
