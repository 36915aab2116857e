"""The exact posterior of Q: where a path may end, given the state that it has reached.

Q is a sum over K partners, so its posterior is one too: a partner's weight is Q's times the likelihood of the state.
Learning from this law in place of the one partner behind the state has the same expected gradient and less noise
(Rao-Blackwell; for denoising models: Xu et al. 2023, Stable Target Field).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recourse_gen.rows import Rows

if TYPE_CHECKING:
    from recourse_gen.pairs import PairSupervision

_NEGLIGIBLE = 1e-5  # of a partner's weight


class Target(NamedTuple):
    """num: E[x⁺ | x_t, x] of numbers ``(B, N)``. levels: p(x⁺_d | x_t, x) of tokens ``(B, C, L)``, or codes ``(B, C)``
    where the end is known for certain."""

    num: Tensor
    levels: Tensor

    def nats(self, logits: Tensor) -> Tensor:
        """Cross-entropy ``(B, C)`` of the tokens' logits ``(B, C, L)``, some of which may be −inf."""
        if self.levels.dim() == 2:
            return F.cross_entropy(logits.flatten(0, 1), self.levels.flatten(), reduction="none").view_as(self.levels)
        return -(self.levels * logits.log_softmax(2).masked_fill(self.levels == 0, 0.0)).sum(2)


class Posterior:
    """Q over the partners of the people seen in training, given states.

    codes: int64 ``(M, C)`` of the partners. numbers: float64 ``(M, N)``, as the path sees them.
    """

    def __init__(self, pairs: PairSupervision, numbers: Tensor) -> None:
        self.pairs, self.codes, self.numbers = pairs, pairs.partners.cat, numbers.double()
        self.index = pairs.index  # asked for at once: pairs that keep no such table say so before any training
        # A weighted sum of codes tells rows apart; whole numbers this small are summed exactly in float64.
        stream = torch.Generator().manual_seed(0)
        self._digits = torch.randint(1, 2**36, (self.codes.shape[1],), generator=stream).double().to(pairs.device)

    def __deepcopy__(self, memo: object) -> Posterior:
        return self  # a copy of a model looks at the same training rows

    def target(
        self, factual: Rows, end: Rows, cost_weight: Tensor, shown: Tensor, state: Tensor, signal: Tensor, noise: Tensor
    ) -> Target:
        """Of paths to `end` ``(B, ·)`` that show its tokens where `shown` ``(B, C)``, bool, and whose numbers are
        `state` = signal·x⁺ + noise·ε ``(B, N)``; coefficients ``(B, 1)``.

        For people whom training has not seen, the end itself.
        """
        at = self.pairs.locate(factual)
        known, at = (at >= 0)[:, None], at.clamp(min=0)
        index = self.index[at].long()
        log_weights = self.pairs.log_weights(at, cost_weight).double()
        if self.codes.shape[1]:
            digits = shown * self._digits
            theirs, own = digits @ self.codes.double().T, (digits * end.cat).sum(1, keepdim=True)
            log_weights = log_weights.masked_fill(theirs.gather(1, index) != own, -torch.inf)
        if self.numbers.shape[1]:
            # −‖x_t − a y‖² / 2σ² without the part that all partners share.
            likelihood = (state.double() @ self.numbers.T - signal * self.numbers.square().sum(1) / 2) * signal
            log_weights = log_weights + (likelihood / noise.double() ** 2).gather(1, index)
        weights = log_weights.softmax(1).float()
        num = torch.einsum("bk,bkn->bn", weights, self.numbers.float()[index])
        return Target(torch.where(known, num, end.num), self._levels(weights, index, end.cat, known))

    def _levels(self, weights: Tensor, index: Tensor, end: Tensor, known: Tensor) -> Tensor:
        """Weights ``(B, K)`` gathered by level: ``(B, C, L)``."""
        size = max((len(feature.levels) for feature in self.pairs.transform.schema.tokens), default=1)
        rows, columns = end.shape
        b, k = (weights > _NEGLIGIBLE).nonzero(as_tuple=True)
        cells = (b[:, None] * columns + torch.arange(columns, device=b.device)) * size + self.codes[index[b, k]]
        laws = weights.new_zeros(rows * columns * size)
        laws.index_add_(0, cells.flatten(), weights[b, k][:, None].expand(-1, columns).flatten())
        return torch.where(known[..., None], laws.view(rows, columns, size), F.one_hot(end, size).float())
