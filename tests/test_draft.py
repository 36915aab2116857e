"""Whatever a network prefers, a draft stays inside the constraints."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import MAKERS, NUMBERS, STEPS, TOKENS, Table, constraints, quick, restored, tables

from backbones.alphabet import SPACINGS, Alphabet
from recourse_gen.constraints import Constraints, changed_cells
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.testing.tables import table_of
from recourse_gen.transform import TableTransform


def draw_anything(alphabet, factual, feasible, samples, seed):
    """Rows ``(B, S, ·)`` of uniformly random codes among those that the masks leave."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(factual.batch_size).repeat_interleave(samples)
    draft = alphabet.draft(factual, owner, feasible)
    for column in range(len(alphabet.sizes)):
        mask = draft.mask(column)
        assert mask.shape == (len(owner), alphabet.sizes[column]) and mask.any(1).all()
        codes = torch.where(mask, torch.rand(mask.shape, generator=generator), -1.0).argmax(1)
        # Bounds and point masses meet at the ends of intervals, so those are drawn often.
        uniform = torch.rand(len(owner), generator=generator)
        uniform = torch.where(torch.rand(len(owner), generator=generator) < 0.2, uniform.round(), uniform)
        draft.emit(column, codes, uniform)
    rows = draft.rows()
    return Rows(*(part.reshape(factual.batch_size, samples, part.shape[1]) for part in rows))


def answers(table, rules, *, spacing, bins, samples, seed):
    """(factuals, counterfactuals) of the people for whom something is feasible, row-aligned."""
    everybody = rules.compile(table.schema, table.frame, table.transform.encode(table.frame))
    possible = np.array([not reason for reason in everybody.reasons])
    people, feasible = table.frame[possible], everybody.take(possible)
    alphabet = Alphabet(table.schema, bins=bins, spacing=spacing)
    drawn = draw_anything(alphabet, table.transform.encode(people), feasible, samples, seed)
    return people.iloc[np.arange(len(people)).repeat(samples)], restored(table, people, feasible, drawn)


@st.composite
def cases(draw, makers=tuple(MAKERS), tokenize=None, **options):
    table = draw(tables(makers, tokenize=tokenize, max_rows=12))
    how = {
        "spacing": draw(st.sampled_from(SPACINGS)),
        "bins": draw(st.sampled_from([2, 7, 64])),
        "samples": 8,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    return table, draw(constraints(table, **options)), how


def assert_obeyed(case):
    table, rules, how = case
    before, after = answers(table, rules, **how)
    assert dict(after.dtypes) == dict(table.frame.dtypes)
    assert not rules.violations(before, after).any()


@quick
@given(cases(ordered=False))
def test_random_codes_never_violate_a_constraint(case):
    assert_obeyed(case)


@quick
@given(cases(makers=tuple(NUMBERS), tokenize="none", ordered=False))
def test_nor_where_all_columns_are_continuous(case):
    assert_obeyed(case)


@quick
@given(cases(makers=(*TOKENS, *STEPS), tokenize="all", ordered=False))
def test_nor_where_all_columns_are_tokens(case):
    assert_obeyed(case)


@quick
@given(cases(makers=("int8", "Int64", "steps", "whole", "uint16"), max_changes=False))
def test_nor_with_ordered_tokens_and_whole_numbers(case):
    assert_obeyed(case)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tokenize", ["none", "all"])
@pytest.mark.parametrize("dtype", ["int8", "float64", "float32"])
def test_ordered_columns_that_change_together_leave_each_other_room(dtype, tokenize, flip):
    """The one that is drawn first must not end where the other could only keep its value."""
    frame = pd.DataFrame({"low": [2, 1, 0, -2, -1, -3], "high": [-3, -3, -2, 2, 1, 3]}).astype(dtype)
    frame = frame[["high", "low"]] if flip else frame
    schema = Schema.infer(frame, tokenize=tokenize)
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    monotone = {"low": "increase", "high": "decrease"}
    rules = Constraints(monotone=monotone, ordered=[("low", "high")], together=[["low", "high"]])
    for seed in range(10):
        before, after = answers(table, rules, spacing="uniform", bins=7, samples=20, seed=seed)
        assert len(after) and not rules.violations(before, after).any()
        assert (after["low"].to_numpy() != before["low"].to_numpy()).any()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
@quick
@given(seed=st.integers(0, 2**32 - 1), flip=st.booleans())
def test_nor_with_a_continuous_column_below_another(dtype, spacing, seed, flip):
    """Different spans, so equal raw values are unequal scaled ones, and float32 rounds each its own way."""
    rng = np.random.default_rng(seed)
    used, limit = np.sort(rng.exponential([[3.0], [97.0]], (2, 40)), 0) * rng.choice([0.1, 1.0, 30.0])
    used[:10] = limit[:10] = limit.max()
    frame = pd.DataFrame({"used": used, "limit": limit}).astype(dtype)
    frame = frame[["limit", "used"]] if flip else frame
    schema = Schema.infer(frame, tokenize="none", bounds={"used": (0, 120.7)})
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rules = Constraints(ordered=[("used", "limit")], ranges={"limit": (None, float(np.median(frame["limit"])))})
    before, after = answers(table, rules, spacing=spacing, bins=7, samples=20, seed=seed)
    assert len(after) and not rules.violations(before, after).any()


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_the_mask_of_ordered_tokens_is_exactly_what_can_be_completed(seed, columns):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {f"c{d}": rng.permutation(np.r_[rng.choice(9, 3, replace=False), 0, 9]) for d in range(columns)}
    )
    schema = Schema.infer(frame)
    names = rng.permutation(frame.columns).tolist()
    pairs = [pair for pair in itertools.combinations(names, 2) if rng.random() < 0.6]
    ranges = {name: (None, int(rng.integers(3, 10))) for name in names if rng.random() < 0.3}
    rules = Constraints(ordered=pairs, ranges=ranges)
    codes = np.array(list(itertools.product(*(range(len(f.levels)) for f in schema.features))))
    grid = pd.DataFrame({f.name: np.array(f.levels)[codes[:, d]] for d, f in enumerate(schema.features)})
    good = codes[~rules.violations(grid, grid)]
    rows = TableTransform(schema).fit(frame).encode(frame)
    feasible = rules.compile(schema, frame, rows)
    assert len(good), "0 is at the bottom of every column"
    draft = Alphabet(schema, bins=2, spacing="uniform").draft(rows, torch.arange(len(frame)).repeat(4), feasible)
    prefixes = np.zeros((len(frame) * 4, 0), dtype=np.int64)
    for column, feature in enumerate(schema.features):
        mask = draft.mask(column).numpy()
        for prefix, allowed in zip(prefixes, mask, strict=True):
            fits = good[(good[:, :column] == prefix).all(1), column]
            np.testing.assert_array_equal(allowed, np.isin(np.arange(len(feature.levels)), fits))
        drawn = np.where(mask, rng.random(mask.shape), -1).argmax(1)
        draft.emit(column, torch.from_numpy(drawn), torch.full((len(drawn),), 0.5))
        prefixes = np.column_stack([prefixes, drawn])


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from(["none", "all"]))
def test_a_change_that_would_force_another_is_not_made_when_none_is_left(seed, most, tokenize):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.integers(0, 9, (30, 4)), columns=list("abcd")).astype({"c": float})
    low, high = rng.permutation(list("abcd"))[:2]
    frame = frame[frame[low] <= frame[high]].reset_index(drop=True)
    frame.loc[len(frame)], frame.loc[len(frame) + 1] = [0] * 4, [9] * 4
    schema = Schema.infer(frame, tokenize=tokenize)
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rules = Constraints(ordered=[(low, high)], max_changes=most)
    before, after = answers(table, rules, spacing="quantile", bins=7, samples=20, seed=seed)
    assert not rules.violations(before, after).any()
    assert changed_cells(before, after).sum(1).max() == most


def test_ordered_with_max_changes_still_lets_both_columns_move():
    frame = pd.DataFrame({"used": [1, 5, 9, 3], "limit": [5, 9, 9, 3]})
    schema = Schema.infer(frame)
    table = Table(frame, schema, TableTransform(schema).fit(frame))
    rules = Constraints(ordered=[("used", "limit")], max_changes=2)
    before, after = answers(table, rules, spacing="quantile", bins=7, samples=50, seed=0)
    assert not rules.violations(before, after).any()
    assert (after["used"].to_numpy() > before["limit"].to_numpy()).any(), "both had to move"


@quick
@given(tables(max_rows=10), st.sampled_from(SPACINGS), st.integers(0, 1000))
def test_without_constraints_every_code_is_open_and_decodes_into_the_training_range(table, spacing, seed):
    alphabet, rows = Alphabet(table.schema, bins=9, spacing=spacing), table.transform.encode(table.frame)
    draft = alphabet.draft(rows, torch.arange(rows.batch_size), None)
    assert all(draft.mask(column).all() for column in range(len(alphabet.sizes)))
    free = draw_anything(alphabet, rows, None, 5, seed)
    bound = draw_anything(alphabet, rows, Constraints().compile(table.schema, table.frame, rows), 5, seed)
    for part, other in zip(free, bound, strict=True):
        assert torch.equal(part, other), "rules that say nothing change nothing"
    assert ((free.num >= 0) & (free.num <= 1)).all()


def test_whole_numbers_are_drawn_whole():
    frame = pd.DataFrame({"n": np.arange(0, 900, 3)})
    schema = Schema.infer(frame)
    transform = TableTransform(schema).fit(frame)
    rows = transform.encode(frame)
    drawn = draw_anything(Alphabet(schema, bins=7, spacing="quantile"), rows, None, 5, 0).flatten()
    again = transform.encode(transform.decode(drawn))
    assert torch.equal(again.num, drawn.num)


@quick
@given(cases(ordered=False, max_changes=False))
def test_what_is_open_equals_the_masks_of_a_rule_that_never_binds(case):
    table, rules, how = case
    alphabet = Alphabet(table.schema, bins=how["bins"], spacing=how["spacing"])
    rows = table.transform.encode(table.frame)
    owner = torch.arange(rows.batch_size)
    rules = dataclasses.replace(rules, together=())
    tied = dataclasses.replace(rules, max_changes=len(table.schema.features))
    free, bound = (alphabet.draft(rows, owner, rule.compile(table.schema, table.frame, rows)) for rule in (rules, tied))
    assert bound.tied and not free.tied
    for column, size in enumerate(alphabet.sizes):
        assert torch.equal(free.open[:, column, :size], bound.mask(column))
        assert not free.open[:, column, size:].any()


def test_a_group_stays_where_one_of_it_cannot_move_any_more():
    frame = pd.DataFrame({"c": [0, 2, 3, -3], "a": [-2, -1, 3, -1], "b": [1, 0, -3, 3]}, dtype="int8")
    table = table_of(frame, tokenize="none")
    rules = Constraints(
        monotone={name: "increase" for name in "cab"},
        ordered=[("b", "c")],
        together=[("a", "b")],
        ranges={"c": (0, None)},
    )
    # The first person's c has to reach b at least; where it gets no further, neither b nor a has anywhere to go.
    before, after = answers(table, rules, spacing="quantile", bins=7, samples=200, seed=0)
    assert not rules.violations(before, after).any()
    stays = after["c"].eq(1).to_numpy() & (before["c"].to_numpy() == 0)
    assert stays.any() and not after[stays].ne(before[stays].to_numpy())[["a", "b"]].any(axis=None)
