"""Flow and diffusion as backbones: losses, options, and constraints inside the samplers."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import NUMBER, TOKENS, random_rows
from strategies import constraints, quick, restored, tables

from backbones.denoiser import Endpoint
from backbones.descent import Descent
from backbones.diffusion import DiffusionBackbone
from backbones.endpoint import EndpointBackbone
from backbones.flow import SOURCES, FlowBackbone
from recourse_gen import Constraints, Feature, Schema
from recourse_gen.constraints import changed_cells
from recourse_gen.noise import Noise
from recourse_gen.options import effective
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

SMALL: dict[str, Any] = {"width": 8, "heads": 2, "layers": 1, "steps": 4}
MIXED = Schema((*TOKENS.features, *NUMBER.features))
WAYS: list[tuple[type[EndpointBackbone], dict[str, Any]]] = [
    *((FlowBackbone, {"source": source}) for source in SOURCES),
    (DiffusionBackbone, {}),
    (FlowBackbone, {"body": "mlp"}),
    (DiffusionBackbone, {"body": "mlp", "cost_prior": False}),
]


def build(kind: type[EndpointBackbone], schema: Schema, seed: int = 0, **options: Any) -> EndpointBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(schema, **{**SMALL, **options}).eval()  # type: ignore[call-arg]


def sample(model: EndpointBackbone, factual: Rows, count: int, **options: Any) -> Rows:
    weights = torch.full((factual.batch_size,), 5.0)
    noise = Noise.of(factual, options.pop("seed", 0))
    return model.sample(factual, num_samples=count, cost_weight=weights, noise=noise, **options)


@pytest.mark.parametrize(("kind", "options"), WAYS)
@pytest.mark.parametrize("schema", [TOKENS, NUMBER, MIXED])
def test_every_parameter_gets_a_gradient_at_once(
    kind: type[EndpointBackbone], options: dict[str, Any], schema: Schema
) -> None:
    model = build(kind, schema, **options).train()
    model(random_rows(schema, 64), random_rows(schema, 64, seed=1), torch.rand(64) * 10 + 1).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_the_loss_is_fixed_in_evaluation_and_fresh_in_training(
    kind: type[EndpointBackbone], options: dict[str, Any]
) -> None:
    model, rows, weights = build(kind, MIXED, **options), random_rows(MIXED, 20), torch.full((20,), 3.0)
    other = random_rows(MIXED, 20, seed=1)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model(rows, other, weights), model(rows, other, weights))
        assert torch.equal(torch.random.get_rng_state(), before)
        model.train()
        assert not torch.equal(model(rows, other, weights), model(rows, other, weights))


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_the_loss_of_nobody_is_empty(kind: type[EndpointBackbone], options: dict[str, Any]) -> None:
    nobody = random_rows(MIXED, 3).take(torch.zeros(0, dtype=torch.int64))
    assert build(kind, MIXED, **options)(nobody, nobody, torch.zeros(0)).shape == (0,)


class Certain(torch.nn.Module):
    """Knows the counterfactual."""

    def __init__(self, end: Rows, levels: int) -> None:
        super().__init__()
        self.end, self.levels = end, levels

    def context(self, factual: Rows, cost_weight: torch.Tensor) -> Rows:
        return factual

    def moments(self, context: Rows, signal: torch.Tensor, noise: torch.Tensor) -> list[None]:
        return [None] * len(signal)

    def forward(self, context: Rows, state: Rows, moment: None) -> Endpoint:
        sure = torch.nn.functional.one_hot(self.end.cat, self.levels).float() * 200
        return Endpoint(self.end.num, sure)


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_the_loss_is_zero_for_whoever_knows_the_counterfactual(
    kind: type[EndpointBackbone], options: dict[str, Any]
) -> None:
    model, factual, end = build(kind, MIXED, **options), random_rows(MIXED, 30), random_rows(MIXED, 30, seed=1)
    model.denoiser = Certain(model.encode(end), 4)  # type: ignore[assignment]
    assert model(factual, end, torch.ones(30)).abs().max() < 1e-6


@pytest.mark.parametrize(("kind", "options"), WAYS[:4])
def test_the_token_loss_of_a_coin_is_its_number_of_nats(kind: type[EndpointBackbone], options: dict[str, Any]) -> None:
    """A network that knows nothing of 3 independent coins: the bound is 3 ln 2 for masks, more for other sources."""
    coins = Schema(tuple(Feature(f"c{i}", "categorical", "int64", levels=(0, 1)) for i in range(3)))
    model = build(kind, coins, **options)

    class Ignorant(Certain):
        def forward(self, context: Rows, state: Rows, moment: None) -> Endpoint:
            return Endpoint(state.num, torch.zeros(len(state.cat), 3, 2))

    model.denoiser = Ignorant(coins, 2)  # type: ignore[assignment, arg-type]
    rows = random_rows(coins, 6000)
    loss = model(random_rows(coins, 6000, seed=1), rows, torch.ones(6000)).mean().item()
    if options.get("source", "mask") == "mask":
        assert loss == pytest.approx(3 * math.log(2), rel=0.01)
    else:
        assert loss > 3 * math.log(2)


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_temperature_zero_is_the_mode(kind: type[EndpointBackbone], options: dict[str, Any]) -> None:
    model, factual = build(kind, NUMBER, **options), random_rows(NUMBER, 5)
    drawn = sample(model, factual, 4, temperature=1e-30)
    assert (drawn.num - drawn.num[:, :1]).abs().max() < 1e-5
    assert sample(model, factual, 4).num.std(1).min() > 1e-3
    if not (isinstance(model, FlowBackbone) and model.source == "noise"):
        warm = sample(build(kind, MIXED, **options), random_rows(MIXED, 3), 3, temperature=1e-30)
        assert warm.num.isfinite().all()


def test_a_descent_without_curvature_is_exact() -> None:
    """dx/ds = (x − c) / s has straight solutions: x = c + s·slope; with x̂ = c + a·s it is x = c − a s ln s + b s."""
    straight = Descent(torch.tensor([5.0]))
    for s, lower in ((4.0, 1.0), (1.0, 0.5)):
        straight.step(torch.tensor([1.0]), s, lower)
    torch.testing.assert_close(straight.num, torch.tensor([1.5]))
    errors = []
    for count in (20, 40):
        curved, grid = Descent(torch.tensor([2.0])), torch.linspace(1.0, 0.2, count + 1).tolist()
        for s, lower in itertools.pairwise(grid):
            curved.step(torch.tensor([1.0 + s]), s, lower)
        errors.append(abs(curved.num.item() - (1.0 + 0.2 - 0.2 * math.log(0.2))))
    # The corrector makes the local error cubic, but for the last step, which nothing corrects.
    assert errors[1] < 0.3 * errors[0]


@quick
@given(data=st.data(), way=st.sampled_from(WAYS), table=tables(max_rows=12))
def test_constraints_hold_whatever_the_network_prefers(data: Any, way: Any, table: Any) -> None:
    rules = data.draw(constraints(table, **data.draw(st.sampled_from([{"ordered": False}, {"max_changes": False}]))))
    rows = table.transform.encode(table.frame)
    everybody = rules.compile(table.schema, table.frame, rows)
    possible = np.array([not reason for reason in everybody.reasons])
    people, feasible = table.frame[possible], everybody.take(possible)
    kind, options = way
    model = build(kind, table.schema, **options)
    drawn = sample(model, table.transform.encode(people), 5, feasible=feasible)
    before, after = people.iloc[np.arange(len(people)).repeat(5)], restored(table, people, feasible, drawn)
    if rules.ordered and any(not table.schema[name].is_token for pair in rules.ordered for name in pair):
        return  # of floats that are ordered, the search makes the last hair exact
    assert not rules.violations(before, after).any()


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_rules_that_say_nothing_change_nothing(kind: type[EndpointBackbone], options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.integers(0, 5, 40), "b": rng.choice(["x", "y", "z"], 40), "c": rng.normal(size=40)})
    schema = Schema.infer(frame, kinds={"c": "continuous"})
    rows = TableTransform(schema).fit(frame).encode(frame)
    model = build(kind, schema, **options)
    free, bound = (sample(model, rows, 6, feasible=f) for f in (None, Constraints().compile(schema, frame, rows)))
    assert torch.equal(free.cat, bound.cat)
    torch.testing.assert_close(free.num, bound.num, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_the_budget_of_changes_is_used_and_shared_between_columns(
    kind: type[EndpointBackbone], options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 9, 60) for name in "abcd"} | {"e": rng.normal(size=60)})
    schema = Schema.infer(frame, kinds={"e": "continuous"})
    transform = TableTransform(schema).fit(frame)
    rows, rules = transform.encode(frame), Constraints(max_changes=2)
    model = build(kind, schema, **options, **({} if "cost_prior" in options else {"cost_prior": False}))
    drawn = sample(model, rows, 20, feasible=rules.compile(schema, frame, rows))
    after = transform.decode(drawn.flatten())
    same = (drawn.num == rows.num[:, None]).flatten().numpy()
    after["e"] = np.where(same, frame["e"].to_numpy().repeat(20), after["e"])
    changed = changed_cells(frame.iloc[np.arange(60).repeat(20)], after)
    assert changed.sum(1).max() == 2
    assert changed.sum(1).mean() > 1.2
    assert changed.mean(0).min() > 0.1, "every column gets its turn"


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (FlowBackbone, {"steps": 0}),
        (FlowBackbone, {"source": "nowhere"}),
        (DiffusionBackbone, {"steps": 0}),
        (DiffusionBackbone, {"sigma_min": 0.0}),
        (DiffusionBackbone, {"sigma_max": 0.001}),
        (DiffusionBackbone, {"rho": 0.0}),
        (DiffusionBackbone, {"sigma_std": -1.0}),
    ],
)
def test_a_wrong_option_is_a_sentence(kind: type[EndpointBackbone], bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        build(kind, TOKENS, **bad)


def test_noise_levels_fall_from_the_largest_to_the_smallest() -> None:
    model = DiffusionBackbone(NUMBER, **SMALL)
    sigma = model.sigma(torch.linspace(0, 1, 9))
    torch.testing.assert_close(sigma[[0, -1]], torch.tensor([0.002, 20.0]))
    assert (sigma.diff() > 0).all()
    # As a density of τ, the weight integrates to one.
    time = (torch.arange(20_000) + 0.5) / 20_000
    assert model._weight(model.sigma(time)).mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("tokens", "numbers", "due"), [(3, 0, 3), (8, 0, 6), (21, 0, 14), (12, 1, 8), (9, 1, 12), (2, 2, 12), (30, 1, 20)]
)
@pytest.mark.parametrize("kind", [FlowBackbone, DiffusionBackbone])
def test_steps_follow_the_table(kind: type[EndpointBackbone], tokens: int, numbers: int, due: int) -> None:
    codes = [Feature(f"c{i}", "categorical", "int64", levels=(0, 1)) for i in range(tokens)]
    floats = [
        Feature(f"x{i}", "continuous", "float64", bounds=(0.0, 1.0), quantiles=(0.0, 1.0)) for i in range(numbers)
    ]
    assert kind(Schema((*codes, *floats)), width=4, heads=1, layers=1).steps == due


@pytest.mark.parametrize("kind", [FlowBackbone, DiffusionBackbone])
def test_what_is_saved_says_how_many_steps_there_were(kind: type[EndpointBackbone]) -> None:
    model = kind(MIXED, width=8, heads=2, layers=1)
    assert effective(kind, {"width": 8}, model, skip=1)["steps"] == model.steps == 12
    assert effective(kind, {"steps": 4}, model, skip=1)["steps"] == 4
