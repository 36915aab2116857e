import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import MAKERS, NUMBERS, quick, tables

from backbones.alphabet import SPACINGS, Alphabet
from backbones.layers import (
    Block,
    ChangedEmbedding,
    ColumnHead,
    LevelTable,
    ScalarEmbedding,
    log_choice,
)
from recourse_gen.cost import RecourseCost
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema
from recourse_gen.transform import TableTransform

BINS = st.sampled_from([2, 3, 16, 64, 100])


def one_number(values, bins, spacing="quantile"):
    """Alphabet of a single continuous column, and its encoded rows."""
    frame = pd.DataFrame({"x": np.asarray(values, dtype=float)})
    schema = Schema.infer(frame, kinds={"x": "continuous"})
    return Alphabet(schema, bins=bins, spacing=spacing), TableTransform(schema).fit(frame).encode(frame)


def with_atom(rows=1000):
    rng = np.random.default_rng(0)
    return np.where(rng.random(rows) < 0.6, 3.0, rng.normal(0, 5, rows))


@quick
@given(tables(), BINS, st.sampled_from(SPACINGS))
def test_codes_are_in_the_alphabet_and_tokens_code_themselves(table, bins, spacing):
    alphabet, rows = Alphabet(table.schema, bins=bins, spacing=spacing), table.transform.encode(table.frame)
    codes, numbers = alphabet.codes(rows), alphabet.numbers(rows)
    assert codes.shape == numbers.shape == (rows.batch_size, len(table.schema.features))
    assert (codes >= 0).all() and (codes < torch.tensor(alphabet.sizes)).all()
    for d, t, n in table.schema.places:
        feature = table.schema.features[d]
        if n is not None:
            assert torch.equal(numbers[:, d], rows.num[:, n])
            continue
        assert torch.equal(codes[:, d], rows.cat[:, t])
        expected = feature.level_values[rows.cat[:, t]] if feature.kind == "ordinal" else np.zeros(rows.batch_size)
        np.testing.assert_allclose(numbers[:, d], expected, atol=1e-7)


@quick
@given(tables(makers=tuple(NUMBERS), tokenize="none"), BINS)
def test_a_quantile_bin_holds_the_values_that_it_codes(table, bins):
    alphabet, rows = Alphabet(table.schema, bins=bins, spacing="quantile"), table.transform.encode(table.frame)
    codes, column = alphabet.codes(rows), torch.arange(rows.num.shape[1])
    low, high = alphabet.emit_low[column, codes], alphabet.emit_high[column, codes]
    assert ((low <= rows.num) & (rows.num <= high)).all()


@quick
@given(tables(makers=tuple(NUMBERS), tokenize="none"), BINS)
def test_a_grid_value_is_the_nearest(table, bins):
    alphabet, rows = Alphabet(table.schema, bins=bins, spacing="uniform"), table.transform.encode(table.frame)
    codes = alphabet.codes(rows)
    emitted = alphabet.value[torch.arange(codes.shape[1]), codes]
    assert ((emitted - rows.num).abs() <= 0.5 / (bins - 1) + 1e-6).all()
    assert torch.equal(alphabet.emit_low, alphabet.emit_high)
    assert alphabet.sizes == [bins] * len(alphabet.sizes)


@quick
@given(tables(makers=tuple(NUMBERS), tokenize="none"), BINS, st.sampled_from(SPACINGS))
def test_bins_are_in_order_and_share_the_line(table, bins, spacing):
    alphabet = Alphabet(table.schema, bins=bins, spacing=spacing)
    for d, size in enumerate(alphabet.sizes):
        cover, low, high = alphabet.cover[d, :size], alphabet.emit_low[d, :size], alphabet.emit_high[d, :size]
        assert cover[0] == -math.inf and (cover.diff() > 0).all()
        assert (low <= high).all() and (low[1:] >= high[:-1]).all()
        assert low[0] == 0 and high[-1] == 1
        assert (low[1:] >= cover[1:]).all() and (high[:-1] <= cover[1:]).all()


@pytest.mark.parametrize("bins", [8, 50, 64])
def test_a_point_mass_has_a_bin_of_its_own(bins):
    values = with_atom()
    alphabet, rows = one_number(values, bins)
    codes = alphabet.codes(rows)[:, 0].numpy()
    (own,) = np.unique(codes[values == 3.0])
    assert (values[codes == own] == 3.0).all()
    assert alphabet.emit_low[0, own] == alphabet.emit_high[0, own] == rows.num[values == 3.0][0, 0]


def test_quantile_bins_hold_equal_shares():
    alphabet, rows = one_number(np.random.default_rng(0).normal(size=6400), 16)
    counts = np.bincount(alphabet.codes(rows)[:, 0], minlength=16)
    assert abs(counts - 400).max() <= 2


@pytest.mark.parametrize("spacing", SPACINGS)
def test_values_beyond_the_training_range_get_the_outer_bins(spacing):
    alphabet, _ = one_number(np.linspace(0, 1, 100), 10, spacing)
    outer = Rows(torch.tensor([[-5.0], [7.0]]), torch.zeros(2, 0, dtype=torch.int64))
    assert alphabet.codes(outer)[:, 0].tolist() == [0, alphabet.sizes[0] - 1]


def test_log_width_makes_a_density_that_integrates_to_one():
    alphabet, _ = one_number(with_atom(), 16)
    size = alphabet.sizes[0]
    weights = np.random.default_rng(1).dirichlet(np.ones(size))
    width = alphabet.log_width(torch.arange(size)[:, None]).exp()[:, 0].numpy()
    spread = (alphabet.emit_high > alphabet.emit_low)[0].numpy()
    assert 0 < spread.sum() < size
    grid = (np.arange(200_000) + 0.5) / 200_000
    codes = alphabet.codes(Rows(torch.tensor(grid[:, None], dtype=torch.float32), torch.zeros(len(grid), 0).long()))
    density = (weights / width)[codes[:, 0]] * spread[codes[:, 0]]
    # Over the spread bins it is a density, over the point masses a probability.
    assert abs(density.mean() + weights[~spread].sum() - 1) < 1e-3
    assert (width[~spread] == 1).all()


@quick
@given(tables(), st.floats(0.01, 0.5), st.sampled_from(SPACINGS))
def test_blurred_targets_are_laws_that_peak_at_the_value(table, width, spacing):
    alphabet, rows = Alphabet(table.schema, bins=12, spacing=spacing), table.transform.encode(table.frame)
    codes, numbers = alphabet.codes(rows), alphabet.numbers(rows)
    targets = alphabet.blurred(codes, numbers, width)
    torch.testing.assert_close(targets.sum(2), torch.ones_like(numbers))
    for d, feature in enumerate(table.schema.features):
        size = alphabet.sizes[d]
        assert (targets[:, d, size:] == 0).all()
        if feature.kind == "categorical":
            assert torch.equal(targets[:, d], torch.nn.functional.one_hot(codes[:, d], targets.shape[2]).float())
            continue
        nearest = (alphabet.value[d, :size] - numbers[:, d, None]).abs().argmin(1, keepdim=True)
        assert (targets[:, d].gather(1, nearest)[:, 0] >= targets[:, d].amax(1) - 1e-6).all()
        if feature.kind == "ordinal":
            assert (targets[:, d].gather(1, codes[:, d, None])[:, 0] == targets[:, d].amax(1)).all()


@quick
@given(tables(weighted=True), st.sampled_from(SPACINGS))
def test_costs_are_the_recourse_cost_of_changing_one_column(table, spacing):
    alphabet, rows = Alphabet(table.schema, bins=5, spacing=spacing), table.transform.encode(table.frame)
    cost, costs = RecourseCost(table.schema), alphabet.costs(rows)
    for d, t, n in table.schema.places:
        for code in range(alphabet.sizes[d]):
            num, cat = rows.num.clone(), rows.cat.clone()
            if n is None:
                cat[:, t] = code
            else:
                num[:, n] = alphabet.value[d, code]
            torch.testing.assert_close(costs[:, d, code], cost(rows, Rows(num, cat)), atol=1e-5, rtol=1e-5)


def test_nothing_of_an_alphabet_is_learned_or_saved():
    alphabet, _ = one_number(with_atom(), 16)
    assert not list(alphabet.parameters()) and not alphabet.state_dict()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bins": 1, "spacing": "quantile"}, "bins must be at least 2, got 1"),
        ({"bins": 8, "spacing": "even"}, "spacing must be one of quantile, uniform, got 'even'"),
    ],
)
def test_wrong_options_get_one_sentence(options, sentence):
    schema = Schema.infer(pd.DataFrame({"x": MAKERS["float"](np.random.default_rng(0), 20)}))
    with pytest.raises(ValueError, match=sentence):
        Alphabet(schema, **options)


def test_choices_follow_the_softmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.3, -math.inf, 2.0, -1.0, 0.0, -math.inf])
    drawn = log_choice(logits.expand(100_000, -1), torch.rand(100_000, generator=generator))
    counts = np.bincount(drawn, minlength=6)
    expected = 100_000 * logits.softmax(0).numpy()
    assert counts[[1, 5]].tolist() == [0, 0]
    assert stats.chisquare(counts[expected > 0], expected[expected > 0], sum_check=False).pvalue > 1e-4


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_impossible_choices_are_never_made_even_at_the_ends(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, size, generator=generator) * 20
    masked = torch.rand(40, size, generator=generator) < 0.7
    masked[torch.arange(40), torch.randint(0, size, (40,), generator=generator)] = False
    logits = logits.masked_fill(masked, -math.inf)
    for uniform in (2.0**-24, 1e-3, 0.5, 1 - 1e-6, 1 - 2.0**-24):
        choice = log_choice(logits, torch.full((40,), uniform))
        assert logits.gather(1, choice[:, None]).isfinite().all()


def test_embedding_and_head_of_one_column_are_those_of_all():
    sizes, generator = [3, 5, 2], torch.Generator().manual_seed(0)
    basis = torch.randn(3, 5, 4, generator=generator)
    embedding, head = ChangedEmbedding(basis, 8), ColumnHead(basis, sizes, 8)
    codes = torch.stack([torch.randint(0, size, (7,), generator=generator) for size in sizes], 1)
    values, x = torch.rand(7, 3, generator=generator), torch.randn(7, 3, 8, generator=generator)
    moved = values > 0.5
    together, logits = embedding(codes, values, moved, -values), head(x)
    for d, size in enumerate(sizes):
        alone = embedding.columns()[d](codes[:, d], values[:, d], moved[:, d], -values[:, d])
        torch.testing.assert_close(alone, together[:, d])
        alone = head.columns()[d](x[:, d], head.bias[d, :size].expand(7, -1))
        torch.testing.assert_close(alone, logits[:, d, :size])
        assert (logits[:, d, size:] == -math.inf).all()
    still = torch.zeros_like(values)
    vectors = embedding(codes, still, still.bool(), still).flatten(0, 1)
    assert len(torch.unique(vectors, dim=0)) == len(
        {(column, int(code)) for row in codes for column, code in enumerate(row)}
    ), "columns share no vectors"
    assert ScalarEmbedding(8)(torch.tensor([1e-3, 1.0, 1e3])).isfinite().all()


def test_the_basis_is_smooth_in_the_rank_and_zero_for_categories():
    schema = Schema(
        (
            Feature("count", "ordinal", "int64", levels=tuple(range(40)), bounds=(0.0, 39.0)),
            Feature("job", "categorical", "str", levels=("a", "b", "c")),
        )
    )
    basis = Alphabet(schema, bins=8, spacing="uniform").basis()
    assert basis.shape[:2] == (2, 40)
    assert (basis[1] == 0).all()
    neighbours, anybody = basis[0].diff(dim=0).norm(dim=1), torch.pdist(basis[0])
    assert neighbours.max() < anybody.mean() / 2
    assert anybody.min() > 0, "no two levels look the same"


def test_width_must_split_into_heads():
    with pytest.raises(ValueError, match="width must be a multiple of heads, however: width=10, heads=3"):
        Block(10, 3)


def test_vectors_of_levels_are_kept_until_a_weight_changes() -> None:
    table = LevelTable(torch.rand(2, 5, 3), 4, 1.0)
    expected = lambda: table.free + torch.einsum("dlf,dfw->dlw", table.basis, table.smooth)  # noqa: E731
    with torch.no_grad():
        first = table()
        assert table() is first
        torch.testing.assert_close(first, expected())
        copy = deepcopy(table)
        changes: list[Callable[[], Any]] = [
            lambda: table.free.add_(1.0),
            lambda: table.load_state_dict({"free": table.free * 2, "smooth": table.smooth * 2}),
            lambda: setattr(table, "smooth", torch.nn.Parameter(torch.rand(2, 3, 4))),
            lambda: table.load_state_dict({"free": table.free * 2, "smooth": table.smooth * 2}, assign=True),
            lambda: torch._foreach_lerp_([table.free], [torch.ones(2, 5, 4)], 0.5),  # as averages of weights do
            lambda: table.double(),
        ]
        for change in changes:
            change()
            torch.testing.assert_close(table(), expected())
            assert table() is table()
        torch.testing.assert_close(copy(), first)
    assert table().requires_grad
    with torch.inference_mode():
        fresh = LevelTable(torch.rand(2, 5, 3), 4, 1.0)
        before = fresh()
        fresh.free.add_(1.0)
        torch.testing.assert_close(fresh(), before + 1.0)
