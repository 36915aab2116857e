"""Approximate nearest partners by an inverted file (FAISS), for tables on which exact search takes too long."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recourse_gen.cost import smallest
from recourse_gen.feasible import Feasible
from recourse_gen.matching import Matching
from recourse_gen.nearest import Exhaustive, Nearest

TRAIN = 64  # partners per cell that the cells are learned from
VISITED, BESIDE = 8, 2000  # partners looked at: so many for each of the K looked for, and so many more
WORTH = 2  # times the partners looked at: groups of fewer are searched exactly
SPARE = 4  # times K are looked for where some of them may be refused
SAMPLE = 64  # factuals of which the recall is measured


class Indexed:
    """The K nearest of partners in the cells that are nearest to a factual, by the L1 distance of cost coordinates.

    Partners that the constraints refuse are dropped afterwards, so more are looked for where there are such
    constraints, and fewer than K may remain; a factual that has none left is searched for exactly. Groups of few
    partners are searched exactly, too.
    """

    def __init__(self, match: Matching, pool: Tensor, k: int) -> None:
        self.match, self.pool, self.k = match, pool, min(k, len(pool))
        self.asked = bool(match.constraints.immutable) or not match.lenient
        self.width = self.k if match.lenient else min(SPARE * k, len(pool))
        self.visited = VISITED * self.width + BESIDE
        self.index = self._build() if len(pool) >= WORTH * self.visited else None

    def _build(self) -> Any:
        faiss = library()
        there = self.match.cost.coordinates(self.match.partners.take(self.pool)).cpu().numpy()
        cells = int(4 * math.sqrt(len(there)))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlat(there.shape[1], faiss.METRIC_L1), there.shape[1], cells, faiss.METRIC_L1
        )
        index.cp.seed, index.cp.min_points_per_centroid = 0, 1
        some = np.random.default_rng(0).permutation(len(there))[: TRAIN * cells]
        index.train(there[some])
        index.add(there)
        index.nprobe = min(cells, math.ceil(self.visited * cells / len(there)))
        return index

    def __call__(self, at: Tensor, rules: Feasible) -> tuple[Tensor, Tensor]:
        if self.index is None:
            return Exhaustive(self.match, self.pool, self.k)(at, rules)
        own = self.match.cost.coordinates(self.match.factuals.take(at)).numpy()
        found = torch.from_numpy(self.index.search(own, self.width)[1]).to(self.match.device)
        choice = self.pool[found.clamp(min=0)]
        refused = found < 0
        if self.asked:
            refused |= ~self.match.admits(at, rules, choice)
        costs, place = smallest(self.match.costs(at, choice).masked_fill_(refused, math.inf), self.k)
        choice = choice.gather(1, place)
        lonely = refused.all(1)
        if lonely.any():
            alone = lonely.cpu()
            costs[lonely], choice[lonely] = Exhaustive(self.match, self.pool, self.k)(
                at[alone], rules.take(alone.numpy())
            )
        return costs, choice


def recall(match: Matching, found: Nearest, block: int) -> float:
    """Share of the K nearest admissible partners, over some factuals, that `found` holds; equal costs count alike.

    NaN if none of these factuals has a partner."""
    people, k = match.factuals.batch_size, found.costs.shape[1]
    at = torch.linspace(0, people - 1, min(people, SAMPLE)).long()
    exact = Nearest.search(match.take(at), k, block).costs
    many = exact.isfinite().sum(1)
    last = exact.gather(1, (many - 1).clamp(min=0)[:, None])
    held = (found.costs[at.to(match.device)] <= last + 1e-5).sum(1).minimum(many)
    return (held.sum() / many.sum()).item()


def library() -> Any:
    """FAISS. Raises ValueError, with what to install, where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError("pairs.method=index needs faiss: pip install 'recourse-gen[scale]'") from error
    faiss.omp_set_num_threads(torch.get_num_threads())  # of FAISS alone, which would else take every core
    return faiss
