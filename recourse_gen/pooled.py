"""Partners drawn by self-normalised weights within a random pool: no search, no table, for millions of rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from recourse_gen.matching import Matching

CELLS = 2**17  # factuals × partners that are compared at a time, so that they stay in a cache
LOOKS = (8, 128, 2048)  # random partners looked at, one pool after another, for one that a factual may become
POOLS = 8  # drawn anew, at most, while none of a pool's partners is admissible


class Pooled:
    """For every draw, P admissible-or-not partners at random among those with the factual's immutable values; one of
    the admissible ones is chosen with probability ∝ exp(−λC) (sampling importance resampling: Rubin 1987, Smith and
    Gelfand 1992).

    The law aimed at is Q over *all* M admissible partners, not over the K nearest. A draw's own law is the mean of
    self-normalised importance sampling from the uniform law, which is biased: with w = exp(−λC) and means over the M,
    E f(draw) − E_Q f ≈ −E[w² (f − E_Q f)] / (P E[w]²) (Owen, Monte Carlo theory, methods and examples, 2013, §9.2), and
    for |f| ≤ 1 at most 12 ρ / P, ρ = E[w²] / E[w]² (Agapiou et al. 2017, Importance sampling: intrinsic dimension and
    computational cost, theorem 2.1). So it halves where P doubles, and is small where P is far above ρ, which grows
    with λ; short of that, draws cost more than Q's. Where P ≥ M, the pool holds everybody and the draw is exact.
    """

    def __init__(self, match: Matching, size: int) -> None:
        self.match, self.size = (replace(match, frame=None) if match.lenient else match), size
        kind, count = match.kinds(numbers=True)
        mine, theirs = kind.split([match.factuals.batch_size, match.partners.batch_size])
        sizes = theirs.bincount(minlength=count)
        # Partners of a kind lie side by side; a factual needs to know where, and how many.
        self._order = theirs.argsort(stable=True).int().to(match.device)
        self._start, self._many = ((x[mine]).int() for x in (sizes.cumsum(0) - sizes, sizes))
        self._known = None if match.lenient else self._look()

    @property
    def has_partner(self) -> Tensor:
        """Bool ``(F,)`` on the device. With rules beyond `immutable`, some whose partners are very rare may be missed:
        those of whom no one is among the random partners that are looked at."""
        found = self._many > 0 if self._known is None else self._known >= 0
        return found.to(self.match.device)

    def take(self, keep: Tensor) -> Pooled:
        kept = object.__new__(Pooled)
        at = keep.cpu().nonzero()[:, 0]
        kept.match, kept.size, kept._order = self.match.take(at), self.size, self._order
        kept._start, kept._many = self._start[at], self._many[at]
        kept._known = None if self._known is None else self._known[at]
        return kept

    def draw(self, at: Tensor, cost_weight: Tensor, generator: torch.Generator | None, num_samples: int) -> Tensor:
        """int64 ``(B, num_samples)``: partners, each from a pool of its own."""
        person, weight = at.cpu().repeat_interleave(num_samples), cost_weight.repeat_interleave(num_samples)
        size = max(1, CELLS // self.size)
        parts = [self._draw(some, w, generator) for some, w in zip(person.split(size), weight.split(size), strict=True)]
        return torch.cat(parts).view(len(at), num_samples)

    def _draw(self, at: Tensor, cost_weight: Tensor, generator: torch.Generator | None) -> Tensor:
        if self._known is None:
            choice, costs = self._pool(at, self.size, generator)
            return self._choose(choice, costs, cost_weight, generator)
        drawn = self._known[at].long().to(self.match.device)
        waiting = torch.arange(len(at))
        for _ in range(POOLS):
            choice, costs = self._pool(at[waiting], self.size, generator)
            some = costs.isfinite().any(1)
            here = waiting.to(some.device)[some]
            drawn[here] = self._choose(choice[some], costs[some], cost_weight[here], generator)
            waiting = waiting[~some.cpu()]
            if not len(waiting):
                break
        return drawn

    @staticmethod
    def _choose(choice: Tensor, costs: Tensor, cost_weight: Tensor, generator: torch.Generator | None) -> Tensor:
        """One of each row of `choice` ``(b, P)``, by its weight; every row has a finite cost."""
        excess = costs - costs.amin(1, keepdim=True)
        reach = torch.exp(-cost_weight[:, None] * excess).double().cumsum(1)
        uniform = torch.rand(len(reach), 1, generator=generator, device=reach.device, dtype=torch.float64)
        place = torch.searchsorted(reach, uniform * reach[:, -1:], right=True)
        return choice.gather(1, place.clamp_(max=choice.shape[1] - 1))[:, 0]

    def _pool(self, at: Tensor, size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Distinct random partners of each factual's kind, int64 ``(b, P)``, and their costs, inf where they are none
        that it may become."""
        device = self.match.device
        start, many = (part[at].to(device).long()[:, None] for part in (self._start, self._many))
        # One of each of P parts as long as one another, give or take one, turned by a random angle.
        slot, parts = torch.arange(size, device=device), many.clamp(max=size)
        first = slot * many // parts
        length = (slot + 1) * many // parts - first
        turn = torch.rand(len(at), 1, generator=generator, device=device, dtype=torch.float64)
        within = torch.rand(len(at), size, generator=generator, device=device, dtype=torch.float32)
        step = torch.minimum((within * length).long(), length - 1).clamp_(min=0)
        place = (first + step + (turn * many).long()) % many
        choice = self._order[start + place].long()
        costs = self.match.costs(at, choice)
        refused = slot >= parts
        if not self.match.lenient:
            refused = refused | ~self.match.admits(at, self.match.rules(at), choice)
        return choice, costs.masked_fill_(refused, math.inf)

    def _look(self) -> Tensor:
        """int32 ``(F,)``: a partner that each factual may become, −1 where none was found."""
        known = torch.full((len(self._many),), -1, dtype=torch.int32)
        generator = torch.Generator(self.match.device).manual_seed(0)
        for size in LOOKS:
            for at in ((known < 0) & (self._many > 0)).nonzero()[:, 0].split(max(1, CELLS // size)):
                choice, costs = self._pool(at, size, generator)
                best, place = costs.min(1)
                found = choice.gather(1, place[:, None])[:, 0].masked_fill_(best.isinf(), -1)
                known[at] = found.int().cpu()
        return known
