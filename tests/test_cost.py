import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import TOKENS, quick, tables

from recourse_gen.cost import RecourseCost, smallest
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema


def by_hand(table, a, b):
    """The definition, cell by cell, on frames."""
    total = 0.0
    for feature in table.schema.features:
        mine, theirs = a[feature.name], b[feature.name]
        if feature.kind == "categorical":
            total += feature.weight * (mine != theirs)
        else:
            low, high = feature.bounds
            total += feature.weight * abs(float(mine) - float(theirs)) / (high - low)
    return total


@quick
@given(tables(weighted=True), st.integers(0, 2**32 - 1))
def test_cost_is_its_definition_for_pairs_and_for_all_pairs(table, seed):
    rng = np.random.default_rng(seed)
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    a, b = rng.integers(0, len(table.frame), (2, 5))
    expected = [by_hand(table, table.frame.iloc[i], table.frame.iloc[j]) for i, j in zip(a, b, strict=True)]
    picked = rows.take(torch.from_numpy(a)), rows.take(torch.from_numpy(b))
    np.testing.assert_allclose(cost(*picked), expected, atol=2e-5)
    square = cost.pairwise(*picked)
    assert square.shape == (5, 5)
    np.testing.assert_allclose(square.diagonal(), expected, atol=2e-5)
    np.testing.assert_allclose(cost.pairwise(*reversed(picked)), square.T, atol=2e-5)


@quick
@given(tables(weighted=True))
def test_cost_is_zero_on_itself_symmetric_and_keeps_the_triangle_inequality(table):
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    square = cost.pairwise(rows, rows).numpy()
    assert (cost(rows, rows) == 0).all() and (square.diagonal() == 0).all()
    np.testing.assert_allclose(square, square.T, atol=1e-6)
    assert (square[:, :, None] + square[None] - square[:, None] >= -1e-4).all()


@quick
@given(tables(weighted=True), st.integers(1, 4))
def test_candidates_broadcast_against_their_factual(table, samples):
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    shuffled = rows.take(torch.randperm(rows.batch_size, generator=torch.Generator().manual_seed(1)))
    many = Rows(shuffled.num[:, None].expand(-1, samples, -1), shuffled.cat[:, None].expand(-1, samples, -1))
    result = cost(rows, many)
    assert result.shape == (rows.batch_size, samples) and result.dtype == torch.float32
    for s in range(samples):
        torch.testing.assert_close(result[:, s], cost(rows, shuffled), atol=0, rtol=0)


@quick
@given(tables(weighted=True))
def test_weights_scale_each_columns_coordinates(table):
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    plain, weighted = cost.coordinates(rows, weighted=False), cost.coordinates(rows)
    assert plain.shape == weighted.shape and plain.dtype == torch.float32
    per_column = [f.weight for f in table.schema.numbers] + [
        feature.weight
        for feature in table.schema.tokens
        for _ in range(len(feature.levels) if feature.kind == "categorical" and len(feature.levels) > 2 else 1)
    ]
    torch.testing.assert_close(weighted, plain * torch.tensor(per_column))


@quick
@given(tables(makers=tuple(TOKENS)))
def test_between_categories_cost_counts_mismatches(table):
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    mismatches = (rows.cat[:, None] != rows.cat[None]).sum(2).float()
    torch.testing.assert_close(cost.pairwise(rows, rows), mismatches)


@quick
@given(tables())
def test_nobody_costs_nothing(table):
    cost, rows = RecourseCost(table.schema), table.transform.encode(table.frame)
    nobody = rows.take(torch.zeros(0, dtype=torch.int64))
    assert cost(nobody, nobody).shape == (0,)
    assert cost.pairwise(nobody, rows).shape == (0, rows.batch_size)


def test_pairs_cost_no_more_memory_where_categories_have_many_levels():
    size = 100_000  # a table of coordinates would take 40 GB, and so would the coordinates of as many rows
    levels = tuple(map(str, range(size)))
    cost = RecourseCost(Schema((Feature("id", "categorical", "str", levels=levels, weight=0.5),)))
    rows = Rows(torch.zeros(size, 0), torch.arange(size)[:, None])
    assert (cost(rows, rows.take(torch.arange(size).roll(1))) == 0.5).all()
    assert (cost(rows, rows) == 0).all()


@pytest.mark.parametrize("k", [1, 7, 40, 41])
def test_the_smallest_costs_come_in_order_and_equal_ones_by_place(k: int) -> None:
    """As a stable sort of each row has them; the rows are enough for two threads."""
    costs = torch.randint(0, 9, (200, 40), generator=torch.Generator().manual_seed(0)).float() / 7
    costs[costs > 1] = torch.inf
    costs[0] = torch.inf
    values, order = costs.sort(dim=1, stable=True)
    found, place = smallest(costs, k)
    assert torch.equal(found, values[:, :k])
    assert torch.equal(place, order[:, :k])
