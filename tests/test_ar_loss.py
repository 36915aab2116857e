"""What the autoregressive backbone is trained with: its loss, its gradients and its options."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from networks import KNOTS, PAPER, SMALL, TOKENS, build, every_row, random_rows, sample

from backbones.ar import AutoregressiveBackbone
from recourse_gen import Feature, Schema

ROOT = Path(__file__).resolve().parents[1]


def test_the_published_configuration_builds_and_samples(table: Any) -> None:
    """Both columns of numbers and categories, no tokens of numbers, sharpened."""
    experiment = yaml.safe_load((ROOT / "configs" / "experiment" / "paper.yaml").read_text())
    schema = Schema.infer(table[0], **experiment["schema"])
    assert len(schema.numbers) == 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoregressiveBackbone(schema, **experiment["backbone"]).eval()
    assert len(model.decoder.blocks) == 16
    factual = random_rows(schema, 5)
    assert model(factual, random_rows(schema, 5, seed=1), torch.full((5,), 5.0)).isfinite().all()
    drawn = sample(model, factual, 10, temperature=experiment["generate"]["temperature"])
    grid = torch.linspace(0, 1, 50)
    income = drawn.num[..., [0]]  # the column that does not hold whole numbers
    assert (income - grid).abs().amin(-1).max() < 1e-6, "values are emitted on the grid"


@pytest.mark.parametrize("options", [SMALL, PAPER])
def test_every_parameter_gets_a_gradient(schema: Schema, options: dict[str, Any]) -> None:
    model = build(schema, **options).train()
    factual, counterfactual = random_rows(schema, 64), random_rows(schema, 64, seed=1)
    model(factual, counterfactual, torch.rand(64) * 10 + 1).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", [SMALL, PAPER])
def test_eight_rows_can_be_learned(schema: Schema, options: dict[str, Any]) -> None:
    model = build(schema, **{**options, "smoothing": 0.0}).train()
    factual, counterfactual, weight = random_rows(schema, 8), random_rows(schema, 8, seed=1), torch.full((8,), 2.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        loss = model(factual, counterfactual, weight).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_the_loss_is_the_negative_log_probability_of_tokens() -> None:
    model, rows = build(TOKENS), every_row(TOKENS)
    weights = torch.full((rows.batch_size,), 3.0)
    with torch.no_grad():
        torch.testing.assert_close(
            model(rows, rows.take(torch.arange(23, -1, -1)), weights),
            -model.log_prob(rows, rows.take(torch.arange(23, -1, -1)), weights),
        )


def test_a_blurred_target_costs_at_least_its_entropy(schema: Schema) -> None:
    model = build(schema, smoothing=0.1)
    factual, counterfactual = random_rows(schema, 50), random_rows(schema, 50, seed=1)
    codes = model.alphabet.codes(counterfactual)
    targets = model.alphabet.blurred(codes, model.alphabet.numbers(counterfactual), 0.1)
    torch.testing.assert_close(targets.sum(-1), torch.ones(50, len(schema.features)))
    entropy = torch.special.entr(targets).sum((1, 2))
    with torch.no_grad():
        loss = model(factual, counterfactual, torch.full((50,), 4.0))
    assert loss.isfinite().all()
    assert (entropy > 0).all()
    assert (loss >= entropy - 1e-3).all()


def test_with_blurred_targets_numbers_are_read_as_numbers() -> None:
    """Free vectors then tell nothing of continuous columns, whatever they are; those of tokens do."""
    number = Feature("x", "continuous", "float64", bounds=(0.0, 10.0), quantiles=KNOTS)
    schema = Schema((number, *TOKENS.features))
    rows, weight = [random_rows(schema, 20, seed=seed) for seed in range(2)], torch.full((20,), 4.0)
    for blurred in (False, True):
        model = build(schema, smoothing=0.02 * blurred)
        tables = [embedding.table for embedding in (model.embed_factual, model.embed_previous)]
        losses = []
        for columns in (slice(0), slice(0, 1), slice(1, None)):
            with torch.no_grad():
                for table in tables:
                    table.free[columns] += torch.randn(table.free[columns].shape)
                losses.append(model(*rows, weight))
        assert torch.equal(losses[0], losses[1]) is blurred
        assert not torch.equal(losses[1], losses[2])
        expected = sample(model, rows[0], 100)
        with torch.no_grad():
            tables[1].free[0] += 30 * torch.randn(tables[1].free[0].shape)
        assert torch.equal(sample(model, rows[0], 100).cat, expected.cat) is blurred


def test_a_copy_of_the_weights_is_a_copy_of_the_law(schema: Schema) -> None:
    model, other, rows = build(schema, 1), build(schema, 2), random_rows(schema, 9)
    assert not torch.equal(sample(model, rows, 5).num, sample(other, rows, 5).num)
    other.load_state_dict(model.state_dict())
    assert torch.equal(sample(model, rows, 5).num, sample(other, rows, 5).num)
    assert torch.equal(sample(model, rows, 5).cat, sample(other, rows, 5).cat)


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 15},
        {"encoder": "rnn"},
        {"heads": 0},
        {"decoder_layers": 0},
        {"bins": 1},
        {"spacing": "log"},
        {"smoothing": -1.0},
        {"smoothing": math.nan},
        {"width": 0},
    ],
)
def test_a_wrong_option_is_a_sentence(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AutoregressiveBackbone(TOKENS, **{**SMALL, **bad})
