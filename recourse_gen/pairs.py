"""Pair supervision: the closed-form law Q(x⁺ | x) over training rows that backbones learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen import neighbours
from recourse_gen.constraints import Constraints
from recourse_gen.cost import RecourseCost
from recourse_gen.matching import Matching
from recourse_gen.nearest import Nearest
from recourse_gen.options import DIAL, check_number, check_whole
from recourse_gen.pooled import Pooled
from recourse_gen.processes import total
from recourse_gen.rows import Rows
from recourse_gen.share import Share
from recourse_gen.transform import TableTransform


@dataclass(frozen=True)
class PairOptions:
    """How pairs are synthesised.

    top_k: partners per factual, K, the nearest ones. gamma: partners need a classifier probability above it.
    cost_weight: λ, one number or a (low, high) range from which training draws log-uniformly per row.
    block: factuals per block while searching; memory is O(block × partners), up to 2¹⁷ partners.
    method: how partners are found. ``exact`` searches all of them for the K nearest, time O(factuals × partners), and
        keeps a table of 8 K bytes per factual; ``index`` keeps the same table of approximate ones (needs the extra
        ``scale``); ``pooled`` searches and keeps nothing and draws from random pools; `recourse_gen.pooled` says
        what that does to the law.
    pool: partners in a pool of ``pooled``, which takes no notice of `top_k`.
    """

    top_k: int = 1000
    gamma: float = 0.7
    cost_weight: float | Sequence[float] = (2.0, 20.0)
    block: int = 256
    method: str = "exact"
    pool: int = 1024

    def __post_init__(self) -> None:
        low, high = self.cost_weight_range
        if not (DIAL[0] <= low <= high < DIAL[1]):
            raise ValueError(
                "pairs.cost_weight must be a number from 1e-30 to 1e30, or such a range (low, high), "
                f"got {self.cost_weight!r}"
            )
        if self.method not in METHODS:
            raise ValueError(f"pairs.method must be one of {', '.join(METHODS)}, got {self.method!r}")
        check_whole("pairs.top_k", self.top_k)
        check_whole("pairs.pool", self.pool)
        check_whole("pairs.block", self.block)
        check_number("pairs.gamma", self.gamma, 0, 1)

    @property
    def cost_weight_range(self) -> tuple[float, float]:
        """The least and the greatest λ of training."""
        given = self.cost_weight
        try:
            low, high = map(float, given if isinstance(given, Sequence) else (given, given))
        except (TypeError, ValueError):
            raise ValueError(f"pairs.cost_weight must be a number or (low, high), got {given!r}") from None
        return low, high


class Partnership(Protocol):
    """Partners of F factuals, however they are found."""

    @property
    def has_partner(self) -> Tensor:
        """Bool ``(F,)``."""

    def take(self, keep: Tensor) -> Partnership:
        """The same for the factuals where `keep` ``(F,)``, bool."""

    def draw(self, at: Tensor, cost_weight: Tensor, generator: torch.Generator | None, num_samples: int) -> Tensor:
        """int64 ``(B, num_samples)``: partners drawn for factuals `at` ``(B,)`` under λ ``(B,)``."""


def _exact(match: Matching, options: PairOptions) -> Partnership:
    return Nearest.search(match, options.top_k, options.block)


def _pooled(match: Matching, options: PairOptions) -> Partnership:
    return Pooled(match, options.pool)


def _index(match: Matching, options: PairOptions) -> Partnership:
    neighbours.library()
    return Nearest.search(match, options.top_k, options.block, neighbours.Indexed)


METHODS: dict[str, Callable[[Matching, PairOptions], Partnership]] = {
    "exact": _exact,
    "pooled": _pooled,
    "index": _index,
}


class PairSupervision:
    """Q(x⁺ | x) ∝ exp(−λ C(x, x⁺)) over the K nearest admissible partners of each factual (GenRe, eq. for Q, §3).

    Partners are admissible when `Feasible.admits` lets the factual become them: equal immutables, monotone directions,
    ranges, allowed values, columns that change together. Factuals without any are kept out: `has_partner` (bool, one
    per given row) tells which remain, and positions below count the remaining ones only.

    factuals: `Rows` of the F remaining factuals. partners: `Rows` of all M candidates.
    index: int32 ``(F, K)`` into `partners`. costs: float32 ``(F, K)``, ascending, inf beyond the admissible ones. They,
    and all that needs them, raise ValueError where the method keeps none (``pooled``).
    held: how many factuals, the first ones, are for validation only; 0 where the training may choose.
    recall: share of the K nearest that ``index`` found, measured on a few factuals; None for the other methods.
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
        held: int = 0,
    ) -> None:
        self.options = options
        self.transform = transform
        self.constraints = constraints
        self.cost = RecourseCost(transform.schema)
        self.partners = partners.to(device)
        self.device = torch.device(device)
        rows = transform.encode(factuals)
        match = Matching(factuals, rows, self.partners, transform, constraints)
        found = METHODS[options.method](match, options)
        self.recall: float | None = None
        if options.method == "index" and isinstance(found, Nearest):
            self.recall = neighbours.recall(match, found, options.block)
        self.has_partner = found.has_partner
        everybody = bool(self.has_partner.all())  # then nothing is copied
        self._found = found if everybody else found.take(self.has_partner)
        self._to_validate, self.held = held, int(self.has_partner[:held].sum())
        self.factuals = rows.to(device) if everybody else rows.to(device).take(self.has_partner)

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
        share: Share | None = None,
    ) -> PairSupervision:
        """Q between training rows ``(B, D)``: factuals are those that the classifier turns down, partners the
        favourable ones of which it is surer than γ.

        probability: the classifier's, ``(B,)``. favourable: bool ``(B,)``, the outcomes. share: of the factuals, where
        several processes train together; they share the partners.
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
        if partner.sum() < options.top_k and options.method != "pooled":
            few = f"{partner.sum()} partners are fewer than pairs.top_k={options.top_k}; all of them are used"
            warnings.warn(few, stacklevel=3)
        at, held = (share or Share()).of(int(denied.sum()))
        people = frame[denied] if len(at) == denied.sum() else frame.iloc[np.flatnonzero(denied)[at]]
        pairs = cls(
            people,
            transform.encode(frame[partner]),
            transform=transform,
            constraints=constraints,
            options=options,
            device=device,
            held=held,
        )
        if not len(pairs):
            raise ValueError("the constraints leave no turned-down training row a partner; loosen them")
        lonely = int((~pairs.has_partner).sum())
        if lonely:
            warnings.warn(f"{lonely} of {len(at)} turned-down rows have no admissible partner", stacklevel=3)
        return pairs

    def of(self, factuals: pd.DataFrame) -> PairSupervision:
        """Q for other factuals, e.g. held-out ones, with their K nearest searched exactly, whatever the method."""
        return PairSupervision(
            factuals,
            self.partners,
            transform=self.transform,
            constraints=self.constraints,
            options=replace(self.options, method="exact"),
            device=self.device,
        )

    def __len__(self) -> int:
        return self.factuals.batch_size

    def count(self) -> tuple[int, int]:
        """Factuals with a partner and without one, on all processes together; each of them has to ask."""
        common, own = self.has_partner[: self._to_validate], self.has_partner[self._to_validate :]
        paired, lonely = total(int(own.sum()), int((~own).sum()))
        return int(paired) + int(common.sum()), int(lonely) + int((~common).sum())

    @property
    def costs(self) -> Tensor:
        return self._nearest.costs

    @property
    def index(self) -> Tensor:
        return self._nearest.index

    @property
    def _nearest(self) -> Nearest:
        if isinstance(self._found, Nearest):
            return self._found
        raise ValueError(
            f"pairs.method={self.options.method} keeps no table of each factual's partners, which this needs; "
            "take pairs.method=exact or index, or the pairs `of` a few factuals"
        )

    def split(self, holdout: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions of factuals to train on and of those to validate on, int64: `holdout` (0 to 1) of all, at least
        one, at random, or those that are `held`. The same ones for both if there is only one."""
        many = len(self)
        if self.held:
            order, held = torch.arange(many, device=self.device), min(self.held, many - 1)
        else:
            order = torch.randperm(many, generator=generator, device=self.device)
            held = min(max(1, int(many * holdout)), many - 1)
        return order[held:], order[:held] if held else order

    def log_weights(self, at: Tensor, cost_weight: Tensor) -> Tensor:
        """log Q of each of the K partners, ``(B, K)``, for factuals `at` ``(B,)`` under λ ``(B,)``."""
        return self._nearest.log_weights(at, cost_weight)

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
        return self.partners.take(self._found.draw(at, cost_weight, generator, num_samples))

    def draw_cost_weight(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """λ per row, float32 ``(B,)``, log-uniform on the configured range."""
        low, high = map(math.log, self.options.cost_weight_range)
        uniform = torch.rand(batch_size, generator=generator, device=self.device, dtype=torch.float32)
        return torch.exp(low + (high - low) * uniform)

    def nearest(self) -> Rows:
        """Each remaining factual's cheapest partner, ``(F, ·)``."""
        return self.partners.take(self.index[:, 0].long())


def _fingerprint(rows: Rows) -> Tensor:
    """int64 ``(B,)``: equal for equal rows, and for others with a chance of 2⁻⁶⁴ or so. Exact sums modulo 2⁶⁴."""
    bits = torch.cat([rows.num.view(torch.int32).long(), rows.cat], 1)
    odd = torch.randint(2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    return (bits * odd.to(bits.device)).sum(1)
