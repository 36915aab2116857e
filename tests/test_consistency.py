"""The consistency claim: on a table whose Q can be written down, the trained backbone draws from Q.

Measured by the energy distance 2 E c(X, Y) − E c(X, X′) − E c(Y, Y′), c the recourse cost, averaged over factuals. The
25 possible rows are few enough to write Q as a vector, so its part is exact and only the backbone's draws are sampled,
in the unbiased form (pairs of different draws), under which two draws of Q are at distance zero on average.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows

SIZE, DRAWS = 5, 2000


def table() -> tuple[pd.DataFrame, np.ndarray]:
    """Two counts, 0 to 4 each; approved where their sum is large, more of them where they differ."""
    rng = np.random.default_rng(0)
    weight = np.array([1.0 + 3.0 * abs(a - b) for a, b in itertools.product(range(SIZE), repeat=2)])
    cells = rng.choice(SIZE**2, 1500, p=weight / weight.sum())
    frame = pd.DataFrame({"a": cells // SIZE, "b": cells % SIZE})
    return frame, (frame["a"] + frame["b"] >= 5).to_numpy().astype(int)


def approval(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["a"] + frame["b"] >= 5, 0.9, 0.1)


CELLS = np.array(list(itertools.product(range(SIZE), repeat=2)))
COST = np.abs(CELLS[:, None] - CELLS[None]).sum(2) / (SIZE - 1)


def law(frame: pd.DataFrame, granted: np.ndarray, factual: int, cost_weight: float) -> np.ndarray:
    """Q over the 25 cells, from its definition: the number of partners in a cell times exp(−λ·C)."""
    partners = np.bincount((frame["a"] * SIZE + frame["b"])[granted == 1], minlength=SIZE**2)
    q = partners * np.exp(-cost_weight * COST[factual])
    return q / q.sum()


def energy_distance(draws: np.ndarray, q: np.ndarray) -> float:
    """Between the law behind `draws` (counts per cell) and the law q."""
    n = draws.sum()
    # Equal draws are at distance zero, so leaving out each draw's pair with itself only changes the number of pairs.
    within = draws @ COST @ draws / (n * (n - 1))
    return float(2 * draws @ COST @ q / n - within - q @ COST @ q)


def test_the_distance_is_zero_for_draws_of_the_law_itself() -> None:
    rng, (frame, granted) = np.random.default_rng(1), table()
    q = law(frame, granted, 0, 4.0)
    distances = [energy_distance(rng.multinomial(DRAWS, q), q) for _ in range(400)]
    assert abs(np.mean(distances)) < 4 * np.std(distances) / np.sqrt(400)
    assert energy_distance(rng.multinomial(DRAWS, np.full(25, 0.04)), q) > 100 * np.std(distances)


@pytest.mark.slow
@pytest.mark.parametrize("cross_attention", [False, True])
def test_the_trained_backbone_draws_from_q(cross_attention: bool) -> None:
    frame, granted = table()
    generator = RecourseGenerator(
        "ar",
        backbone_options={"width": 32, "heads": 2, "encoder_layers": 1, "cross_attention": cross_attention},
        pairs={"top_k": len(frame)},
        training={"steps": 400, "minutes": 5.0, "batch_size": 256, "learning_rate": 5e-3},
        audit={"n_estimators": 5, "n_jobs": 1},
    )
    with pytest.warns(UserWarning, match="fewer than"):
        generator.fit(frame, granted, classifier=approval, constraints=Constraints())
    model, pairs = generator.model, generator.pairs
    assert model is not None
    assert pairs is not None
    factuals = np.flatnonzero(CELLS.sum(1) < 5)
    rows = Rows(torch.zeros(len(factuals), 0), torch.from_numpy(CELLS[factuals])).to(pairs.device)
    uniform = np.bincount((frame["a"] * SIZE + frame["b"])[granted == 1], minlength=SIZE**2).astype(float)
    for cost_weight in (2.0, 6.0, 15.0):
        noise = Noise.of(rows, 1)
        drawn = model.sample(
            rows, num_samples=DRAWS, cost_weight=rows.num.new_full((len(rows.cat),), cost_weight), noise=noise
        )
        codes = (drawn.cat[..., 0] * SIZE + drawn.cat[..., 1]).cpu().numpy()
        ours, baseline = [], []
        for factual, draws in zip(factuals, codes, strict=True):
            q = law(frame, granted, factual, cost_weight)
            ours.append(energy_distance(np.bincount(draws, minlength=SIZE**2), q))
            # As many draws as would make it exact: the baseline is a known law too.
            share = uniform / uniform.sum()
            baseline.append(2 * share @ COST @ q - share @ COST @ share - q @ COST @ q)
        assert np.mean(ours) <= 0.05 * np.mean(baseline), (cost_weight, np.mean(ours), np.mean(baseline))


def test_the_supervision_is_the_law_that_was_written_down() -> None:
    frame, granted = table()
    generator = RecourseGenerator(
        "ar",
        backbone_options={"width": 8, "heads": 1, "encoder_layers": 1, "decoder_layers": 1},
        pairs={"top_k": len(frame)},
        training={"steps": 1, "batch_size": 8, "validation_pairs": 8},
        audit={"n_estimators": 1, "n_jobs": 1},
    )
    with pytest.warns(UserWarning, match="fewer than"):
        pairs = generator.fit(frame, granted, classifier=approval).pairs
    assert pairs is not None
    person = int((pairs.factuals.cat.cpu() == torch.tensor([1, 2])).all(1).nonzero()[0])
    cells = Rows(torch.zeros(SIZE**2, 0), torch.from_numpy(CELLS)).to(pairs.device)
    at, weight = (torch.full((SIZE**2,), value, device=pairs.device) for value in (person, 3.0))
    q = pairs.log_prob(at, cells, weight).exp()
    np.testing.assert_allclose(q.cpu().numpy(), law(frame, granted, 1 * SIZE + 2, 3.0), atol=1e-5)
