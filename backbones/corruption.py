"""Corrupted evidence: in training, some of what a network sees of x⁺ belongs to another draw of Q for the same person.

A sampler builds on its own earlier choices, and these are never quite the columns of one training row. A network that
has only seen true ones takes every one of them for certain, recognises a row that is not there, and drifts off
(exposure bias: Bengio et al. 2015). Trained on mixtures of two draws, with the first as its target, it learns how far
to trust what it sees, as cascaded diffusion does by conditioning augmentation (Ho et al. 2022, §4).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recourse_gen.rows import Rows

if TYPE_CHECKING:
    from recourse_gen.pairs import PairSupervision


class Corruption:
    """Replaces columns of counterfactuals, each with a probability that is uniform on 0 to 2·`share` per pair.

    share: 0 to 0.5, of the columns on average; 0 leaves everything as it is.
    Without pairs, and for factuals that these do not hold, nothing is replaced.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 0.5:
            raise ValueError(f"corruption must be from 0 to 0.5, got {share}")
        self.share = share
        self.pairs: PairSupervision | None = None

    def __deepcopy__(self, memo: object) -> Corruption:
        return self  # a copy of a model looks at the same training rows

    def __call__(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Rows:
        """What is seen of counterfactuals ``(B, ·)``. Draws from the global random stream."""
        if not self.share or self.pairs is None or not len(self.pairs):
            return counterfactual
        at = self.pairs.locate(factual)
        other = self.pairs.draw(at.clamp(min=0), cost_weight).flatten()
        uniform = partial(torch.rand, device=at.device, dtype=torch.float32)
        rate = 2 * self.share * uniform(len(at), 1).masked_fill_(at[:, None] < 0, 0.0)
        return Rows(
            *(
                torch.where(uniform(mine.shape) < rate, theirs, mine)
                for mine, theirs in zip(counterfactual, other, strict=True)
            )
        )
