"""Rao-Blackwell targets are the posterior of Q that enumerating the partners gives."""

import copy
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from backbones.diffusion import DiffusionBackbone
from backbones.flow import FlowBackbone
from backbones.posterior import Posterior, Target
from recourse_gen import Constraints
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

ROWS = 60


@pytest.fixture(scope="module")
def pairs(table: tuple[pd.DataFrame, np.ndarray], transform: TableTransform) -> PairSupervision:
    frame, granted = table
    return PairSupervision(
        frame[granted == 0],
        transform.encode(frame[granted == 1]),
        transform=transform,
        constraints=Constraints(monotone={"age": "increase"}),
        options=PairOptions(top_k=30),
    )


def states(pairs: PairSupervision) -> tuple[Rows, Rows, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    """People, ends, λ, what is shown, and noisy numbers x_t = a x⁺ + s ε with their coefficients."""
    stream = torch.Generator().manual_seed(0)
    at = torch.randint(len(pairs), (ROWS,), generator=stream)
    cost_weight = torch.rand(ROWS, generator=stream) * 10 + 1
    end = pairs.draw(at, cost_weight, stream).flatten()
    shown = torch.rand(end.cat.shape, generator=stream) < torch.rand(ROWS, 1, generator=stream)
    signal, noise = torch.rand(ROWS, 1, generator=stream), torch.rand(ROWS, 1, generator=stream) + 0.05
    state = signal * end.num + noise * torch.randn(end.num.shape, generator=stream)
    return pairs.factuals.take(at), end, cost_weight, shown, state, signal, noise


def test_targets_are_those_of_enumeration(pairs: PairSupervision) -> None:
    factual, end, cost_weight, shown, state, signal, noise = given = states(pairs)
    target = Posterior(pairs, pairs.partners.num).target(*given)
    at = pairs.locate(factual)
    for row in range(ROWS):
        weights, partners = [], []
        for k in range(pairs.index.shape[1]):
            if math.isinf(pairs.costs[at[row], k]):
                continue
            partner = int(pairs.index[at[row], k])
            cat, num = pairs.partners.cat[partner], pairs.partners.num[partner].double()
            agrees = bool((cat == end.cat[row])[shown[row]].all())
            gap = (state[row].double() - signal[row].double() * num).square().sum().item() / (
                2 * noise[row].item() ** 2
            )
            weights.append(agrees * math.exp(-cost_weight[row].item() * pairs.costs[at[row], k].item() - gap))
            partners.append(partner)
        law = torch.tensor(weights, dtype=torch.float64)
        law /= law.sum()
        expected = (law[:, None] * pairs.partners.num[partners].double()).sum(0)
        torch.testing.assert_close(target.num[row].double(), expected, atol=1e-3, rtol=0)
        for column in range(end.cat.shape[1]):
            levels = torch.zeros(target.levels.shape[2], dtype=torch.float64)
            levels.index_add_(0, pairs.partners.cat[partners, column], law)
            torch.testing.assert_close(target.levels[row, column].double(), levels, atol=1e-3, rtol=0)


def test_all_shown_leaves_the_end_and_nothing_shown_leaves_q(pairs: PairSupervision) -> None:
    factual, end, cost_weight, shown, state, signal, noise = states(pairs)
    posterior, nothing = Posterior(pairs, pairs.partners.num), torch.zeros_like(signal)
    told = posterior.target(factual, end, cost_weight, torch.ones_like(shown), state, signal, noise)
    assert torch.equal(told.levels.argmax(2), end.cat)
    untold = posterior.target(factual, end, cost_weight, torch.zeros_like(shown), state, nothing, noise)
    at = pairs.locate(factual)
    q = pairs.log_weights(at, cost_weight).exp()
    torch.testing.assert_close(untold.num, torch.einsum("bk,bkn->bn", q, pairs.partners.num[pairs.index[at].long()]))


def test_strangers_keep_their_own_end(pairs: PairSupervision) -> None:
    factual, end, *rest = states(pairs)
    strangers = Rows(factual.num + 0.123, factual.cat)
    target = Posterior(pairs, pairs.partners.num).target(strangers, end, *rest)
    assert torch.equal(target.num, end.num)
    assert torch.equal(target.levels.argmax(2), end.cat)
    assert torch.equal(target.levels.amax(2), torch.ones_like(target.levels[..., 0]))


def test_certain_and_uncertain_ends_are_scored_alike() -> None:
    logits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    logits[:, 1, 3] = -math.inf  # padding of a smaller alphabet
    codes = torch.tensor([[0, 1], [3, 2], [1, 0]])
    certain, one_hot = Target(logits[..., 0], codes), Target(logits[..., 0], torch.nn.functional.one_hot(codes, 4))
    torch.testing.assert_close(certain.nats(logits), one_hot.nats(logits))


@pytest.mark.parametrize("backbone", [FlowBackbone, DiffusionBackbone])
def test_the_expected_gradient_stays_and_its_noise_shrinks(pairs: PairSupervision, backbone: Any) -> None:
    """Over many draws for the same people; evaluation is not touched."""
    losses, gradients = {}, {}
    for rao_blackwell in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = backbone(pairs.transform.schema, width=16, corruption=0.0, rao_blackwell=rao_blackwell)
            model.observe(pairs)
            assert copy.deepcopy(model).posterior is model.posterior
            at, cost_weight = torch.arange(400) % 8, torch.full((400,), 3.0)
            draws = []
            for seed in range(40):
                torch.manual_seed(seed)
                end = pairs.draw(at, cost_weight).flatten()
                model.train().zero_grad()
                model(pairs.factuals.take(at), end, cost_weight).mean().backward()
                draws.append(model.denoiser.tokens.bias.grad.flatten().clone())
            losses[rao_blackwell] = model.eval()(pairs.factuals.take(at), end, cost_weight)
        gradients[rao_blackwell] = torch.stack(draws)
    assert torch.equal(losses[False], losses[True])
    plain, exact = gradients[False], gradients[True]
    standard_error = (plain.var(0) / 40 + exact.var(0) / 40).sqrt() + 1e-6
    assert (((plain.mean(0) - exact.mean(0)) / standard_error).abs() < 5).all()
    assert exact.var(0).sum() < 0.9 * plain.var(0).sum()


def test_corrupted_states_have_no_exact_posterior(pairs: PairSupervision) -> None:
    with pytest.raises(ValueError, match=r"rao_blackwell needs corruption=0, got 0\.45"):
        FlowBackbone(pairs.transform.schema, rao_blackwell=True)
