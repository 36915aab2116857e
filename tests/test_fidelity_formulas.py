"""Every measure of fidelity against brute force, on a table whose laws are vectors over 16 cells."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from strategies import Table, quick, tables
from stubs import fit, in_place_of

from recourse_gen import RecourseGenerator, fidelity
from recourse_gen.cost import RecourseCost
from recourse_gen.rows import Rows

SIZE = 4
CELLS = np.stack(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij"), -1).reshape(-1, 2)
# With these weights no two cells cost the same from (0, 0), so which partners are the nearest is beyond doubt.
WEIGHTS = {"a": 1.0, "b": 0.37}
COST = (np.abs(CELLS[:, None] - CELLS[None]) * list(WEIGHTS.values())).sum(2) / (SIZE - 1)
PERSON = pd.DataFrame([(0, 0)], columns=["a", "b"])


def approval(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["a"] + frame["b"] >= 3, 0.9, 0.1)


@pytest.fixture(scope="module")
def grid() -> RecourseGenerator:
    """Two counts, 0 to 3 each, approved from a sum of 3; some rows more often than others."""
    rng = np.random.default_rng(0)
    cells = CELLS[rng.choice(SIZE**2, 200, p=rng.dirichlet(np.ones(SIZE**2)))]
    frame = pd.DataFrame(np.concatenate([CELLS, cells]), columns=["a", "b"])
    return fit((frame, None), approval, pairs={"top_k": 60}, schema={"weights": WEIGHTS})


def laws(generator: RecourseGenerator, cost_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Q and the uniform law over the 60 nearest partners of (0, 0), as vectors over the 16 cells, as defined."""
    assert generator.pairs is not None
    partners = generator.transform.decode(generator.pairs.partners).to_numpy() @ [SIZE, 1]
    assert len(partners) > 60
    nearest = partners[np.argsort(COST[0, partners], kind="stable")[:60]]
    q = np.bincount(nearest, np.exp(-cost_weight * COST[0, nearest]), SIZE**2)
    uniform = np.bincount(nearest, minlength=SIZE**2)
    return q / q.sum(), uniform / uniform.sum()


def test_every_measure_agrees_with_brute_force(grid: RecourseGenerator) -> None:
    codes = np.append(np.random.default_rng(1).choice(SIZE**2, 12), 0)
    n = len(codes)

    def draw(factual: Rows, **_: Any) -> Rows:
        return Rows(torch.zeros(1, n, 0), torch.from_numpy(CELLS[codes])[None]).to(factual.cat.device)

    (row,) = fidelity.measure(in_place_of(grid, draw), PERSON, cost_weights=[4.0], samples=n)
    q, uniform = laws(grid, 4.0)
    for power, skill in ((1.0, "skill"), (0.5, "joint_skill")):
        c = COST**power
        within = sum(c[codes[i], codes[j]] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        ours = 2 * np.mean([c[i] @ q for i in codes]) - within - q @ c @ q
        baseline = 2 * uniform @ c @ q - uniform @ c @ uniform - q @ c @ q
        assert row[skill] == pytest.approx(1 - ours / baseline, rel=1e-4)
        if power == 1.0:
            assert row["energy_distance"] == pytest.approx(ours, abs=1e-5)
            assert row["energy_distance_uniform"] == pytest.approx(baseline, abs=1e-5)
    same = (CELLS == 0).mean(1)
    assert row["cost"] == pytest.approx(COST[0, codes].mean(), abs=1e-6)
    assert row["cost_q"] == pytest.approx(q @ COST[0], abs=1e-6)
    assert row["unchanged"] == pytest.approx(same[codes].mean(), abs=1e-6)
    assert row["unchanged_q"] == pytest.approx(q @ same, abs=1e-6)
    assert row["off_support"] == pytest.approx(np.mean(CELLS[codes].sum(1) < 3))
    assert row["off_support"] > 0
    assert row["kl"] is None, "this backbone has no log_prob"
    assert (row["factuals"], row["samples"], row["skill_se"]) == (1, n, None)


def test_the_divergence_is_the_textbooks(grid: RecourseGenerator) -> None:
    """Against the uniform law over all 16 cells it is log 16 less Q's entropy; inf where R leaves something out."""
    assert grid.model is not None
    other = in_place_of(grid, grid.model.sample)
    other.model.log_prob = lambda factual, rows, cost_weight: torch.full_like(cost_weight, -math.log(SIZE**2))
    (row,) = fidelity.measure(other, PERSON, cost_weights=[4.0], samples=3000)
    q, _ = laws(grid, 4.0)
    assert row["kl"] == pytest.approx(math.log(SIZE**2) + (q[q > 0] * np.log(q[q > 0])).sum(), abs=5e-3)
    other.model.log_prob = lambda factual, rows, cost_weight: torch.where(rows.cat[:, 1] > 2, -math.inf, -1.0)
    (row,) = fidelity.measure(other, PERSON, cost_weights=[4.0], samples=3000)
    assert row["kl"] == math.inf


@quick
@given(tables(weighted=True))
def test_the_fast_distance_is_the_recourse_cost(case: Table) -> None:
    """Columns of two values go by another way, weights and categories of many levels included."""
    rows, cost = case.transform.encode(case.frame), RecourseCost(case.schema)
    points = cost.coordinates(rows)
    two = ((points == 0) | (points == points.amax(0))).all(0)
    for top in (torch.where(two, points.amax(0), 0.0), torch.zeros_like(points[0])):
        fast = fidelity._pairwise(points[None], points[None], top)[0]
        torch.testing.assert_close(fast, cost.pairwise(rows, rows), atol=2e-6, rtol=1e-5)
        assert (fast.diagonal() == 0).all()
