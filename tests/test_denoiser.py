"""The network of the endpoint backbones, and the scores that numbers have inside it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from networks import TOKENS, random_rows
from torch import Tensor

from backbones.denoiser import BODIES, Context, Denoiser, Endpoint
from backbones.scores import NormalScores
from recourse_gen import Feature, Schema
from recourse_gen.rows import Rows

SMALL: dict[str, Any] = {
    "width": 8,
    "heads": 2,
    "layers": 2,
    "body": "transformer",
    "expansion": 3,
    "cost_prior": True,
}


def number(name: str, quantiles: np.ndarray, bounds: tuple[float, float] = (0.0, 10.0)) -> Feature:
    return Feature(name, "continuous", "float64", bounds=bounds, quantiles=tuple(map(float, quantiles)))


LEVELS = np.linspace(0, 1, 65)
SKEWED = number("skewed", LEVELS**3 * 10)
ATOM = number("atom", np.maximum(0, LEVELS - 0.5) * 20)  # half of the rows are 0
MIDDLE = number("middle", np.sort(np.r_[np.full(20, 4.0), np.linspace(0, 10, 45)]))
COLUMNS = Schema((SKEWED, ATOM, MIDDLE))


def build(schema: Schema, **options: Any) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(schema, **{**SMALL, **options}).eval()


def column(values: Tensor) -> Tensor:
    return values[:, None].expand(-1, 3).float()


def test_scores_and_values_are_inverse() -> None:
    scores = NormalScores(COLUMNS)
    values = column(torch.linspace(-0.5, 1.5, 997))  # beyond the training range too
    torch.testing.assert_close(scores.inverse(scores(values)), values, atol=1e-5, rtol=0)


def test_scores_are_monotone_and_quantiles_have_normal_ones() -> None:
    scores = NormalScores(COLUMNS)
    grid = column(torch.linspace(-0.5, 1.5, 4001))
    assert (scores(grid).diff(dim=0) >= -1e-6).all()
    assert (scores.inverse(column(torch.linspace(-5, 5, 4001))).diff(dim=0) >= 0).all()
    quartiles = torch.tensor([[0.25**3], [0.5**3], [0.75**3]]).expand(-1, 3)
    torch.testing.assert_close(scores(quartiles)[:, 0], torch.tensor([-0.67449, 0.0, 0.67449]), atol=1e-4, rtol=0)


def test_a_point_mass_owns_an_interval_of_scores() -> None:
    scores = NormalScores(COLUMNS)
    low, high = scores.range
    below_median = torch.linspace(float(low[1]), 0.0, 101)
    assert (scores.inverse(column(below_median))[:, 1] == 0.0).all()
    assert (scores.inverse(column(torch.full((1,), 0.1)))[:, 1] > 0.0).all()
    # The middle of its probability: half of the rows, so the quartile.
    assert scores(torch.zeros(1, 3))[0, 1].item() == pytest.approx(-0.67449, abs=1e-4)
    inside = scores(torch.full((1, 3), 0.4))[0, 2]
    near = column(inside + torch.linspace(-0.2, 0.2, 11))
    assert (scores.inverse(near)[:, 2] == torch.tensor(0.4)).all()
    assert (high > 2).all()


def ask(model: Denoiser, context: Context, state: Rows, signal: Tensor, noise: Tensor) -> Endpoint:
    (moment,) = model.moments(context, signal[None], noise[None])
    return model(context, state, moment)


def state(schema: Schema, rows: int, seed: int = 3) -> tuple[Rows, Rows, Tensor]:
    return random_rows(schema, rows, seed), random_rows(schema, rows, seed + 1), torch.full((rows,), 4.0)


MIXED = Schema((*TOKENS.features, SKEWED))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("schema", [TOKENS, COLUMNS, MIXED, Schema((SKEWED,)), Schema(TOKENS.features[:1])])
def test_endpoints_have_the_shape_of_the_schema(schema: Schema, body: str) -> None:
    model = build(schema, body=body)
    factual, noisy, weight = state(schema, 5)
    rest = torch.full((5, 1), 0.3)
    end = ask(model, model.context(factual, weight), noisy, 1 - rest, rest)
    assert end.num.shape == factual.num.shape
    sizes = [len(feature.levels) for feature in schema.tokens]
    assert end.logits.shape == (5, len(sizes), max(sizes, default=1))
    for c, size in enumerate(sizes):
        assert end.logits[:, c, :size].isfinite().all()
        assert (end.logits[:, c, size:] == -math.inf).all()


def test_without_noise_the_state_is_the_endpoint_and_with_noise_alone_it_says_nothing() -> None:
    """c_skip is 1 and c_out 0 at σ = 0; the other way round for σ → ∞ (EDM, table 1)."""
    model = build(COLUMNS)
    factual, noisy, weight = state(COLUMNS, 6)
    context, one, none = model.context(factual, weight), torch.ones(1, 1), torch.zeros(1, 1)
    torch.testing.assert_close(ask(model, context, noisy, one, none).num, noisy.num)
    far = ask(model, context, noisy, none, one).num
    with torch.no_grad():
        model.numbers.weight.zero_()  # type: ignore[union-attr]
        model.numbers.bias.zero_()  # type: ignore[union-attr]
    assert far.isfinite().all()
    assert (ask(model, context, noisy, none, one).num == 0).all()


def test_only_the_ratio_of_noise_to_signal_matters() -> None:
    """So a flow at time t and a diffusion at σ = (1 − t) / t ask the same question."""
    model = build(MIXED)
    factual, noisy, weight = state(MIXED, 6)
    context, t = model.context(factual, weight), torch.full((1, 1), 0.3)
    flow = ask(model, context, Rows(noisy.num * t, noisy.cat), t, 1 - t)
    diffusion = ask(model, context, noisy, torch.ones(1, 1), (1 - t) / t)
    torch.testing.assert_close(flow.num, diffusion.num)
    torch.testing.assert_close(flow.logits, diffusion.logits)


def test_the_context_is_computed_row_by_row() -> None:
    model = build(MIXED)
    factual, noisy, weight = state(MIXED, 4)
    rest = torch.full((1, 1), 0.4)
    twice = Rows(noisy.num.repeat_interleave(3, 0), noisy.cat.repeat_interleave(3, 0))
    shared = ask(model, model.context(factual, weight), twice, 1 - rest, rest)
    alone = ask(model, model.context(factual.repeat(3), weight.repeat_interleave(3)), twice, 1 - rest, rest)
    for ours, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_cost_prior_is_the_factor_of_q() -> None:
    """Where the network itself says nothing, odds between levels are exp(−λ·difference in cost)."""
    model = build(TOKENS)
    with torch.no_grad():
        for parameter in model.tokens.head.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    factual = Rows(torch.zeros(1, 0), torch.tensor([[1, 2, 0]]))
    rest = torch.ones(1, 1)
    logits = ask(model, model.context(factual, torch.tensor([3.0])), factual, 1 - rest, rest).logits[0]
    job = torch.tensor([math.exp(-3.0), 1.0, math.exp(-3.0)])
    torch.testing.assert_close(logits[0, :3].softmax(0), job / job.sum())
    count = torch.exp(-3.0 * (torch.tensor([0.0, 1, 3, 7]) - 3).abs() / 7)
    torch.testing.assert_close(logits[1].softmax(0), count / count.sum())
    owner = torch.tensor([1.0, math.exp(-6.0)])  # weight 2
    torch.testing.assert_close(logits[2, :2].softmax(0), owner / owner.sum())


@pytest.mark.parametrize("bad", [{"width": 0}, {"width": 9}, {"heads": 0}, {"layers": 0}, {"body": "convolution"}])
def test_a_wrong_option_is_a_sentence(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        build(TOKENS, **bad)
