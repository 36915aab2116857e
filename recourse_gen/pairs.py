"""Pair supervision: the closed-form law Q(x⁺ | x) over training rows that backbones learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen.constraints import Constraints
from recourse_gen.cost import RecourseCost
from recourse_gen.options import check_number, check_whole
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform


@dataclass(frozen=True)
class PairOptions:
    """How pairs are synthesised.

    top_k: partners per factual, K, the nearest ones. gamma: partners need a classifier probability above it.
    cost_weight: λ, one number or a (low, high) range from which training draws log-uniformly per row.
    block: factuals per block while searching; memory is O(block × partners).
    """

    top_k: int = 1000
    gamma: float = 0.7
    cost_weight: float | Sequence[float] = (2.0, 20.0)
    block: int = 256

    def __post_init__(self) -> None:
        low, high = self.cost_weight_range
        if not (0 < low <= high < math.inf):
            raise ValueError(f"pairs.cost_weight must be positive, a number or (low, high), got {self.cost_weight!r}")
        check_whole("pairs.top_k", self.top_k)
        check_whole("pairs.block", self.block)
        check_number("pairs.gamma", self.gamma, 0, 1)

    @property
    def cost_weight_range(self) -> tuple[float, float]:
        given = self.cost_weight
        try:
            low, high = map(float, given if isinstance(given, Sequence) else (given, given))
        except (TypeError, ValueError):
            raise ValueError(f"pairs.cost_weight must be a number or (low, high), got {given!r}") from None
        return low, high


class PairSupervision:
    """Q(x⁺ | x) ∝ exp(−λ C(x, x⁺)) over the K nearest admissible partners of each factual (GenRe, eq. for Q, §3).

    Partners are admissible when `Feasible.admits` lets the factual become them: equal immutables, monotone directions,
    ranges, allowed values, columns that change together. Factuals without any are kept out: `has_partner` (bool, one
    per given row) tells which remain, and positions below count the remaining ones only.

    factuals: `Rows` of the F remaining factuals. partners: `Rows` of all M candidates.
    index: int32 ``(F, K)`` into `partners`. costs: float32 ``(F, K)``, ascending, inf beyond the admissible ones.
    """

    def __init__(
        self,
        factuals: pd.DataFrame,
        partners: Rows,
        *,
        transform: TableTransform,
        constraints: Constraints,
        options: PairOptions,
        device: torch.device | str = "cpu",
    ) -> None:
        self.options = options
        self.transform = transform
        self.constraints = constraints
        self.cost = RecourseCost(transform.schema)
        self.partners = partners.to(device)
        self.device = torch.device(device)
        rows = transform.encode(factuals)
        k = min(options.top_k, partners.batch_size)
        costs = torch.full((rows.batch_size, max(k, 1)), math.inf, device=device)
        index = torch.zeros(rows.batch_size, max(k, 1), dtype=torch.int32, device=device)
        for people, pool in self._kin(rows):
            pool = pool.to(device)
            partners = self.partners.take(pool)
            there = self.cost.coordinates(partners, weighted=False)
            for at in people.split(int(options.block)):
                frame, some = factuals.iloc[at.numpy()], rows.take(at)
                own = some.to(device)
                distance = self.cost.distances(self.cost.coordinates(own, weighted=False), there)
                feasible = constraints.compile(transform.schema, frame, some).to(device)
                distance.masked_fill_(~feasible.admits(transform.schema, own, partners), math.inf)
                # Sorting the nearest is faster than having them found in order.
                found = distance.topk(min(k, len(pool)), largest=False, sorted=False)
                ranked = found.values.sort(dim=1, stable=True)
                here, width = at.to(device), ranked.values.shape[1]
                costs[here, :width] = ranked.values
                index[here, :width] = pool[found.indices.gather(1, ranked.indices)].int()
        self.has_partner = costs[:, 0].isfinite()
        everybody = bool(self.has_partner.all())  # then nothing is copied
        self.costs, self.index = (part if everybody else part[self.has_partner] for part in (costs, index))
        self.factuals = rows.to(device).take(self.has_partner)

    @classmethod
    def from_training(
        cls,
        frame: pd.DataFrame,
        probability: np.ndarray,
        favourable: np.ndarray,
        *,
        transform: TableTransform,
        constraints: Constraints,
        options: PairOptions,
        device: torch.device | str = "cpu",
    ) -> PairSupervision:
        """Q between training rows ``(B, D)``: factuals are those that the classifier turns down, partners the
        favourable ones of which it is surer than γ.

        probability: the classifier's, ``(B,)``. favourable: bool ``(B,)``, the outcomes.
        Raises ValueError if there are no factuals, no partners, or none that a factual may become; warns where partners
        are few, or some factuals have none.
        """
        denied, partner = probability <= 0.5, favourable & (probability > options.gamma)
        if not denied.any():
            raise ValueError("the classifier favours every training row, so there is nobody to learn recourse for")
        if not partner.any():
            raise ValueError(
                f"no favourable training row has a classifier probability above pairs.gamma={options.gamma} (the "
                f"highest is {probability.max():.3f}); lower gamma or check target_class"
            )
        if partner.sum() < options.top_k:
            few = f"{partner.sum()} partners are fewer than pairs.top_k={options.top_k}; all of them are used"
            warnings.warn(few, stacklevel=3)
        partners = transform.encode(frame).take(torch.from_numpy(partner))
        pairs = cls(
            frame[denied], partners, transform=transform, constraints=constraints, options=options, device=device
        )
        if not len(pairs):
            raise ValueError("the constraints leave no turned-down training row a partner; loosen them")
        lonely = int((~pairs.has_partner).sum())
        if lonely:
            warnings.warn(f"{lonely} of {denied.sum()} turned-down rows have no admissible partner", stacklevel=3)
        return pairs

    def _kin(self, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions of factuals and of the partners that agree with them on the immutable token columns: nobody can
        become anybody else, so the other distances need not be known. One group of all where groups would be tiny."""
        fixed = [
            t for t, feature in enumerate(self.transform.schema.tokens) if feature.name in self.constraints.immutable
        ]
        sizes = [rows.batch_size, self.partners.batch_size]
        kind = torch.zeros(sum(sizes), dtype=torch.int64)
        if fixed and rows.batch_size:
            codes = torch.cat([rows.cat[:, fixed], self.partners.cat[:, fixed].cpu()])
            kinds, found = codes.unique(dim=0, return_inverse=True)
            kind = found if len(kinds) <= max(1, rows.batch_size // 64) else kind
        count = int(kind.max()) + 1 if len(kind) else 0
        groups = [
            side.argsort(stable=True).split(side.bincount(minlength=count).tolist()) for side in kind.split(sizes)
        ]
        return ((people, pool) for people, pool in zip(*groups, strict=True) if len(people) and len(pool))

    def of(self, factuals: pd.DataFrame) -> PairSupervision:
        """The same law for other factuals, e.g. held-out ones."""
        return PairSupervision(
            factuals,
            self.partners,
            transform=self.transform,
            constraints=self.constraints,
            options=self.options,
            device=self.device,
        )

    def __len__(self) -> int:
        return self.costs.shape[0]

    def log_weights(self, at: Tensor, cost_weight: Tensor) -> Tensor:
        """log Q of each of the K partners, ``(B, K)``, for factuals `at` ``(B,)`` under λ ``(B,)``."""
        return torch.log_softmax(-cost_weight[:, None] * self.costs[at], 1)

    def log_prob(self, at: Tensor, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """log Q(x⁺ | x) of rows ``(B, ·)``, in nats, −inf where x⁺ is not among the partners."""
        candidates = self.partners.take(self.index[at].long())
        same = (candidates.cat == counterfactual.cat[:, None]).all(-1)
        same &= (candidates.num == counterfactual.num[:, None]).all(-1)
        return self.log_weights(at, cost_weight).masked_fill(~same, -math.inf).logsumexp(1)

    def locate(self, factuals: Rows) -> Tensor:
        """int64 ``(B,)``: a position whose factual equals each row ``(B, ·)``, −1 where none does."""
        keys, order = self._keys
        wanted = _fingerprint(factuals)
        if not len(keys):
            return torch.full_like(wanted, -1)
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, order[place], -1)

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """Fingerprints of the factuals, ascending, and the positions that they belong to."""
        keys, order = _fingerprint(self.factuals).sort()
        return keys, order

    def draw(
        self, at: Tensor, cost_weight: Tensor, generator: torch.Generator | None = None, num_samples: int = 1
    ) -> Rows:
        """Partners drawn from Q for factuals `at` ``(B,)``: `Rows` ``(B, num_samples, ·)``.

        generator: of the randomness; None for the global one.
        """
        # Rejection: partners in blocks by rank, where all first count as much as the nearest of their block. A block is
        # at most twice as large as the one before, whose partners weigh no less: so at least one draw in three holds.
        edges, first, sizes = self._blocks
        nearest = self.costs[at, :1]
        bound = (sizes[at] * torch.exp(-cost_weight[:, None] * (first[at] - nearest))).cumsum(1)
        choice = torch.zeros(len(at) * num_samples, dtype=torch.int64, device=self.device)
        waiting = torch.arange(len(choice), device=self.device)
        while len(waiting):
            row = waiting // num_samples
            person, reach = at[row], bound[row]
            uniform = torch.rand(3, len(row), generator=generator, device=self.device)
            block = torch.searchsorted(reach, uniform[0, :, None] * reach[:, -1:], right=True)[:, 0]
            block = block.clamp_(max=bound.shape[1] - 1)  # rounding may put the last uniform past the end
            rank = edges[block] + (uniform[1] * sizes[person, block]).long()
            rank = torch.minimum(rank, edges[block + 1] - 1)
            # Beyond the admissible partners the excess is infinite, or not a number: neither holds.
            excess = self.costs[person, rank] - first[person, block]
            holds = uniform[2] < torch.exp(-cost_weight[row] * excess)
            choice[waiting[holds]] = rank[holds]
            waiting = waiting[~holds]
        return self.partners.take(self.index[at[:, None], choice.view(len(at), num_samples)].long())

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks at which blocks of partners begin and the last one ends, int64 ``(J + 1,)``; the cost of each block's
        first partner, and how many admissible ones it has, ``(F, J)``."""
        ends = [0]
        while ends[-1] < self.costs.shape[1]:
            ends.append(min(ends[-1] + max(1, ends[-1] // 3), self.costs.shape[1]))
        edges = torch.tensor(ends, device=self.device)
        admissible = self.costs.isfinite().sum(1, keepdim=True)
        sizes = torch.minimum(admissible - edges[:-1], edges[1:] - edges[:-1]).clamp_(min=0)
        return edges, self.costs[:, edges[:-1]].contiguous(), sizes

    def draw_cost_weight(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """λ per row, float32 ``(B,)``, log-uniform on the configured range."""
        low, high = map(math.log, self.options.cost_weight_range)
        return torch.exp(low + (high - low) * torch.rand(batch_size, generator=generator, device=self.device))

    def nearest(self) -> Rows:
        """Each remaining factual's cheapest partner, ``(F, ·)``."""
        return self.partners.take(self.index[:, 0].long())


def _fingerprint(rows: Rows) -> Tensor:
    """int64 ``(B,)``: equal for equal rows, and for others with a chance of 2⁻⁶⁴ or so. Exact sums modulo 2⁶⁴."""
    bits = torch.cat([rows.num.view(torch.int32).long(), rows.cat], 1)
    odd = torch.randint(2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return (bits * odd.to(bits.device)).sum(1)
