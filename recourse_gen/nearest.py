"""Q over the K nearest admissible partners of each factual, kept as a table of costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from recourse_gen.cost import smallest
from recourse_gen.feasible import Feasible
from recourse_gen.matching import Matching

SPAN = 2**17  # partners that a block of factuals is compared with at a time
RULES = 2**23  # bytes of rules that are compiled at a time
_NUMBER = 33  # bytes of rules for the numbers of a column


class Finder(Protocol):
    """The nearest partners among some that are fixed when it is built."""

    def __call__(self, at: Tensor, rules: Feasible) -> tuple[Tensor, Tensor]:
        """Of factuals at `at` ``(b,)``, under their rules: costs ``(b, k)``, ascending, inf where not admissible, and
        int64 positions of partners."""


class Exhaustive:
    """Compares with every partner at `pool` ``(m,)``, int64 on the device; k is at most m."""

    def __init__(self, match: Matching, pool: Tensor, k: int) -> None:
        self.match, self.k = match, min(k, len(pool))
        self.parts = [(part, match.cost.targets(match.partners.take(part))) for part in pool.split(SPAN)]

    def __call__(self, at: Tensor, rules: Feasible) -> tuple[Tensor, Tensor]:
        found, rules = [], rules.to(self.match.device)
        for pool, targets in self.parts:
            costs, place = smallest(self.match.block(at, rules, pool, targets), self.k)
            found.append((costs, pool[place]))
        if len(found) == 1:
            return found[0]
        costs, index = (torch.cat(each, 1) for each in zip(*found, strict=True))
        costs, place = smallest(costs, self.k)
        return costs, index.gather(1, place)


class Nearest:
    """costs: float32 ``(F, K)``, ascending, inf beyond the admissible ones. index: int32 ``(F, K)`` of partners."""

    def __init__(self, costs: Tensor, index: Tensor) -> None:
        self.costs, self.index = costs, index

    @classmethod
    def search(
        cls, match: Matching, k: int, block: int, finder: Callable[[Matching, Tensor, int], Finder] = Exhaustive
    ) -> Nearest:
        """Of every factual. block: factuals at a time."""
        levels = [len(feature.levels) for feature in match.transform.schema.tokens]
        each = len(levels) * max(levels, default=0) + _NUMBER * len(match.transform.schema.features)
        many = max(block, RULES // each)
        people, k = match.factuals.batch_size, max(1, min(k, match.partners.batch_size))
        costs = torch.full((people, k), math.inf, device=match.device, dtype=torch.float32)
        index = torch.zeros(people, k, dtype=torch.int32, device=match.device)
        for group, pool in match.groups():
            find = finder(match, pool.to(match.device), k)
            for some in group.split(many):
                rules = match.rules(some)
                for part in torch.arange(len(some)).split(block):
                    found, place = find(some[part], rules.take(part.numpy()))
                    here, width = some[part].to(match.device), found.shape[1]
                    costs[here, :width] = found
                    index[here, :width] = place.int()
        return cls(costs, index)

    @property
    def has_partner(self) -> Tensor:
        return self.costs[:, 0].isfinite()

    def take(self, keep: Tensor) -> Nearest:
        return Nearest(self.costs[keep], self.index[keep])

    def log_weights(self, at: Tensor, cost_weight: Tensor) -> Tensor:
        """log Q of each of the K partners, ``(B, K)``, for factuals `at` ``(B,)`` under λ ``(B,)``."""
        return torch.log_softmax(-cost_weight[:, None] * self.costs[at], 1)

    def draw(self, at: Tensor, cost_weight: Tensor, generator: torch.Generator | None, num_samples: int) -> Tensor:
        """int64 ``(B, num_samples)``: partners drawn from Q."""
        # Rejection: partners in blocks by rank, where all first count as much as the nearest of their block. A block is
        # at most twice as large as the one before, whose partners weigh no less: so at least one draw in three holds.
        edges, first, sizes = self._blocks
        nearest, device = self.costs[at, :1], self.costs.device
        bound = (sizes[at] * torch.exp(-cost_weight[:, None] * (first[at] - nearest))).cumsum(1)
        choice = torch.zeros(len(at) * num_samples, dtype=torch.int64, device=device)
        waiting = torch.arange(len(choice), device=device)
        while len(waiting):
            row = waiting // num_samples
            person, reach = at[row], bound[row]
            uniform = torch.rand(3, len(row), generator=generator, device=device, dtype=torch.float32)
            block = torch.searchsorted(reach, uniform[0, :, None] * reach[:, -1:], right=True)[:, 0]
            block = block.clamp_(max=bound.shape[1] - 1)  # rounding may put the last uniform past the end
            rank = edges[block] + (uniform[1] * sizes[person, block]).long()
            rank = torch.minimum(rank, edges[block + 1] - 1)
            # Beyond the admissible partners the excess is infinite, or not a number: neither holds.
            excess = self.costs[person, rank] - first[person, block]
            holds = uniform[2] < torch.exp(-cost_weight[row] * excess)
            choice[waiting[holds]] = rank[holds]
            waiting = waiting[~holds]
        return self.index[at[:, None], choice.view(len(at), num_samples)].long()

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks at which blocks of partners begin and the last one ends, int64 ``(J + 1,)``; the cost of each block's
        first partner, and how many admissible ones it has, ``(F, J)``."""
        ends = [0]
        while ends[-1] < self.costs.shape[1]:
            ends.append(min(ends[-1] + max(1, ends[-1] // 3), self.costs.shape[1]))
        edges = torch.tensor(ends, device=self.costs.device)
        admissible = self.costs.isfinite().sum(1, keepdim=True)
        sizes = torch.minimum(admissible - edges[:-1], edges[1:] - edges[:-1]).clamp_(min=0)
        return edges, self.costs[:, edges[:-1]].contiguous(), sizes
