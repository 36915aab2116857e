"""What a network sees in training is partly another draw of Q for the same person, and nothing else changes."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from backbones.ar import AutoregressiveBackbone
from backbones.corruption import Corruption
from backbones.diffusion import DiffusionBackbone
from backbones.flow import FlowBackbone
from recourse_gen import Constraints
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

ROWS = 4000


@pytest.fixture(scope="module")
def pairs(table: tuple[pd.DataFrame, np.ndarray], transform: TableTransform) -> PairSupervision:
    frame, granted = table
    return PairSupervision(
        frame[granted == 0],
        transform.encode(frame[granted == 1]),
        transform=transform,
        constraints=Constraints(),
        options=PairOptions(top_k=5),
    )


def corrupt(share: float, pairs: PairSupervision | None, factual: Rows, own: Rows, cost_weight: float = 5.0) -> Rows:
    corruption = Corruption(share)
    corruption.pairs = pairs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return corruption(factual, own, torch.full((factual.batch_size,), cost_weight))


def batch(pairs: PairSupervision) -> tuple[Rows, Rows]:
    """People, and counterfactuals that equal no partner in any column."""
    factual = pairs.factuals.take(torch.arange(ROWS) % len(pairs))
    return factual, Rows(factual.num * 0 - 7.0, factual.cat * 0 - 7)


def replaced(seen: Rows) -> torch.Tensor:
    return torch.cat([seen.num != -7.0, seen.cat != -7], 1)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_that_of_columns_on_average_and_differs_between_pairs(
    pairs: PairSupervision, share: float
) -> None:
    changed = replaced(corrupt(share, pairs, *batch(pairs))).float()
    assert changed.mean().item() == pytest.approx(share, abs=0.02)
    # The rate is uniform per pair: E[r (1 − r)] / D + Var[r].
    variance = (share - 4 * share**2 / 3) / changed.shape[1] + share**2 / 3
    assert changed.mean(1).var().item() == pytest.approx(variance, rel=0.1)


def test_what_is_put_in_their_place_is_one_partner_of_the_same_person(pairs: PairSupervision) -> None:
    factual, own = batch(pairs)
    seen = corrupt(0.5, pairs, factual, own)
    partners = pairs.partners.take(pairs.index[pairs.locate(factual)].long())  # (B, K, ·)
    fits = ((partners.num == seen.num[:, None]) | (seen.num == -7.0)[:, None]).all(2)
    fits &= ((partners.cat == seen.cat[:, None]) | (seen.cat == -7)[:, None]).all(2)
    assert fits.any(1).all()


def test_draws_follow_the_cost_weight_of_the_pair(pairs: PairSupervision) -> None:
    factual, own = batch(pairs)
    nearest = pairs.partners.take(pairs.index[pairs.locate(factual), 0].long())
    seen = corrupt(0.5, pairs, factual, own, cost_weight=1e6)
    changed = replaced(seen)
    same = torch.cat([seen.num == nearest.num, seen.cat == nearest.cat], 1)
    assert same[changed].float().mean() > 0.95  # all but ties


def test_without_a_share_pairs_or_acquaintance_nothing_changes(pairs: PairSupervision) -> None:
    factual, own = batch(pairs)
    strangers = Rows(factual.num + 0.123, factual.cat)
    assert not replaced(corrupt(0.0, pairs, factual, own)).any()
    assert not replaced(corrupt(0.5, None, factual, own)).any()
    assert not replaced(corrupt(0.5, pairs, strangers, own)).any()


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_wrong_share_is_a_sentence(share: float) -> None:
    with pytest.raises(ValueError, match=r"corruption must be from 0 to 0\.5, got"):
        Corruption(share)


@pytest.mark.parametrize("backbone", [AutoregressiveBackbone, FlowBackbone, DiffusionBackbone])
def test_only_training_is_corrupted_and_copies_share_the_rows(pairs: PairSupervision, backbone: Any) -> None:
    """Every λ is so small that another partner is drawn; evaluation repeats the loss of the pair itself."""
    losses: dict[float, list[torch.Tensor]] = {}
    factual = pairs.factuals
    cost_weight = torch.full((len(pairs),), 0.01)
    own = pairs.draw(torch.arange(len(pairs)), cost_weight, torch.Generator().manual_seed(0)).flatten()
    for share in (0.0, 0.5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = backbone(pairs.transform.schema, width=16, corruption=share)
        model.observe(pairs)
        twin = copy.deepcopy(model)
        assert twin.corruption.pairs is pairs
        assert not any("corruption" in name for name in model.state_dict())
        for one in (model.eval(), twin.train()):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                losses.setdefault(share, []).append(one(factual, own, cost_weight))
    assert torch.equal(losses[0.0][0], losses[0.5][0])
    assert not torch.allclose(losses[0.0][1], losses[0.5][1])
