"""The published sampling procedure and the library's sampler are two programs for one law."""

import pytest
import torch
from networks import KNOTS, PAPER, TOKENS, build, every_row, fits, log_prob, random_rows, sample

from bench import reference_sampler
from recourse_gen import Feature, Schema
from recourse_gen.rows import Rows

MIXED = Schema(
    (
        Feature("x", "continuous", "float64", bounds=(0.0, 10.0), quantiles=KNOTS),
        Feature("job", "categorical", "str", levels=("a", "b", "c")),
        Feature("y", "continuous", "float64", bounds=(0.0, 10.0), quantiles=KNOTS),
    )
)


@pytest.mark.parametrize("options", [{}, PAPER], ids=["default", "paper"])
def test_tokens_follow_the_probabilities(options: dict[str, object]) -> None:
    model, rows, count = build(TOKENS, **options), every_row(TOKENS), 8000
    drawn = reference(model, rows.take(torch.tensor([5]).repeat(count)), 1).cat[:, 0]
    hits = (drawn[:, None] == rows.cat).all(-1).sum(0).double()
    assert hits.sum() == count
    assert fits(hits, log_prob(model, rows, 5, rows, 5.0).exp().double())


def test_numbers_have_the_law_of_the_cached_sampler() -> None:
    """Cells of a coarse joint histogram, drawn by both."""
    model, factual, count = build(MIXED), random_rows(MIXED, 1), 20_000
    ours = cells(sample(model, factual, count).flatten())
    theirs = cells(reference(model, factual.repeat(count), 1).flatten())
    both = ours + theirs
    busy = both >= 20
    expected = both[busy] / both[busy].sum()
    assert busy.sum() > 8
    # Two samples of one law: twice the chi-square distance to the mean of both.
    distance = ((ours[busy] - theirs[busy]) ** 2 / both[busy]).sum().item()
    degrees = len(expected) - 1
    assert distance < degrees + 4 * (2 * degrees) ** 0.5


def test_one_draw_per_candidate_and_the_same_for_the_same_seed() -> None:
    model, factual = build(MIXED), random_rows(MIXED, 4)
    first, second = reference(model, factual, 3), reference(model, factual, 3)
    assert first.num.shape == (4, 3, 2)
    assert first.cat.shape == (4, 3, 1)
    assert torch.equal(first.num, second.num)
    assert torch.equal(first.cat, second.cat)
    assert not torch.equal(first.num[:, 0], first.num[:, 1])


def reference(model: torch.nn.Module, factual: Rows, count: int) -> Rows:
    weights = torch.full((factual.batch_size,), 5.0)
    generator = torch.Generator().manual_seed(0)
    return reference_sampler.sample(model, factual, num_samples=count, cost_weight=weights, generator=generator)


def cells(rows: Rows) -> torch.Tensor:
    """How many rows fall into each cell: quarters of both numbers times the token's levels, float64 ``(48,)``."""
    quarter = (rows.num * 4).long().clamp(0, 3)
    return torch.bincount(quarter[:, 0] * 12 + quarter[:, 1] * 3 + rows.cat[:, 0], minlength=48).double()
