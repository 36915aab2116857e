"""Blocks of candidates: the same answers whatever their size, and networks in low precision."""

import pandas as pd
import pytest
import torch

import backbones.ar
import backbones.endpoint
from recourse_gen import Constraints, Schema, registry
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

LEARNED = ("ar", "flow", "diffusion")
RULES = {
    "free": Constraints(),
    "few": Constraints(immutable=["owner"], monotone={"late": "decrease"}, max_changes=2),
    "ordered": Constraints(ordered=[("late", "savings")]),
}


def build(name: str, schema: Schema) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return registry.load(name)(schema).eval()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", LEARNED)
def test_the_size_of_a_block_changes_nothing(
    name: str, rules: str, transform: TableTransform, denied: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = denied.head(7)
    rows = transform.encode(people)
    feasible = RULES[rules].compile(transform.schema, people, rows)
    model, weight = build(name, transform.schema), torch.linspace(2, 20, len(people))

    def sample() -> Rows:
        return model.sample(rows, num_samples=5, cost_weight=weight, feasible=feasible, noise=Noise.of(rows, 3))

    whole = sample()
    for size in (1, 12):
        monkeypatch.setattr(backbones.ar, "_BLOCK", size)
        monkeypatch.setattr(backbones.endpoint, "_BLOCK", size)
        parts = sample()
        assert torch.equal(whole.cat, parts.cat)
        torch.testing.assert_close(whole.num, parts.num)


@pytest.mark.parametrize("name", LEARNED)
def test_nobody_and_nothing_asked_for(name: str, transform: TableTransform, denied: pd.DataFrame) -> None:
    model = build(name, transform.schema)
    for people, count in ((0, 3), (2, 0)):
        rows = transform.encode(denied.head(people))
        drawn = model.sample(rows, num_samples=count, cost_weight=torch.full((people,), 5.0), noise=Noise.of(rows, 0))
        assert drawn.num.shape == (people, count, rows.num.shape[1])
        assert drawn.cat.shape == (people, count, rows.cat.shape[1])


@pytest.mark.parametrize("name", LEARNED)
def test_low_precision_trains_and_samples(name: str, transform: TableTransform, denied: pd.DataFrame) -> None:
    """`accelerate launch --mixed_precision bf16` runs a network under autocast."""
    rows = transform.encode(denied.head(16))
    model, weight = build(name, transform.schema), torch.full((16,), 5.0)
    exact = model(rows, rows, weight)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(rows, rows, weight)
        rough.mean().backward()
        drawn = model.sample(rows, num_samples=3, cost_weight=weight, noise=Noise.of(rows, 0))
    assert drawn.num.isfinite().all()
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05 * exact.abs().mean().item())


@pytest.mark.parametrize("name", LEARNED)
def test_a_draw_is_an_ordinary_tensor_and_no_draw_before_it_matters(
    name: str, transform: TableTransform, denied: pd.DataFrame
) -> None:
    """What a model keeps of its weights from one draw to the next is neither of low precision nor out of date."""
    rows = transform.encode(denied.head(16))

    def sample(model: torch.nn.Module) -> Rows:
        return model.sample(rows, num_samples=20, cost_weight=torch.full((16,), 5.0), noise=Noise.of(rows, 0))

    used, other = build(name, transform.schema), build(name, transform.schema)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3)
    expected = sample(other)
    with torch.autocast("cpu", torch.bfloat16):
        sample(used)
    assert not torch.equal(sample(used).cat, expected.cat)
    used.load_state_dict(other.state_dict())
    again = sample(used)
    assert torch.equal(again.cat, expected.cat)
    torch.testing.assert_close(again.num, expected.num)
    again.num.add_(1.0)
    assert not again.num.is_inference()
    assert not again.cat.is_inference()


@pytest.mark.parametrize("name", LEARNED)
def test_a_model_made_for_inference_only_samples(name: str, transform: TableTransform, denied: pd.DataFrame) -> None:
    rows = transform.encode(denied.head(2))
    with torch.inference_mode():
        model = build(name, transform.schema)
        drawn = model.sample(rows, num_samples=3, cost_weight=torch.full((2,), 5.0), noise=Noise.of(rows, 0))
    assert drawn.cat.shape[:2] == (2, 3)
