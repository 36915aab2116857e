"""The generators without a network answer with admissible training rows, and `exact` does so by the law Q itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import MAKERS, NUMBERS, STEPS, constraints, quick, restored, tables

from backbones import exact
from backbones.exact import ExactBackbone, NearestBackbone, PartnerBackbone
from recourse_gen import Constraints, RecourseGenerator, Schema
from recourse_gen.noise import Noise
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

Table = tuple[pd.DataFrame, np.ndarray]
RULES = Constraints(immutable=["owner"], monotone={"age": "increase"}, ranges={"income": (None, 70.0)})
BOTH = (ExactBackbone, NearestBackbone)


@pytest.fixture(scope="module")
def split(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turned-down people, and favoured ones of whom some are there twice or three times."""
    frame, granted = table
    partners = frame[granted == 1].iloc[:90]
    return frame[granted == 0].iloc[:40], pd.concat([partners, partners.iloc[:30], partners.iloc[10:20]])


def supervise(split: Any, transform: TableTransform, rules: Constraints = RULES, top_k: int = 60) -> PairSupervision:
    factuals, partners = split
    options = PairOptions(top_k=top_k)
    return PairSupervision(
        factuals, transform.encode(partners), transform=transform, constraints=rules, options=options
    )


def observed(cls: type[PartnerBackbone], pairs: PairSupervision) -> Any:
    model = cls(pairs.transform.schema)
    model.observe(pairs)
    return model.eval()


def draw(model: Any, rows: Rows, count: int, cost_weight: float = 5.0, first: int = 0, **options: Any) -> Rows:
    noise = Noise.of(rows, options.pop("seed", 0), first_sample=first)
    weights = torch.full((rows.batch_size,), cost_weight)
    return model.sample(rows, num_samples=count, cost_weight=weights, noise=noise, **options)


def same(a: Rows, b: Rows) -> bool:
    return torch.equal(a.num, b.num) and torch.equal(a.cat, b.cat)


@pytest.mark.parametrize(("cost_weight", "temperature"), [(2.0, 1.0), (8.0, 1.0), (8.0, 2.0)])
def test_draws_follow_q(split: Any, transform: TableTransform, cost_weight: float, temperature: float) -> None:
    """Of one person, against the weights of the supervision under λ / temperature."""
    count = 20_000
    pairs = supervise(split, transform)
    kept = np.flatnonzero(pairs.has_partner.numpy())
    feasible = RULES.compile(transform.schema, split[0].iloc[kept], pairs.factuals)
    model = observed(ExactBackbone, pairs)
    for at in (0, 7, 20):
        one = pairs.factuals.take(torch.tensor([at]))
        options: dict[str, Any] = {"feasible": feasible.take(np.array([at])), "temperature": temperature}
        drawn = draw(model, one, count, cost_weight, **options)
        partners = pairs.partners.take(pairs.index[at].long())
        cells, row = torch.unique(torch.cat([partners.num, partners.cat], 1), dim=0, return_inverse=True)
        weights = pairs.log_weights(torch.tensor([at]), torch.tensor([cost_weight / temperature]))[0].double().exp()
        law = torch.zeros(len(cells), dtype=torch.float64).scatter_add(0, row, weights)
        hits = (torch.cat([drawn.num[0], drawn.cat[0]], 1)[:, None] == cells).all(-1)
        assert (hits.sum(1) == 1).all(), "every draw is one of the partners"
        # Rare rows are lumped together, or the statistic would not follow its distribution.
        law, rare = law / law.sum(), law / law.sum() * count < 5
        expected = np.append(law[~rare].numpy(), law[rare].sum()) * count
        seen = np.append(hits.sum(0)[~rare].numpy(), hits.sum(0)[rare].sum())
        assert chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-4
        assert seen[expected == 0].sum() == 0


def test_log_prob_is_that_of_the_supervision(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform)
    people = split[0].iloc[np.flatnonzero(pairs.has_partner.numpy())]
    feasible = RULES.compile(transform.schema, people, pairs.factuals)
    model, at = observed(ExactBackbone, pairs), torch.arange(len(pairs))
    cost_weight = torch.linspace(1.0, 15.0, len(pairs))
    for rank in (0, 3, 40):
        rows = pairs.partners.take(pairs.index[:, rank].long())
        ours = model.log_prob(pairs.factuals, rows, cost_weight, feasible=feasible)
        torch.testing.assert_close(ours, pairs.log_prob(at, rows, cost_weight), atol=1e-4, rtol=0)
        assert ours.isfinite().any()
    assert (model.log_prob(pairs.factuals, pairs.factuals, cost_weight) == -torch.inf).all(), "no partner is denied"


def test_without_constraints_log_prob_sums_to_one(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, Constraints(), top_k=1000)
    distinct = observed(NearestBackbone, pairs).partners
    one = pairs.factuals.take(torch.tensor([5])).repeat(distinct.batch_size)
    total = observed(ExactBackbone, pairs).log_prob(one, distinct, torch.full((distinct.batch_size,), 6.0)).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-5)


def test_temperature_divides_the_cost_weight(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform)
    model = observed(ExactBackbone, pairs)
    assert same(draw(model, pairs.factuals, 40, 10.0), draw(model, pairs.factuals, 40, 5.0, temperature=0.5))
    coldest = draw(model, pairs.factuals, 3, 5.0, temperature=1e-300)
    cost = model.cost(pairs.factuals, coldest)
    torch.testing.assert_close(cost, model.nearest(pairs.factuals, None)[0][:, :1].float().expand(-1, 3))


def test_nearest_ranks_the_distinct_admissible_partners(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform, top_k=1000)
    rows = transform.encode(split[0])
    feasible = RULES.compile(transform.schema, split[0], rows)
    model = observed(NearestBackbone, pairs)
    assert model.partners.batch_size == 90
    drawn = draw(model, rows, 100, feasible=feasible)
    admitted = feasible.admits(transform.schema, rows, model.partners)
    costs = model.cost.pairwise(rows, model.partners).masked_fill(~admitted, torch.inf)
    assert 0 < costs.isfinite().sum(1).min() < 90
    for i, cost in enumerate(costs):
        ranked = cost[cost.isfinite()].sort().values
        found = model.cost(rows, drawn)[i]
        torch.testing.assert_close(found[: len(ranked)], ranked)
        last = Rows(drawn.num[i, len(ranked) - 1 :], drawn.cat[i, len(ranked) - 1 :])
        assert (last.num == last.num[0]).all() and (last.cat == last.cat[0]).all(), "the last one is repeated"
        cells = torch.cat([drawn.num[i], drawn.cat[i]], 1)[: len(ranked)]
        assert len(torch.unique(cells, dim=0)) == len(ranked), "no row comes twice before"


def test_nearest_is_the_limit_of_exact(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform)
    limit = draw(observed(ExactBackbone, pairs), pairs.factuals, 20, 1e6)
    first = draw(observed(NearestBackbone, pairs), pairs.factuals, 1)
    cost = pairs.cost(pairs.factuals, first)
    torch.testing.assert_close(pairs.cost(pairs.factuals, limit), cost.expand(-1, 20))


@pytest.mark.parametrize("cls", BOTH)
def test_an_answer_depends_on_the_row_and_the_sample_alone(
    cls: type[PartnerBackbone], split: Any, transform: TableTransform, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = supervise(split, transform)
    model, rows = observed(cls, pairs), pairs.factuals
    drawn = draw(model, rows, 20)
    at = torch.tensor([7, 2, 7])
    assert same(draw(model, rows.take(at), 20), drawn.take(at))
    later = draw(model, rows, 12, first=8)
    assert same(later, Rows(drawn.num[:, 8:], drawn.cat[:, 8:]))
    sizes, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b, **kw: sizes.append(len(a) * len(b)) or cdist(a, b, **kw))
    monkeypatch.setattr(exact, "CELLS", 1000)
    assert same(draw(model, rows, 20), drawn)
    assert len(sizes) > 1
    assert max(sizes) <= 1000


@pytest.mark.parametrize("cls", BOTH)
def test_weights_that_are_not_whole_make_no_difference_between_one_and_many(cls: type[PartnerBackbone]) -> None:
    rng = np.random.default_rng(0)
    names = list("abcdefghij")
    frame = pd.DataFrame(rng.choice(list("wxyz"), (1200, len(names))), columns=names)
    weights = dict(zip(names, (0.1, 0.3, 0.7, 1.3, 0.9, 2.1, 0.45, 1.7, 0.33, 0.61), strict=True))
    transform = TableTransform(Schema.infer(frame, weights=weights)).fit(frame)
    pairs = supervise((frame.iloc[:40], frame.iloc[40:]), transform, Constraints(), top_k=50)
    model = observed(cls, pairs)
    together = draw(model, pairs.factuals, 50, 1.0)
    for i in range(40):
        at = torch.tensor([i])
        assert same(draw(model, pairs.factuals.take(at), 50, 1.0), together.take(at))


def test_exact_depends_on_the_seed_and_nearest_does_not(split: Any, transform: TableTransform) -> None:
    pairs = supervise(split, transform)
    for cls, seeded in ((ExactBackbone, True), (NearestBackbone, False)):
        model = observed(cls, pairs)
        assert same(draw(model, pairs.factuals, 20, 2.0, seed=1), draw(model, pairs.factuals, 20, 2.0)) != seeded


@quick
@given(st.data(), st.sampled_from(BOTH))
def test_constraints_hold_exactly(data: st.DataObject, cls: type[PartnerBackbone]) -> None:
    """Whoever has an admissible partner gets admissible ones, whom only max_changes leaves none gets admissible parts
    of some, and whoever has none even so keeps the own row."""
    makers = data.draw(st.sampled_from([tuple(MAKERS), (*STEPS, *NUMBERS)]))
    case = data.draw(tables(makers, min_columns=2, min_rows=10, max_rows=20))
    rules = data.draw(constraints(case))
    rows = case.transform.encode(case.frame)
    possible = np.array([not reason for reason in rules.compile(case.schema, case.frame, rows).reasons])
    assume(possible.any())
    people = case.frame[possible]
    factual = case.transform.encode(people)
    feasible = rules.compile(case.schema, people, factual)
    model = observed(cls, supervise((people, case.frame), case.transform, Constraints(), top_k=1000))
    admitted = model._admitted(factual, feasible)
    drawn = draw(model, factual, 15, feasible=feasible)
    kept = (drawn.num == factual.num[:, None]).all(-1) & (drawn.cat == factual.cat[:, None]).all(-1)
    lonely = ~model._admitted(factual, replace(feasible, max_changes=None)).any(1)
    assert kept[lonely].all()
    if rules.ordered and rules.max_changes is not None:  # which columns one by one cannot tell
        lonely = ~admitted.any(1)
    before, after = people.iloc[np.arange(len(people)).repeat(15)], restored(case, people, feasible, drawn)
    assert not rules.violations(before, after)[~lonely.repeat_interleave(15).numpy()].any()
    each = Rows(*(part[None].expand(len(people), *part.shape) for part in (model.partners.num, model.partners.cat)))
    before = people.iloc[np.arange(len(people)).repeat(each.num.shape[1])]
    broken = rules.violations(before, restored(case, people, feasible, each)).reshape(admitted.shape)
    assert not (admitted.numpy() & broken).any()
    if not rules.ordered:  # equal numbers of two continuous columns decode to unequal ones
        raw = case.transform.decode(model.partners)
        raw = raw.iloc[np.tile(np.arange(len(raw)), len(people))].set_axis(before.index)
        for d, t, n in case.schema.places:  # the own value, however it is decoded, is no change
            part = (
                (factual.cat[:, t, None], each.cat[..., t])
                if n is None
                else (factual.num[:, n, None], each.num[..., n])
            )
            name = case.schema.names[d]
            raw[name] = raw[name].where((part[0] != part[1]).flatten().numpy(), before[name])
        fits = ~rules.violations(before, raw).reshape(admitted.shape)
        assert not (fits & ~admitted.numpy()).any(), "nothing that is allowed is left out"


def test_ordered_tokens_and_the_number_of_changes_are_exact() -> None:
    """Brute force over whole numbers, where decoding is exact, with people whose values training never held."""
    rng = np.random.default_rng(0)
    train = pd.DataFrame(rng.integers(0, 9, (60, 4)) * 2, columns=list("abcd"))
    people = pd.DataFrame(rng.integers(0, 17, (20, 4)), columns=list("abcd"))
    generator = RecourseGenerator("exact", schema={"kinds": {"d": "continuous"}}, pairs={"top_k": 60})
    with pytest.warns(UserWarning, match="fewer than"):
        generator.fit(train, classifier=lambda frame: np.where(frame["a"] > 6, 0.9, 0.1))
    model, transform = generator.model, generator.transform
    assert isinstance(model, PartnerBackbone)
    model.cpu()
    rows = transform.encode(people)
    partners = transform.decode(model.partners)
    for rules in (Constraints(ordered=[("a", "b"), ("b", "d")]), Constraints(max_changes=2)):
        feasible = rules.compile(transform.schema, people, rows)
        admitted = model._admitted(rows, feasible).numpy()
        for i in range(len(people)):
            own = people.iloc[[i] * len(partners)].reset_index(drop=True)
            stays = transform.encode(own)
            after = partners.where(
                ~pd.DataFrame(
                    np.c_[(stays.cat == model.partner_cat).numpy(), (stays.num == model.partner_num).numpy()],
                    columns=list("abcd"),
                ),
                own,
            )
            possible = not feasible.reasons[i]
            np.testing.assert_array_equal(admitted[i] & possible, ~rules.violations(own, after) & possible)
        assert 0 < admitted.sum() < admitted.size


@pytest.mark.parametrize("cls", BOTH)
def test_without_partners_there_is_a_sentence(
    cls: type[PartnerBackbone], transform: TableTransform, split: Any
) -> None:
    with pytest.raises(ValueError, match="seen no partners yet; fit or load"):
        draw(cls(transform.schema), transform.encode(split[0]), 1)


@pytest.mark.parametrize("cls", BOTH)
def test_nobody_gets_nothing(cls: type[PartnerBackbone], transform: TableTransform, split: Any) -> None:
    pairs = supervise(split, transform)
    drawn = draw(observed(cls, pairs), pairs.factuals.take(torch.arange(0)), 4)
    assert drawn.num.shape == (0, 4, len(transform.schema.numbers))
    assert drawn.cat.shape == (0, 4, len(transform.schema.tokens))
