"""Other ways to partners than searching all of them draw from Q too, and several processes share the factuals."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from recourse_gen import Constraints, RecourseGenerator, fidelity, training
from recourse_gen.feasible import Feasible
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.pooled import Pooled
from recourse_gen.rows import Rows
from recourse_gen.share import Share
from recourse_gen.training import TrainingOptions
from recourse_gen.transform import TableTransform

Table = tuple[pd.DataFrame, np.ndarray]
RULES = Constraints(
    immutable=["owner"],
    monotone={"age": "increase"},
    ranges={"income": (40.0, 65.0)},
    allowed={"region": ["north", "south"]},
    together=[["job", "late"]],
)
EASY = Constraints(immutable=["owner", "region"])


def supervise(
    table: Table, transform: TableTransform, rules: Constraints = EASY, share: Share | None = None, **options: Any
) -> PairSupervision:
    frame, granted = table
    return PairSupervision.from_training(
        frame,
        np.where(granted, 0.9, 0.1),
        granted == 1,
        transform=transform,
        constraints=rules,
        options=PairOptions(**options),
        share=share,
    )


def places(pairs: PairSupervision, rows: Rows) -> torch.Tensor:
    """Positions of partners; no two of them are equal in these tables."""
    same = (rows.cat[..., None, :] == pairs.partners.cat).all(-1) & (rows.num[..., None, :] == pairs.partners.num).all(
        -1
    )
    assert (same.sum(-1) == 1).all()
    return same.int().argmax(-1)


@pytest.mark.parametrize("rules", [Constraints(), EASY, RULES], ids=["free", "easy", "hard"])
def test_costs_and_admission_one_by_one_are_those_of_a_block(
    table: Table, transform: TableTransform, rules: Constraints
) -> None:
    exact = supervise(table, transform, rules)
    kept = table[0][table[1] == 0][exact.has_partner.numpy()]
    feasible: Feasible = rules.compile(transform.schema, kept, exact.factuals)
    order = torch.randint(exact.partners.batch_size, (len(exact), 40), generator=torch.Generator().manual_seed(0))
    own = Rows(exact.partners.num[order], exact.partners.cat[order])
    each = feasible.admits_each(transform.schema, exact.factuals, own)
    assert torch.equal(each, feasible.admits(transform.schema, exact.factuals, exact.partners).gather(1, order))
    assert each.any()
    assert each.all() == (rules == Constraints())
    cells = exact.cost.apart(exact.cost.cells(exact.factuals)[:, None], exact.cost.cells(own))
    torch.testing.assert_close(cells, exact.cost(exact.factuals, own))


@pytest.mark.parametrize("rules", [EASY, RULES], ids=["easy", "hard"])
def test_a_pool_of_everybody_is_q(table: Table, transform: TableTransform, rules: Constraints) -> None:
    exact, pooled = (supervise(table, transform, rules, method=method) for method in ("exact", "pooled"))
    assert torch.equal(exact.has_partner, pooled.has_partner)
    at, weight, count = exact.costs.isfinite().sum(1).topk(2).indices, torch.tensor([2.0, 5.0]), 20_000
    drawn = places(pooled, pooled.draw(at, weight, torch.Generator().manual_seed(0), count))
    for i, law in enumerate(exact.log_weights(at, weight).exp().double()):
        q = torch.zeros(exact.partners.batch_size, dtype=torch.float64).index_add_(0, exact.index[at[i]].long(), law)
        hits = drawn[i].bincount(minlength=len(q)).double()
        assert hits[q == 0].sum() == 0
        assert (q > 0).sum() > 5
        due = (q * count / q.sum()).numpy()
        often = due > 5
        seen, due = ([*x[often], x[~often].sum()] for x in (hits.numpy(), due))
        assert chisquare(seen if due[-1] else seen[:-1], due if due[-1] else due[:-1]).pvalue > 1e-4


def test_the_bias_halves_with_twice_the_pool(table: Table, transform: TableTransform) -> None:
    """The law of a draw, by enumeration of its costs: λ small, so that 1/P is its order already."""
    rules, weight, count = Constraints(), 3.0, 60_000
    exact = supervise(table, transform, rules)
    person = torch.tensor([4])
    q = exact.log_weights(person, torch.tensor([weight])).exp()[0]
    due = (q * exact.costs[4]).sum().item()
    bias = []
    for size in (8, 16, 32):
        pooled = supervise(table, transform, rules, method="pooled", pool=size)
        drawn = pooled.draw(person, torch.tensor([weight]), torch.Generator().manual_seed(size), count)
        bias.append(pooled.cost(pooled.factuals.take(person), drawn).mean().item() - due)
    assert bias[0] > bias[1] > bias[2] > 0
    assert 1.5 < bias[0] / bias[1] < 3 and 1.5 < bias[1] / bias[2] < 3


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_a_pool_is_a_uniform_choice_of_distinct_partners_of_the_kind(
    table: Table, transform: TableTransform, size: int
) -> None:
    pooled = supervise(table, transform, method="pooled", pool=size)._found
    assert isinstance(pooled, Pooled)
    match, at = pooled.match, torch.full((4000,), 3)
    choice, costs = pooled._pool(at, size, torch.Generator().manual_seed(0))
    feasible = EASY.compile(transform.schema, table[0][table[1] == 0].iloc[[3]], match.factuals.take(at[:1]))
    kin = feasible.admits(transform.schema, match.factuals.take(at[:1]), match.partners)[0]
    there = costs.isfinite()
    assert (there.sum(1) == min(size, int(kin.sum()))).all()
    for row, mask in zip(choice[:50], there[:50], strict=True):
        assert len(row[mask].unique()) == mask.sum()
    hits = choice[there].bincount(minlength=len(kin))
    assert hits[~kin].sum() == 0
    assert chisquare(hits[kin].numpy()).pvalue > 1e-4


def test_rare_partners_are_found_and_drawn(table: Table, transform: TableTransform) -> None:
    exact, pooled = (supervise(table, transform, RULES, method=m, pool=2) for m in ("exact", "pooled"))
    assert torch.equal(exact.has_partner, pooled.has_partner)
    assert not exact.has_partner.all()
    at = torch.arange(len(exact))
    drawn = places(pooled, pooled.draw(at, torch.full((len(at),), 5.0), torch.Generator().manual_seed(0), 30))
    admitted = [set(index[cost.isfinite()].tolist()) for index, cost in zip(exact.index, exact.costs, strict=True)]
    assert all(set(row.tolist()) <= known for row, known in zip(drawn, admitted, strict=True))


@pytest.mark.parametrize("rules", [EASY, Constraints(immutable=["owner"], monotone={"age": "increase"})])
def test_an_index_finds_what_an_exact_search_finds(
    table: Table, transform: TableTransform, rules: Constraints, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("recourse_gen.neighbours.WORTH", 0)
    monkeypatch.setattr("recourse_gen.neighbours.BESIDE", 20)
    exact, index = (supervise(table, transform, rules, method=m, top_k=10) for m in ("exact", "index"))
    assert exact.recall is None
    assert index.recall is not None and index.recall > 0.6
    assert torch.equal(exact.has_partner, index.has_partner)
    assert (index.costs >= exact.costs - 1e-5).all()
    rows = Rows(*(part[index.index.long()] for part in index.partners))
    finite = index.costs.isfinite()
    torch.testing.assert_close(index.cost(index.factuals, rows)[finite], index.costs[finite])
    kept = table[0][table[1] == 0][index.has_partner.numpy()]
    feasible = rules.compile(transform.schema, kept, index.factuals)
    assert feasible.admits_each(transform.schema, index.factuals, rows)[finite].all()


def test_without_faiss_there_is_a_sentence(
    table: Table, transform: TableTransform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'recourse-gen\[scale\]'"):
        supervise(table, transform, method="index")


@pytest.mark.parametrize(("name", "value"), [("SPAN", 13), ("RULES", 1)])
def test_partners_in_parts_are_the_same_partners(
    table: Table, transform: TableTransform, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    whole = supervise(table, transform, RULES, top_k=9)
    monkeypatch.setattr(f"recourse_gen.nearest.{name}", value)
    parts = supervise(table, transform, RULES, top_k=9, block=7)
    torch.testing.assert_close(parts.costs, whole.costs)
    assert torch.equal(parts.has_partner, whole.has_partner)


def test_a_pool_refuses_what_needs_a_table_and_answers_for_a_few(table: Table, transform: TableTransform) -> None:
    pooled, exact = (supervise(table, transform, method=method) for method in ("pooled", "exact"))
    at, weight = torch.arange(3), torch.full((3,), 5.0)
    for ask in (
        lambda: pooled.costs,
        lambda: pooled.index,
        pooled.nearest,
        lambda: pooled.log_weights(at, weight),
        lambda: pooled.log_prob(at, pooled.partners.take(at), weight),
    ):
        with pytest.raises(ValueError, match="pairs.method=pooled keeps no table of each factual's partners"):
            ask()
    some = pooled.of(table[0][table[1] == 0].iloc[:3])
    assert torch.equal(some.costs, exact.costs[:3])
    assert pooled.locate(pooled.factuals).tolist() == list(range(len(pooled)))


@pytest.mark.parametrize("method", ["exact", "pooled", "index"])
def test_a_generator_learns_from_any_of_them(table: Table, classifier: Any, small: dict[str, Any], method: str) -> None:
    if method == "index":
        pytest.importorskip("faiss")
    generator = RecourseGenerator(**{**small, "pairs": {"method": method, "top_k": 50, "pool": 64}})
    generator.fit(*table, classifier=classifier)
    assert generator.summary["training"]["steps"] == 60
    assert ("pairs_recall" in generator.summary) == (method == "index")
    (told,) = fidelity.measure(generator, table[0].head(40), cost_weights=[5.0], samples=8)
    assert told["skill"] is not None


def test_exact_targets_of_a_path_need_a_table(table: Table, classifier: Any, small: dict[str, Any]) -> None:
    given = {**small, "backbone": "flow", "backbone_options": {"width": 16, "rao_blackwell": True, "corruption": 0.0}}
    with pytest.raises(ValueError, match="keeps no table"):
        RecourseGenerator(**{**given, "pairs": {"method": "pooled"}}).fit(*table, classifier=classifier)


@pytest.mark.parametrize("method", ["exact", "pooled"])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_factuals_and_validate_on_the_same_pairs(
    table: Table, transform: TableTransform, processes: int, method: str
) -> None:
    alone = supervise(table, transform, method=method)
    shares = [
        supervise(table, transform, share=Share(i, processes, seed=3, holdout=0.2), method=method)
        for i in range(processes)
    ]
    options = TrainingOptions(validation_pairs=64)
    batches, trained, held = [], [], []
    for pairs in shares:
        train_at, batch = training._split(pairs, options, 0)
        trained.append(set(alone.locate(pairs.factuals.take(train_at)).tolist()))
        held.append(set(alone.locate(batch[0]).tolist()))
        batches.append(batch)
    assert sum(map(len, trained)) == len(set.union(*trained)), "nobody twice"
    assert max(map(len, trained)) - min(map(len, trained)) <= 1
    assert not set.union(*trained) & set.union(*held)
    for part in ("partners", "factuals"):  # targets, and the people for validation, are the same everywhere
        mine, first = (getattr(pairs, part) for pairs in (shares[-1], shares[0]))
        alike = slice(shares[0].held) if part == "factuals" else slice(None)
        assert torch.equal(mine.num[alike], first.num[alike]) and torch.equal(mine.cat[alike], first.cat[alike])
    assert set.union(*trained) | set(alone.locate(shares[0].factuals).tolist()) == set(range(len(alone)))
    for batch in batches[1:]:
        for mine, first in zip(
            (*batch[0], *batch[1], batch[2]), (*batches[0][0], *batches[0][1], batches[0][2]), strict=True
        ):
            assert torch.equal(mine, first)


def test_one_process_has_everybody_in_order(table: Table, transform: TableTransform) -> None:
    alone, share = supervise(table, transform), supervise(table, transform, share=Share(seed=5))
    assert torch.equal(alone.index, share.index)
    assert (alone.held, share.held) == (0, 0)
    assert all(map(torch.equal, alone.factuals, share.factuals))


def test_too_few_people_for_the_processes_is_told_to_all() -> None:
    for process in range(4):
        with pytest.raises(ValueError, match="4 turned-down training rows are too few for 4 processes"):
            Share(process, 4).of(4)


@pytest.mark.parametrize("given", [{"method": "fast"}, {"pool": 0}, {"pool": 1.5}])
def test_a_wrong_option_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"pairs.{next(iter(given))}"):
        PairOptions(**given)
