"""Q(x⁺ | x) is what the formula says, over the partners that the constraints admit."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from recourse_gen import Constraints, Schema
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

Table = tuple[pd.DataFrame, np.ndarray]


@pytest.fixture(scope="module")
def split(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turned-down people and favoured ones."""
    frame, granted = table
    return frame[granted == 0].iloc[:40], frame[granted == 1].iloc[:90]


def supervise(
    split: tuple[pd.DataFrame, pd.DataFrame],
    transform: TableTransform,
    constraints: Constraints | None = None,
    **options: Any,
) -> PairSupervision:
    factuals, partners = split
    return PairSupervision(
        factuals,
        transform.encode(partners),
        transform=transform,
        constraints=constraints or Constraints(),
        options=PairOptions(**options),
    )


def raw_costs(factuals: pd.DataFrame, partners: pd.DataFrame, schema: Schema) -> np.ndarray:
    """``(F, M)`` from the raw frames, column by column."""
    total = np.zeros((len(factuals), len(partners)))
    for feature in schema.features:
        a, b = factuals[feature.name].to_numpy()[:, None], partners[feature.name].to_numpy()[None]
        if feature.kind == "categorical":
            total += a != b
        else:
            assert feature.bounds is not None
            total += np.abs(a.astype(float) - b) / (feature.bounds[1] - feature.bounds[0])
    return total


@pytest.mark.parametrize("top_k", [7, 90, 1000])
def test_weights_are_the_softmax_over_the_nearest_partners(split: Any, transform: TableTransform, top_k: int) -> None:
    pairs = supervise(split, transform, top_k=top_k)
    costs = np.sort(raw_costs(*split, transform.schema), 1)[:, :top_k]
    cost_weight = torch.linspace(1.0, 20.0, len(pairs))
    logits = -cost_weight[:, None].double() * torch.from_numpy(costs)
    torch.testing.assert_close(
        pairs.log_weights(torch.arange(len(pairs)), cost_weight).double(), logits.log_softmax(1), atol=1e-4, rtol=0
    )


def test_the_block_size_changes_nothing(split: Any, transform: TableTransform) -> None:
    rules = Constraints(monotone={"age": "increase"}, immutable=["owner"])
    one, many = (supervise(split, transform, rules, top_k=20, block=block) for block in (7, 1000))
    assert torch.equal(one.has_partner, many.has_partner)
    assert torch.equal(one.costs, many.costs)
    assert torch.equal(one.index, many.index)


def test_memory_is_bounded_by_the_block(split: Any, transform: TableTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, cdist = [], torch.cdist

    def measured(a: torch.Tensor, b: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        sizes.append(len(a) * len(b))
        return cdist(a, b, **kwargs)

    monkeypatch.setattr(torch, "cdist", measured)
    supervise(split, transform, block=8)
    assert sizes == [8 * 90] * 5


def test_partners_obey_every_rule_of_a_column(split: Any, transform: TableTransform) -> None:
    rules = Constraints(
        immutable=["owner"],
        monotone={"age": "increase", "savings": "decrease"},
        ranges={"income": (45.0, 60.0)},
        allowed={"region": ["north", "south"]},
    )
    factuals, partners = split
    pairs = supervise(split, transform, rules)
    broken = np.stack([rules.violations(factuals, partners.iloc[[m] * len(factuals)]) for m in range(len(partners))], 1)
    assert 0 < broken.sum() < broken.size
    lonely = broken.all(1)
    assert lonely.any()
    np.testing.assert_array_equal(pairs.has_partner.numpy(), ~lonely)
    assert len(pairs) == (~lonely).sum() == pairs.factuals.batch_size == len(pairs.costs)
    np.testing.assert_array_equal(pairs.costs.isfinite().sum(1).numpy(), (~broken[~lonely]).sum(1))
    admitted = [set(index[cost.isfinite()].tolist()) for index, cost in zip(pairs.index, pairs.costs, strict=True)]
    assert admitted == [set(np.flatnonzero(~row)) for row in broken[~lonely]]


def test_draws_and_weights_are_finite_where_partners_run_out(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, Constraints(immutable=["owner", "region", "job"], monotone={"age": "increase"}))
    at = torch.arange(len(pairs))
    assert not pairs.has_partner.all()
    assert pairs.costs.isinf().any()
    weights = pairs.log_weights(at, torch.full((len(at),), 30.0)).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(at)))
    drawn = pairs.draw(at, torch.full((len(at),), 30.0), torch.Generator().manual_seed(0), 50)
    for t, feature in enumerate(transform.schema.tokens):
        if feature.name in ("owner", "region", "job"):
            assert (drawn.cat[:, :, t] == pairs.factuals.cat[:, None, t]).all()


def test_draws_follow_the_weights(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, top_k=12)
    at, cost_weight, count = torch.tensor([3, 11]), torch.tensor([2.0, 6.0]), 20_000
    drawn = pairs.draw(at, cost_weight, torch.Generator().manual_seed(1), count)
    for i, weights in enumerate(pairs.log_weights(at, cost_weight).exp().double()):
        partners = pairs.partners.take(pairs.index[at[i]].long())
        hits = (drawn.cat[i][:, None] == partners.cat).all(-1) & (drawn.num[i][:, None] == partners.num).all(-1)
        assert hits.sum() == count, "every draw is one of the partners, and no two of these are equal"
        assert chisquare(hits.sum(0).numpy(), (weights / weights.sum()).numpy() * count).pvalue > 1e-4


def test_probabilities_of_equal_partners_add_up(split: Any, transform: TableTransform) -> None:
    factuals, partners = split
    twice = pd.concat([partners, partners.iloc[:30], partners.iloc[:10]])
    pairs = supervise((factuals, twice), transform)
    at, cost_weight = torch.arange(len(pairs)), torch.full((len(pairs),), 4.0)
    weights = torch.zeros(len(pairs), len(twice)).scatter(
        1, pairs.index.long(), pairs.log_weights(at, cost_weight).exp()
    )
    once = (
        weights[:, :90]
        + torch.nn.functional.pad(weights[:, 90:120], (0, 60))
        + torch.nn.functional.pad(weights[:, 120:], (0, 80))
    )
    for m in (0, 15, 60):
        same = transform.encode(partners.iloc[[m] * len(pairs)])
        torch.testing.assert_close(pairs.log_prob(at, same, cost_weight).exp(), once[:, m])
    strangers = transform.encode(factuals)
    assert (pairs.log_prob(at, strangers, cost_weight) == -torch.inf).all()


def test_log_prob_is_minus_infinity_beyond_the_nearest(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, top_k=5)
    farthest = torch.from_numpy(raw_costs(*split, transform.schema).argmax(1))
    assert (
        pairs.log_prob(torch.arange(len(pairs)), pairs.partners.take(farthest), torch.ones(len(pairs))) == -torch.inf
    ).all()


def test_nearest_is_the_cheapest(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, top_k=3)
    cheapest = raw_costs(*split, transform.schema).min(1)
    np.testing.assert_allclose(pairs.cost(pairs.factuals, pairs.nearest()).numpy(), cheapest, atol=1e-5)


def test_other_factuals_get_the_same_law(split: Any, transform: TableTransform) -> None:
    rules = Constraints(immutable=["owner"])
    pairs = supervise(split, transform, rules, top_k=9)
    some = pairs.of(split[0].iloc[10:15])
    assert torch.equal(some.costs, pairs.costs[10:15])
    assert torch.equal(some.index, pairs.index[10:15])
    nobody = pairs.of(split[0].iloc[:0])
    assert len(nobody) == 0
    assert nobody.nearest().cat.shape == (0, len(transform.schema.tokens))


def test_cost_weights_stay_in_their_range_and_are_log_uniform(split: Any, transform: TableTransform) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = supervise(split, transform, cost_weight=(2.0, 32.0)).draw_cost_weight(4000, generator)
    assert drawn.min() >= 2.0
    assert drawn.max() <= 32.0
    octaves = drawn.log2().floor().long().clamp(1, 4).bincount(minlength=5)[1:]
    assert chisquare(octaves.numpy()).pvalue > 1e-4
    fixed = supervise(split, transform, cost_weight=5).draw_cost_weight(3, generator)
    torch.testing.assert_close(fixed, torch.full((3,), 5.0))


def test_draws_are_reproducible_and_leave_the_global_stream_alone(split: Any, transform: TableTransform) -> None:
    pairs, at = supervise(split, transform), torch.arange(20)
    before = torch.random.get_rng_state()
    one, two = (pairs.draw(at, torch.full((20,), 5.0), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.cat, two.cat)
    assert torch.equal(one.num, two.num)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(one, Rows)
    assert one.cat.shape[:2] == (20, 1)


WRONG = {
    "top_k": (0, 2.5, True),
    "block": (0, "many"),
    "gamma": (1.0, -0.1, "high"),
    "cost_weight": (0, (5.0, 2.0), (1.0,), "five", float("nan"), (1.0, float("inf")), None),
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in WRONG.items() for value in values])
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"pairs.{option}"):
        PairOptions(**{option: value})


def test_a_known_person_is_found_whatever_the_order(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    at = pairs.locate(pairs.factuals.take(order))
    for mine, theirs in zip(pairs.factuals.take(at), pairs.factuals.take(order), strict=True):
        assert torch.equal(mine, theirs)
    assert (pairs.locate(pairs.partners) == -1).all()


def test_nobody_is_found_where_nobody_has_a_partner(split: Any, transform: TableTransform) -> None:
    factuals, partners = split
    nobody = supervise((factuals.iloc[:0], partners), transform)
    assert len(nobody) == 0
    assert nobody.locate(transform.encode(factuals)).tolist() == [-1] * len(factuals)
