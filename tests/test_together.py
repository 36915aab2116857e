"""Columns that change together: all of a group or none of it, from the supervision to the answer."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline
from strategies import NUMBERS, STEPS, Table, quick, restored, tables

from backbones.diffusion import DiffusionBackbone
from backbones.exact import ExactBackbone
from backbones.flow import FlowBackbone
from recourse_gen import Constraints, RecourseGenerator, registry
from recourse_gen.constraints import changed_cells
from recourse_gen.noise import Noise
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

FRAME = pd.DataFrame(
    {
        "city": ["a", "a", "b", "c"],
        "rent": [5.0, 6.5, 8.0, 9.5],
        "rooms": [1, 2, 3, 4],
        "job": ["x", "y", "y", "x"],
    }
)
TABLE = Table(FRAME, schema := Schema.infer(FRAME, kinds={"rent": "continuous"}), TableTransform(schema).fit(FRAME))
TINY: dict[str, Any] = {"width": 8, "heads": 1}


def compiled(rules: Constraints, frame: pd.DataFrame = FRAME) -> Any:
    return rules.compile(TABLE.schema, frame, TABLE.transform.encode(frame))


def stay_and_move(feasible: Any) -> tuple[list[list[bool]], list[list[bool]]]:
    """May (city, rent, rooms, job) of the first person stay, and may they change?"""
    own = TABLE.transform.encode(FRAME)
    others = feasible.tokens & ~torch.nn.functional.one_hot(own.cat, feasible.tokens.shape[2]).bool()
    city, rooms, job = others.any(2)[0].tolist()
    rent = bool((feasible.low[0, 0] != own.num[0, 0]) | (feasible.high[0, 0] != own.num[0, 0]))
    return feasible.stay[0].tolist(), [city, rent, rooms, job]


@pytest.mark.parametrize(
    ("rules", "stay", "move"),
    [
        ({}, [1, 1, 1, 1], [1, 1, 1, 1]),
        ({"immutable": ["rent"]}, [1, 1, 1, 1], [0, 0, 0, 1]),
        ({"monotone": {"rooms": "decrease"}}, [1, 1, 1, 1], [0, 0, 0, 1]),
        ({"ranges": {"rent": (6, None)}}, [0, 0, 0, 1], [1, 1, 1, 1]),
        ({"allowed": {"city": ["b"]}, "max_changes": 3}, [0, 0, 0, 1], [1, 1, 1, 1]),
        ({"max_changes": 2}, [1, 1, 1, 1], [0, 0, 0, 1]),
        ({"ordered": [("rooms", "rent")], "ranges": {"rent": (None, 5)}}, [1, 1, 1, 1], [0, 0, 0, 1]),
    ],
)
def test_one_column_speaks_for_its_group(rules: Any, stay: list[int], move: list[int]) -> None:
    """The two groups share a column, so they are one."""
    feasible = compiled(Constraints(**rules, together=[("city", "rent"), ("rooms", "rent")]))
    assert feasible.together == [[0, 1, 2]]
    assert feasible.reasons[0] == ""
    assert stay_and_move(feasible) == ([bool(x) for x in stay], [bool(x) for x in move])


def test_a_group_that_can_neither_stay_nor_change_says_so() -> None:
    torn = Constraints(together=[("city", "rent")], immutable=["city"], ranges={"rent": (6, None)})
    reason = "'city', 'rent' change together, but one of them has to and another may not"
    assert compiled(torn).reasons == [reason, "", "", ""]
    few = Constraints(together=[("city", "rent")], ranges={"rent": (6, None)}, max_changes=1)
    assert compiled(few).reasons == ["2 columns must change, more than max_changes=1", "", "", ""]


def test_two_of_a_group_that_are_out_of_order_both_change() -> None:
    """Either could stay if the other moved alone, which the group forbids."""
    feasible = compiled(Constraints(ordered=[("rooms", "rent")], together=[("rooms", "rent")]), FRAME.assign(rooms=9))
    assert feasible.stay.tolist() == [*[[True, False, False, True]] * 3, [True] * 4]
    assert feasible.reasons == [""] * 4


def test_violations_are_groups_that_change_in_part() -> None:
    after = FRAME.assign(city=["b", "a", "c", "c"], rent=[5.5, 6.5, 8.0, 9.0])
    rules = Constraints(together=[("rent", "city")])
    assert rules.violations(FRAME, after).tolist() == [False, False, True, True]


@quick
@given(st.data(), tables(min_columns=3, max_rows=12), st.integers(0, 2**32 - 1))
def test_every_sampler_draws_whole_changes(data: Any, table: Table, seed: int) -> None:
    """Exactly, wherever a group of two and the number of changes are all that ties columns."""
    group = data.draw(st.permutations(table.schema.names))[:2]
    rules = Constraints(together=[group], max_changes=data.draw(st.sampled_from([None, 2, 3])))
    rows = table.transform.encode(table.frame)
    feasible = rules.compile(table.schema, table.frame, rows)
    for name in ("ar", "flow", "diffusion"):
        layers = {"encoder_layers": 0, "decoder_layers": 1} if name == "ar" else {"layers": 1}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 1000)
            model = registry.load(name)(table.schema, **TINY, **layers).eval()
        weight = torch.full((len(table.frame),), 0.5)
        drawn = model.sample(rows, num_samples=8, cost_weight=weight, feasible=feasible, noise=Noise.of(rows, seed))
        after = restored(table, table.frame, feasible, drawn)
        before = table.frame.iloc[np.arange(len(table.frame)).repeat(8)]
        assert not rules.violations(before, after).any(), name
        changed = changed_cells(before, after)[:, table.frame.columns.get_loc(group[0])]
        assert changed.any() or rules.max_changes, f"{name} spends too few changes on groups"


@quick
@given(tables((*STEPS, *NUMBERS), min_columns=3, max_rows=12), st.integers(0, 2**32 - 1))
def test_settle_changes_whole_groups(table: Table, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = rng.permutation(table.schema.names)[:3].tolist()
    low = float(table.frame[c].median())
    rules = Constraints(together=[(a, b)] if rng.random() < 0.5 else [(b, c)], ranges={c: (low, None)})
    everybody = rules.compile(table.schema, table.frame, table.transform.encode(table.frame))
    possible = np.array([not reason for reason in everybody.reasons])
    people, feasible = table.frame[possible], everybody.take(possible)
    rows, generator = table.transform.encode(people), torch.Generator().manual_seed(seed % 1000)
    levels = torch.tensor([len(feature.levels) for feature in table.schema.tokens])
    num = torch.rand(len(people), 6, rows.num.shape[1], generator=generator)
    cat = (torch.rand(len(people), 6, len(levels), generator=generator) * levels).long()
    keep_num, keep_cat = (torch.rand(part.shape, generator=generator) < 0.5 for part in (num, cat))
    drawn = Rows(torch.where(keep_num, rows.num[:, None], num), torch.where(keep_cat, rows.cat[:, None], cat))
    settled = feasible.settle(table.schema, rows, drawn)
    if len(people):
        before = people.iloc[np.arange(len(people)).repeat(6)]
        assert not rules.violations(before, restored(table, people, feasible, settled)).any()
    again = feasible.settle(table.schema, rows, settled)
    assert again.num.equal(settled.num) and again.cat.equal(settled.cat)


def test_partners_obey_and_those_without_one_are_told(table: Any, classifier: Pipeline) -> None:
    frame, granted = table
    schema = Schema.infer(frame, kinds={"income": "continuous", "savings": "continuous"})
    transform = TableTransform(schema).fit(frame)
    factuals, partners = frame[granted == 0].iloc[:50], frame[granted == 1]
    rules = Constraints(together=[("job", "owner"), ("late", "region")])
    pairs = PairSupervision(
        factuals,
        transform.encode(partners),
        transform=transform,
        constraints=rules,
        options=PairOptions(top_k=len(partners)),
    )
    assert pairs.has_partner.all()
    for i in range(len(factuals)):
        person = factuals.iloc[[i] * len(partners)]
        allowed = ~rules.violations(person, partners)
        assert 0 < allowed.sum() < len(partners)
        at = pairs.index[i][pairs.costs[i].isfinite()]
        np.testing.assert_array_equal(np.sort(at), np.flatnonzero(allowed))
    model = ExactBackbone(schema)
    model.observe(pairs)
    feasible = rules.compile(schema, factuals, pairs.factuals)
    ours, theirs = model.nearest(pairs.factuals, feasible)[0], pairs.costs
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)
    stuck = Constraints(together=[schema.names], immutable=["region"])
    with pytest.raises(ValueError, match="the constraints leave no turned-down training row a partner"):
        RecourseGenerator("exact").fit(frame, granted, classifier=classifier, constraints=stuck)


@pytest.mark.parametrize("kind", [FlowBackbone, DiffusionBackbone])
def test_a_budget_is_spent_on_whole_groups(kind: Any) -> None:
    """Two of three numbers change together, one change is too few for them, and two are enough."""
    frame = pd.DataFrame(np.random.default_rng(0).random((300, 3)), columns=list("abc"))
    schema = Schema.infer(frame)
    rows = TableTransform(schema).fit(frame).encode(frame)
    model = kind(schema, **TINY, layers=1).eval()
    for most, expected in ((1, {(0, 0, 0), (0, 1, 0)}), (2, {(0, 0, 0), (0, 1, 0), (1, 0, 1)})):
        feasible = Constraints(together=[("c", "a")], max_changes=most).compile(schema, frame, rows)
        noise, weight = Noise.of(rows, 0), torch.full((300,), 1.0)
        drawn = model.sample(rows, num_samples=2, cost_weight=weight, feasible=feasible, noise=noise)
        moved = (drawn.num != rows.num[:, None]).flatten(0, 1).int()
        kinds = {tuple(row) for row in moved.tolist()}
        assert kinds <= expected
        assert max(expected) in kinds


@pytest.mark.parametrize("wanted", [False, True])
def test_answers_are_whole(fitted: RecourseGenerator, denied: pd.DataFrame, wanted: bool) -> None:
    rules = Constraints(together=[("job", "late"), ("savings", "owner")])
    found = fitted.generate(
        denied.iloc[:40], constraints=rules, sparsify=wanted, candidates=16, max_candidates=64, cost_weight=5.0
    )
    frame = found.to_frame()
    assert len(frame) > 30
    before = denied.loc[frame.index.get_level_values(0)]
    assert not rules.violations(before, frame).any()
    moved = changed_cells(before, frame)[:, frame.columns.get_loc("job")]
    assert 0 < moved.sum() < len(frame)
