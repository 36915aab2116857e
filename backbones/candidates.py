"""Counterfactuals on their way along a path, held inside what their factuals may become."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbones.denoiser import Context, Endpoint, Moment
from backbones.layers import log_choice
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows

if TYPE_CHECKING:
    from backbones.endpoint import EndpointBackbone

_AHEAD = 32  # draws made at a time, at most: hashing takes dozens of small operations
_COLD = 1e-3  # above it, logits over the temperature stay far inside what a float32 holds


class Candidates:
    """R = B·S counterfactuals on their way, held inside what their factuals may become.

    low, high: scores ``(R, N)`` between which numbers end. Token levels that a factual may not take have no prior.
    forbidden: more of them, bool ``(R, C, L)``, or None.
    """

    def __init__(
        self,
        backbone: EndpointBackbone,
        factual: Rows,
        num_samples: int,
        cost_weight: Tensor,
        feasible: Feasible | None,
        temperature: float,
        noise: Noise,
    ) -> None:
        self.backbone, self.num_samples, self.temperature, self.noise = backbone, num_samples, temperature, noise
        self._ahead: list[Tensor] = []
        self.given, self.feasible = factual, feasible
        self.factual = factual.repeat(num_samples)
        self.allowed: Tensor | None = None
        self.forbidden: Tensor | None = None
        self.spare: Tensor | None = None
        limits = [] if feasible is None else [feasible.low, feasible.high]
        self.own, *ends = backbone.scores(torch.cat([factual.num, *limits])).chunk(1 + len(limits))
        self.context: Context = backbone.denoiser.context(Rows(self.own, factual.cat), cost_weight)
        least, most = backbone.scores.range
        self.low, self.high = least.expand_as(self.factual.num), most.expand_as(self.factual.num)
        if feasible is not None:
            low, high = ends
            # The training range, unless the limits lie beyond it.
            low, high = least.clamp(low, high), most.clamp(low, high)
            self.low, self.high = (side.repeat_interleave(num_samples, 0) for side in (low, high))
            own = torch.nn.functional.one_hot(factual.cat, feasible.tokens.shape[2]).bool()
            self.allowed = torch.where(feasible.tokens.any(2, keepdim=True), feasible.tokens, own)
            if len(backbone.levels):
                self.context = self.context._replace(prior=self.context.prior.masked_fill(~self.allowed, -math.inf))
            if feasible.max_changes is not None:
                self._ration(feasible, feasible.max_changes)

    def uniform(self) -> Tensor:
        """``(R, C + 1)``, uniform on (0, 1): a number for each token column, and one for all of them."""
        return self._draw()[:, : self.factual.cat.shape[1] + 1]

    def gaussian(self) -> Tensor:
        """``(R, N)``, of standard deviation √temperature."""
        return torch.special.ndtri(self._draw()[:, : self.factual.num.shape[1]]) * self.temperature**0.5

    def _draw(self) -> Tensor:
        if not self._ahead:
            columns, numbers = self.factual.cat.shape[1], self.factual.num.shape[1]
            ahead = min(_AHEAD, self.backbone.steps + 3) if columns else 1
            drawn = self.noise.uniforms(ahead, self.num_samples, max(columns + 1, numbers))
            self._ahead = [*drawn.flatten(1, 2)]
        return self._ahead.pop(0)

    def moments(self, signal: Tensor, noise: Tensor) -> Iterator[Moment]:
        """In turn, the K times at which `endpoint` will be asked for; coefficients ``(K,)``, see `Moment`."""
        return self.backbone.denoiser.moments(self.context, signal[:, None, None], noise[:, None, None])

    def endpoint(self, state: Rows, moment: Moment) -> Endpoint:
        """The predicted endpoint, moved to where it may lie: numbers clipped, tokens masked and tempered."""
        num, logits = self.backbone.denoiser(self.context, state, moment)
        if self.forbidden is not None:
            logits = logits.masked_fill(self.forbidden, -math.inf)
        if self.temperature < _COLD and logits.shape[1]:
            # The largest becomes 0, so that no temperature, however low, overflows.
            logits = logits - logits.amax(2, keepdim=True)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return Endpoint(num.clamp(self.low, self.high), logits)

    def begin(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(R, C)`` of the start, where token columns with one admissible level only show that level already;
        and which columns have a choice, bool ``(R, C)``."""
        if self.allowed is None:
            return start, torch.ones_like(start, dtype=torch.bool)
        levels = self.allowed.repeat_interleave(self.num_samples, 0)
        if self.forbidden is not None:
            levels = levels & ~self.forbidden
        choice = levels.sum(2) > 1
        return torch.where(choice, start, levels.to(torch.uint8).argmax(2)), choice

    def redraw(self, cat: Tensor, where: Tensor, logits: Tensor, uniform: Tensor, leave: bool = False) -> Tensor:
        """Codes ``(R, C)`` with fresh draws from the logits in the columns marked by `where`, bool ``(R, C)``; with
        `leave`, other codes than there were. uniform: see there."""
        if cat.device.type == "cpu":
            at = where.nonzero(as_tuple=True)
            marked = logits[at]
            if leave:
                marked.scatter_(1, cat[at][:, None], -math.inf)
            fresh = cat.index_put(at, log_choice(marked, uniform[at]))
        else:  # how many there are is for the device to know: asking would wait for it
            if leave:
                logits = logits.scatter(2, cat[..., None], -math.inf)
            # Column after column, as the network gives them.
            drawn = log_choice(logits.transpose(0, 1).flatten(0, 1), uniform[:, : cat.shape[1]].T.flatten())
            fresh = torch.where(where, drawn.view(cat.T.shape).T, cat)
        return fresh if self.spare is None else self._within_budget(cat, fresh)

    def land(self, state: Rows, logits: Tensor) -> Rows:
        """Exactly admissible rows ``(B, S, ·)`` from the end of the path."""
        num = torch.minimum(
            torch.maximum(self.backbone.scores.inverse(state.num), self._bound("low")), self._bound("high")
        )
        if self.spare is not None:
            num = torch.where(self.still, self.factual.num, num)
        # Without rules that tie columns together, clipping and masks have made every column admissible already.
        tied = self.feasible is not None and self.feasible.tied
        rows = self._column_by_column(num, state.cat, logits) if tied else Rows(self._rounded(num), state.cat)
        return Rows(*(part.unflatten(0, (-1, self.num_samples)) for part in rows))

    def _bound(self, side: str) -> Tensor:
        """Scaled limits ``(R, N)`` of the numbers, exactly as given."""
        if self.feasible is None:
            ends = self.backbone.scores.knots[:, 0 if side == "low" else -1]
            return ends.expand_as(self.factual.num)
        return getattr(self.feasible, side).repeat_interleave(self.num_samples, 0)

    def _rounded(self, num: Tensor) -> Tensor:
        """Scaled numbers ``(R, N)`` as they will be decoded: whole where the column holds whole numbers."""
        if not any(feature.storage.kind in "iu" for feature in self.backbone.schema.numbers):
            return num
        low, high = self.backbone.bounds.unbind(1)
        rounded = (((low + num.double() * (high - low)).round() - low) / (high - low)).float()
        return torch.where(self.backbone.whole, rounded, num)

    def _column_by_column(self, num: Tensor, cat: Tensor, logits: Tensor) -> Rows:
        """Keep each proposed value where the columns before it leave it open, else take the next best."""
        schema, owner = self.backbone.schema, torch.arange(self.given.batch_size, device=num.device)
        draft = self.backbone.alphabet.draft(self.given, owner.repeat_interleave(self.num_samples), self.feasible)
        uniform = self.uniform()
        for column, t, n in schema.places:
            mask = draft.mask(column)
            if n is not None:
                draft.place(column, num[:, n])
            elif t is not None:
                open_logits = logits[:, t, : mask.shape[1]].masked_fill(~mask, -math.inf)
                # Where rules leave only levels that the network gives no chance, all of them have the same.
                open_logits = torch.where(
                    open_logits.isfinite().any(1, keepdim=True), open_logits, torch.zeros_like(open_logits)
                ).masked_fill(~mask, -math.inf)
                kept = mask.gather(1, cat[:, t, None])[:, 0]
                codes = torch.where(kept, cat[:, t], log_choice(open_logits, uniform[:, t]))
                draft.emit(column, codes, uniform[:, t])
        return draft.rows()

    def _ration(self, feasible: Feasible, max_changes: int) -> None:
        """Share out the changes: columns that must move first, the rest in a random order of each candidate's own, in
        which groups that change together are one.

        Numbers always move if they may, so those that come too late are pinned now, with the tokens of their groups;
        other tokens take what remains as they come to change.
        """
        alphabet = self.backbone.alphabet
        count = len(alphabet.token_at)
        order = torch.cat([alphabet.token_at, alphabet.number_at])
        groups = [sorted(order.tolist().index(d) for d in group) for group in feasible.together]
        stay = feasible.stay[:, order].repeat_interleave(self.num_samples, 0)
        priority = self.noise.uniform(self.num_samples, stay.shape[1]).flatten(0, 1).masked_fill(~stay, math.inf)
        for group in groups:
            priority[:, group] = priority[:, group[:1]]
        spare = max_changes - (~stay).sum(1, keepdim=True)
        rank = priority.argsort(1).argsort(1)
        for group in groups:
            rank[:, group] = rank[:, group].amax(1, keepdim=True)
        late = rank >= spare
        self.still = (stay & late)[:, count:]
        own_num = self.own.repeat_interleave(self.num_samples, 0)
        self.low, self.high = (torch.where(self.still, own_num, side) for side in (self.low, self.high))
        settled = torch.arange(stay.shape[1], device=stay.device) >= count
        for group in (group for group in groups if group[-1] >= count):
            settled[group] = True
        self.spare = spare - (stay & ~late & settled).sum(1, keepdim=True)
        self.stay, self.priority = stay[:, :count] & ~settled[:count], priority[:, :count]
        if groups and count:
            own = torch.nn.functional.one_hot(self.factual.cat, feasible.tokens.shape[2]).bool()
            self.forbidden = (stay & late & settled)[:, :count, None] & ~own

    def _within_budget(self, before: Tensor, after: Tensor) -> Tensor:
        """Codes ``(R, C)`` with the factual's own wherever a change is one too many; earlier changes stand."""
        assert self.spare is not None
        masked = after == self.backbone.levels
        changed = self.stay & (after != self.factual.cat) & ~masked
        first = torch.where(changed, self.priority - (before == after).float(), math.inf)
        # Stable, or columns of one group would be told apart by their place in memory.
        too_late = changed & (first.argsort(dim=1, stable=True).argsort(1) >= self.spare)
        return torch.where(too_late, self.factual.cat, after)
