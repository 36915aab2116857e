"""The generators without a network: draws from Q itself, and its λ → ∞ limit, the nearest partners.

Q(x⁺ | x) ∝ exp(−λ C(x, x⁺)) over the K nearest admissible training rows (GenRe: Garg, Nagalapatti, Sarawagi, ICLR 2025,
§3) is what the other generators learn, so these two say what learning adds. They answer with rows of the training
table, which their weights file therefore holds.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Feasible, decoded
from recourse_gen.cost import RecourseCost, smallest
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from recourse_gen.pairs import PairSupervision

CELLS = 2**22  # distances between factuals and partners that are held at a time


class PartnerBackbone(Backbone):
    """Answers with training rows: the K nearest that the factual may become. M partners.

    Every constraint counts when the K are chosen, `max_changes` and `ordered` too; a column that differs from the
    factual's is a change. Where `max_changes` leaves a factual none of the partners, it goes a part of the way to those
    that it may become otherwise: each sample takes over so many of their columns, at random. A factual that may become
    none even so gets its own row back, which no classifier that turned it down accepts.
    """

    observed = ("partner_num", "partner_cat")
    partner_num: Tensor
    partner_cat: Tensor
    top_k: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.cost = RecourseCost(schema)
        self.register_buffer("partner_num", torch.zeros(0, len(schema.numbers)))
        self.register_buffer("partner_cat", torch.zeros(0, len(schema.tokens), dtype=torch.int64))
        self.register_buffer("top_k", torch.tensor(1))

    def observe(self, pairs: PairSupervision) -> None:
        """Keep the partners and the number K of `pairs`."""
        self.partner_num, self.partner_cat = pairs.partners.num.clone(), pairs.partners.cat.clone()
        self.top_k = torch.tensor(pairs.options.top_k, device=pairs.partners.num.device)

    @property
    def partners(self) -> Rows:
        """``(M, ·)``. Raises ValueError before `observe`."""
        if not len(self.partner_num):
            raise ValueError("this backbone has seen no partners yet; fit or load the generator first")
        return Rows(self.partner_num, self.partner_cat)

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Raises NotImplementedError: there are no parameters, so nothing may ask for a loss."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    @torch.no_grad()
    def sample(
        self,
        factual: Rows,
        *,
        num_samples: int,
        cost_weight: Tensor,
        feasible: Feasible | None = None,
        temperature: float = 1.0,
        noise: Noise,
    ) -> Rows:
        """S of each factual's K nearest admissible partners; which ones, a subclass says in `choose`."""
        sharpness = (cost_weight.double() / temperature).clamp(max=1e300)  # finite, or the nearest would weigh 0·∞
        drawn, found = self._draw(factual, num_samples, sharpness, feasible, noise)
        if feasible is None or feasible.max_changes is None or found.all():
            return drawn
        at = (~found).nonzero()[:, 0]
        some, rules, noise = factual.take(at), feasible.take(at.cpu().numpy()), noise.take(at)
        whole, found = self._draw(some, num_samples, sharpness[at], replace(rules, max_changes=None), noise)
        part = rules.settle(self.schema, some, _some_columns(some, whole, feasible.max_changes, noise))
        num, cat = (torch.where(found[:, None, None], *each) for each in zip(part, whole, strict=True))
        return Rows(drawn.num.index_copy(0, at, num), drawn.cat.index_copy(0, at, cat))

    def _draw(
        self, factual: Rows, num_samples: int, sharpness: Tensor, feasible: Feasible | None, noise: Noise
    ) -> tuple[Rows, Tensor]:
        """Partners ``(B, S, ·)``, and bool ``(B,)``: who may become one; the others get their own row."""
        costs, index = self.nearest(factual, feasible)
        count = costs.isfinite().sum(1, keepdim=True)
        rank = self.choose(costs, sharpness, num_samples, noise)
        chosen = index.gather(1, torch.minimum(rank, count - 1).clamp_(min=0))
        found = count > 0
        drawn = Rows(
            torch.where(found[:, :, None], self.partner_num[chosen], factual.num[:, None]),
            torch.where(found[:, :, None], self.partner_cat[chosen], factual.cat[:, None]),
        )
        return drawn, found[:, 0]

    @abstractmethod
    def choose(self, costs: Tensor, sharpness: Tensor, num_samples: int, noise: Noise) -> Tensor:
        """Ranks int64 ``(B, S)`` among the K nearest, 0 the nearest; too high ones count as the last.

        costs: float64 ``(B, K)``, ascending, inf beyond the admissible ones. sharpness: float64 ``(B,)``, λ over the
        temperature.
        """

    def nearest(self, factual: Rows, feasible: Feasible | None) -> tuple[Tensor, Tensor]:
        """Costs float64 ``(B, K)``, ascending, inf beyond the admissible partners, and their index int64 ``(B, K)``.

        Memory is O(B·K) plus a block of distances to all partners.
        """
        partners = self.partners
        k, block = min(int(self.top_k), len(partners.num)), max(1, CELLS // len(partners.num))
        targets = self.cost.targets(partners)
        found = []
        for start in range(0, factual.batch_size, block):
            at = torch.arange(start, min(start + block, factual.batch_size), device=targets.near.device)
            some = factual.take(at)
            costs = self.cost.distances(some, targets)
            if feasible is not None:
                admitted = self._admitted(some, feasible.take(at.cpu().numpy()))
                costs.masked_fill_(~admitted, math.inf)
            # Always the K nearest, however many are asked for: on a GPU, the order of equal ones depends on the number.
            best, index = smallest(costs, k)
            found.append((best.double(), index))
        if not found:
            return factual.num.new_zeros(0, k).double(), factual.cat.new_zeros(0, k)
        return torch.cat([costs for costs, _ in found]), torch.cat([index for _, index in found])

    def _admitted(self, factual: Rows, feasible: Feasible) -> Tensor:
        """Bool ``(B, M)``: which partners each factual may become, by all of its constraints."""
        partners = self.partners
        admitted = feasible.admits(self.schema, factual, partners)
        if feasible.max_changes is not None:
            changes = torch.cdist(_cells(factual), _cells(partners), p=0.0)
            admitted &= changes < feasible.max_changes + 0.5
        columns = {d for pair in feasible.ordered for d in pair}
        raw = {d: self._decoded(d, factual, feasible) for d in columns}
        for a, b in feasible.ordered:
            admitted &= raw[a] <= raw[b]
        return admitted

    def _decoded(self, column: int, factual: Rows, feasible: Feasible) -> Tensor:
        """Float64 ``(B, M)``: the raw number that a numeric column holds once a factual has become a partner."""
        _, t, n = self.schema.places[column]
        feature, own = self.schema.features[column], feasible.raw[:, column, None]
        if t is not None:
            theirs, mine = self.partner_cat[:, t], factual.cat[:, t, None]
            # The token that a factual was encoded as stands for its own number, even one that training never held.
            return torch.where(theirs == mine, own, own.new_tensor(feature.levels)[theirs])
        assert n is not None
        values = decoded(feature, self.partner_num[:, n])
        ends = feasible.raw_low[:, n, None], feasible.raw_high[:, n, None]
        least, most = (torch.from_numpy(end).to(own.device) for end in ends)
        values = values.clamp(least, most)
        return torch.where(self.partner_num[:, n] == factual.num[:, n, None], own, values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        sizes = self.partner_cat.new_tensor([len(feature.levels) for feature in self.schema.tokens])
        known = ((self.partner_cat >= 0) & (self.partner_cat < sizes)).all()
        if len(self.partner_num) != len(self.partner_cat) or not known or self.top_k < 1:
            args[-1].append("the partners do not fit the schema")  # load_state_dict raises what it finds in this list


class ExactBackbone(PartnerBackbone):
    """Draws from Q, with probability ∝ exp(−λ C / temperature)."""

    def choose(self, costs: Tensor, sharpness: Tensor, num_samples: int, noise: Noise) -> Tensor:
        """Inverse CDF, one uniform per sample."""
        excess = torch.where(costs.isfinite(), costs - costs[:, :1], math.inf)
        cumulative = torch.exp(-sharpness[:, None] * excess).cumsum(1)
        uniform = noise.uniform(num_samples, 1)[:, :, 0]
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:])

    @torch.no_grad()
    def log_prob(
        self, factual: Rows, counterfactual: Rows, cost_weight: Tensor, feasible: Feasible | None = None
    ) -> Tensor:
        """log Q(x⁺ | x) ``(B,)`` in nats, equal partners counted together; −inf where x⁺ is not among the K."""
        costs, index = self.nearest(factual, feasible)
        cells = torch.cat([_cells(self.partners), _cells(counterfactual)])
        _, row = torch.unique(cells, dim=0, return_inverse=True)
        partner, given = row.split([len(self.partner_num), counterfactual.batch_size])
        same = (partner[index] == given[:, None]) & costs.isfinite()
        log_weights = torch.log_softmax(-cost_weight.double()[:, None] * costs, 1)
        return log_weights.masked_fill(~same, -math.inf).logsumexp(1).float()


class NearestBackbone(PartnerBackbone):
    """The limit λ → ∞ without replacement: sample s is the s-th cheapest of the admissible partners.

    Nothing is random, and λ and the temperature change nothing. Equal partners count once, so that every sample is a
    new row until they run out; the last one is repeated then.
    """

    def observe(self, pairs: PairSupervision) -> None:
        """Keep the distinct partners and the number K of `pairs`."""
        super().observe(pairs)
        cells = _cells(self.partners)
        _, row = torch.unique(cells, dim=0, return_inverse=True)
        position = torch.arange(len(row), device=row.device)
        first = torch.full_like(position, len(row)).scatter_reduce_(0, row, position, "amin")
        kept = first[first < len(row)].sort().values
        self.partner_num, self.partner_cat = self.partner_num[kept], self.partner_cat[kept]

    def choose(self, costs: Tensor, sharpness: Tensor, num_samples: int, noise: Noise) -> Tensor:
        """The ranks that follow the samples drawn before."""
        rank = torch.arange(noise.first_sample, noise.first_sample + num_samples, device=costs.device)
        return rank.clamp(max=costs.shape[1] - 1).expand(len(costs), -1)


def _some_columns(factual: Rows, drawn: Rows, most: int, noise: Noise) -> Rows:
    """`drawn` ``(B, S, ·)`` with all but `most` of the columns that differ put back, drawn anew for each sample."""
    own = Rows(factual.num[:, None], factual.cat[:, None])
    differs = torch.cat([drawn.num != own.num, drawn.cat != own.cat], 2)
    turn = noise.uniform(*differs.shape[1:]).masked_fill(~differs, math.inf)
    kept = turn.argsort(dim=2, stable=True).argsort(dim=2) < most
    numbers = drawn.num.shape[2]
    return Rows(
        torch.where(kept[..., :numbers], drawn.num, own.num), torch.where(kept[..., numbers:], drawn.cat, own.cat)
    )


def _cells(rows: Rows) -> Tensor:
    """Float32 ``(B, D)``: equal where the encoded cells are; level indices are far below 2²⁴."""
    return torch.cat([rows.num, rows.cat.float()], 1)
