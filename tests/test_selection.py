import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import quick

from recourse_gen import selection
from recourse_gen.cost import RecourseCost
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema
from recourse_gen.selection import Pool

COST = RecourseCost(
    Schema(
        (
            Feature("a", "continuous", "float64", (), (0.0, 1.0), (0.0, 1.0)),
            Feature("b", "continuous", "float64", (), (0.0, 1.0), (0.0, 1.0)),
            Feature("c", "categorical", "str", ("x", "y", "z")),
        )
    )
)


def random_pool(seed, batch=3, size=6, kinds=3):
    """A pool with ties, repeats, and people for whom little or nothing is valid."""
    rng = np.random.default_rng(seed)
    valid = rng.random((batch, size)) < rng.choice([0.0, 0.5, 1.0], (batch, 1))
    accepted = valid & (rng.random((batch, size)) < 0.5)
    cost = rng.integers(0, 5, (batch, size)) * 1.0
    return Pool(
        rows=Rows(
            torch.from_numpy(rng.integers(0, kinds, (batch, size, 2)) / 2.0).float(),
            torch.from_numpy(rng.integers(0, kinds, (batch, size, 1))),
        ),
        probability=rng.integers(5, 10, (batch, size)) / 10,
        cost=cost,
        burden=cost + rng.integers(0, 3, (batch, size)),
        valid=valid,
        consensus=np.full((batch, size), np.nan),
        plausibility=np.full((batch, size), np.nan),
        expected=rng.choice([0.0, 1 / 3, 1.0, 2.0], (batch, size)),
        accepted=accepted,
    )


def best(pool, b, n, key):
    eligible = [s for s in range(pool.valid.shape[1]) if pool.valid[b, s]]
    ranked = sorted(eligible, key=lambda s: (key(s), s))[:n]
    return ranked + [-1] * (n - len(ranked))


pools = st.builds(random_pool, st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(1, 8))


@quick
@given(pools, st.integers(1, 10))
def test_score_weighs_what_is_expected_against_the_burden_per_column(pool, n):
    chosen = selection.policy("score").choose(pool, n, COST)
    assert chosen.shape == (len(pool.cost), n)
    for b, row in enumerate(chosen):
        assert row.tolist() == best(pool, b, n, lambda s, b=b: pool.burden[b, s] / 3 - pool.expected[b, s])


@quick
@given(pools, st.integers(1, 10))
def test_cheapest_is_the_least_cost_of_the_accepted_then_what_most_is_expected_of(pool, n):
    chosen = selection.policy("cheapest").choose(pool, n, COST)
    assert chosen.shape == (len(pool.cost), n)
    for b, row in enumerate(chosen):
        price = [pool.cost[b, s] if pool.accepted[b, s] else -pool.expected[b, s] for s in range(pool.cost.shape[1])]
        assert row.tolist() == best(pool, b, n, lambda s, b=b, price=price: (not pool.accepted[b, s], price[s]))


@quick
@given(pools, st.integers(1, 10))
def test_confident_is_the_highest_probability_accepted_first(pool, n):
    for b, row in enumerate(selection.policy("confident").choose(pool, n, COST)):
        assert row.tolist() == best(pool, b, n, lambda s, b=b: (not pool.accepted[b, s], -pool.probability[b, s]))


def distances(pool, b):
    """Recourse cost between any two candidates of a factual."""
    rows = Rows(pool.rows.num[b], pool.rows.cat[b])
    return COST.pairwise(rows, rows).numpy()


@quick
@given(pools, st.integers(1, 10))
def test_diverse_is_the_cheapest_and_then_whatever_is_furthest_from_those_chosen(pool, n):
    cheapest = selection.policy("cheapest").choose(pool, 1, COST)
    chosen = selection.policy("diverse").choose(pool, n, COST)
    for b, row in enumerate(chosen.tolist()):
        taken, apart = [], distances(pool, b)
        for s in row:
            left = [t for t in range(len(apart)) if pool.valid[b, t] and t not in taken]
            left = [t for t in left if pool.accepted[b, t]] or left
            if not left:
                assert s == -1
            elif not taken:
                assert s == cheapest[b, 0]
            else:
                assert s in left
                gaps = [min(apart[t, other] for other in taken) for t in left]
                assert min(apart[s, other] for other in taken) == pytest.approx(max(gaps), abs=1e-5)
            taken += [s] * (s >= 0)


@quick
@given(pools, st.integers(2, 4))
def test_no_other_choice_is_more_than_twice_as_diverse(pool, n):
    chosen = selection.policy("diverse").choose(pool, n, COST)
    for b, row in enumerate(chosen.tolist()):
        accepted, apart = np.flatnonzero(pool.accepted[b]).tolist(), distances(pool, b)
        if len(accepted) >= n:
            spread = [
                min(apart[i, j] for i, j in itertools.combinations(few, 2))
                for few in (row, *itertools.combinations(accepted, n))
            ]
            assert set(row) <= set(accepted)
            assert 2 * spread[0] >= max(spread) - 1e-5


@quick
@given(pools)
def test_the_front_is_what_nothing_dominates(pool):
    front = selection.front(pool)
    for b, (cost, sure) in enumerate(zip(pool.cost, pool.probability, strict=True)):
        asked = np.flatnonzero(pool.accepted[b] if pool.accepted[b].any() else pool.valid[b])
        for s in range(len(cost)):
            dominated = [
                cost[t] <= cost[s] and sure[t] >= sure[s] and (cost[t] < cost[s] or sure[t] > sure[s] or t < s)
                for t in asked
            ]
            assert front[b, s] == (s in asked and not any(dominated))


@quick
@given(pools, st.integers(1, 10))
def test_pareto_runs_along_the_front_from_end_to_end(pool, n):
    for b, row in enumerate(selection.policy("pareto").choose(pool, n, COST).tolist()):
        front = sorted(np.flatnonzero(selection.front(pool)[b]).tolist(), key=lambda s, b=b: pool.cost[b, s])
        taken = [s for s in row if s >= 0]
        assert row == taken + [-1] * (n - len(taken))
        assert len(taken) == min(n, len(front))
        places = [front.index(s) for s in taken]
        assert places[:1] == [0][: len(front)]
        if len(taken) > 1:
            assert places[-1] == len(front) - 1
            steps = np.diff(places)
            assert steps.min() >= 1 and steps.max() - steps.min() <= 1


@quick
@given(pools, st.integers(1, 4))
def test_score_draws_on_until_enough_are_valid_and_the_others_until_enough_are_accepted(pool, n):
    wanted = {"score": pool.valid, **{name: pool.accepted for name in ("cheapest", "confident", "diverse")}}
    wanted["pareto"] = selection.front(pool) & pool.accepted
    assert wanted.keys() == selection.POLICIES.keys()
    for name, flags in wanted.items():
        assert selection.policy(name).done(pool, n).tolist() == [sum(row) >= n for row in flags]


@quick
@given(pools.filter(lambda pool: len(pool.cost) > 1), st.sampled_from(sorted(selection.POLICIES)))
def test_company_does_not_matter(pool, name):
    dear = dataclasses.replace(pool, cost=pool.cost + np.eye(len(pool.cost), 1) * 1e30)
    alone, choose = pool.take(np.arange(1, len(pool.cost))), selection.policy(name).choose
    np.testing.assert_array_equal(choose(dear, 3, COST)[1:], choose(alone, 3, COST))


@quick
@given(pools)
def test_repeats_are_dropped_all_but_the_first(pool):
    single = pool.without_repeats()
    for b in range(len(pool.cost)):
        seen = set()
        for s in range(pool.cost.shape[1]):
            row = (*pool.rows.num[b, s].tolist(), *pool.rows.cat[b, s].tolist())
            assert single.valid[b, s] == (pool.valid[b, s] and row not in seen)
            assert single.accepted[b, s] == (pool.accepted[b, s] and row not in seen)
            seen.add(row)


def test_minus_zero_repeats_zero():
    pool = random_pool(0, batch=1, size=2)
    rows = Rows(torch.tensor([[[0.0, 1.0], [-0.0, 1.0]]]), torch.zeros(1, 2, 1, dtype=torch.int64))
    pool = dataclasses.replace(pool, rows=rows, valid=np.ones((1, 2), bool))
    assert pool.without_repeats().valid.tolist() == [[True, False]]


@quick
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_extending_keeps_the_order_and_drops_repeats_across_both(seed, other):
    a, b = random_pool(seed), random_pool(other, size=4)
    both = a.extend(b)
    assert torch.equal(both.rows.num, torch.cat([a.rows.num, b.rows.num], 1))
    assert torch.equal(both.rows.cat, torch.cat([a.rows.cat, b.rows.cat], 1))
    for name in ("cost", "expected"):
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([getattr(a, name), getattr(b, name)], 1))
    np.testing.assert_array_equal(both.valid[:, :6], a.without_repeats().valid)
    assert not (both.valid[:, 6:] & ~b.valid).any()
    taken = both.take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.cost, both.cost[[2, 0]])
    assert torch.equal(taken.rows.cat, both.rows.cat[[2, 0]])


def test_an_unknown_policy_lists_what_exists():
    with pytest.raises(
        ValueError, match="unknown selection 'dearest'; known are: cheapest, confident, diverse, pareto, score$"
    ):
        selection.policy("dearest")
