"""What backbones built on an endpoint network share: encoding, times, and candidates that keep to the constraints."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backbones.alphabet import Alphabet
from backbones.blocks import in_blocks
from backbones.candidates import Candidates
from backbones.corruption import Corruption
from backbones.denoiser import Denoiser
from backbones.posterior import Posterior, Target
from backbones.replay import Replay
from backbones.scores import NormalScores
from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from recourse_gen.pairs import PairSupervision

_BLOCK = 1024


class EndpointBackbone(Backbone):
    """A path from noise to the counterfactual, walked by a network that predicts the path's end.

    Inside, numbers are normal scores and a masked token has the code L_d, one past its column's last level.
    Options are those of `Denoiser`, and:
    corruption: share of the tokens seen in training that belong to another draw of Q, see `backbones.corruption`.
    rao_blackwell: learn from the exact posterior of Q, not the one pair behind a state, see `backbones.posterior`. It
        takes what a state shows for true, so it needs corruption 0.
    steps: network evaluations of the sampler (at least 1). None takes two for every three token columns, at least 5;
        at least 12 where these are fewer than ten for each number, whose path is curved. Tokens alone never take more
        than there are columns.
    """

    levels: Tensor
    bounds: Tensor
    whole: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        width: int,
        heads: int,
        layers: int,
        body: str,
        expansion: int,
        cost_prior: bool,
        corruption: float,
        steps: int | None,
        rao_blackwell: bool,
    ) -> None:
        super().__init__(schema)
        tokens, numbers = len(schema.tokens), len(schema.numbers)
        if steps is None:
            steps = max(12 if tokens < 10 * numbers else 5, math.ceil(2 * tokens / 3))
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps, self.replay = steps if numbers else min(steps, tokens), Replay()
        self.corruption = Corruption(corruption)
        if rao_blackwell and corruption:
            raise ValueError(f"rao_blackwell needs corruption=0, got {corruption}")
        self.rao_blackwell = rao_blackwell
        self.posterior: Posterior | None = None
        self.alphabet = Alphabet(schema, bins=2, spacing="uniform")
        self.scores = NormalScores(schema)
        sizes = {"width": width, "heads": heads, "layers": layers, "expansion": expansion}
        self.denoiser = Denoiser(schema, body=body, cost_prior=cost_prior, **sizes)
        bounds = [(*feature.bounds, feature.storage.kind in "iu") for feature in schema.numbers if feature.bounds]
        for name, constant in (
            ("levels", torch.tensor([len(f.levels) for f in schema.tokens]).long()),
            ("bounds", torch.tensor([pair[:2] for pair in bounds], dtype=torch.float64).view(-1, 2)),
            ("whole", torch.tensor([pair[2] for pair in bounds], dtype=torch.bool)),
        ):
            self.register_buffer(name, constant, persistent=False)

    @abstractmethod
    def walk(self, candidates: Candidates) -> tuple[Rows, Tensor]:
        """Follow the path to its end: the candidates, numbers as scores ``(R, ·)``, and the last token logits."""

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
        """Walk the path from noise, some thousand candidates at a time.

        `temperature` divides token logits and multiplies the variance of the Gaussian from which numbers start.
        """

        def draw(factual: Rows, cost_weight: Tensor, feasible: Feasible | None, noise: Noise) -> Rows:
            candidates = Candidates(self, factual, num_samples, cost_weight, feasible, temperature, noise)
            return candidates.land(*self.walk(candidates))

        replayed = self.replay(draw, self.parameters(), num_samples, temperature, self.steps)
        return in_blocks(replayed, factual, cost_weight, feasible, noise, num_samples=num_samples, size=_BLOCK)

    def observe(self, pairs: PairSupervision) -> None:
        self.corruption.pairs = pairs
        if self.rao_blackwell:
            self.posterior = Posterior(pairs, self.scores.to(pairs.device)(pairs.partners.num))

    def target(
        self, factual: Rows, end: Rows, cost_weight: Tensor, shown: Tensor, state: Tensor, signal: Tensor, noise: Tensor
    ) -> Target:
        """What the network should say of a state; see `Posterior.target` for the arguments."""
        if self.posterior is None or not self.training:
            return Target(end.num, end.cat)
        return self.posterior.target(factual, end, cost_weight, shown, state, signal, noise)

    def seen(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Codes of the counterfactual ``(B, C)`` as a state shows them: partly another draw's while training."""
        return (self.corruption(factual, counterfactual, cost_weight) if self.training else counterfactual).cat

    def encode(self, rows: Rows) -> Rows:
        return Rows(self.scores(rows.num), rows.cat)

    def stream(self, device: torch.device) -> torch.Generator | None:
        """Randomness of the loss: the global stream in training; the same numbers every time in evaluation."""
        return None if self.training else torch.Generator(device).manual_seed(0)

    @staticmethod
    def times(rows: int, device: torch.device, stream: torch.Generator | None) -> Tensor:
        """One time in [0, 1) per row, ``(B, 1)``, evenly spread: uniform each, of low variance together
        (the low-discrepancy sampler of Kingma et al. 2021, Variational Diffusion Models)."""
        start = torch.rand(1, device=device, generator=stream, dtype=torch.float32)
        return ((start + torch.arange(rows, device=device, dtype=torch.float32) / max(rows, 1)) % 1.0)[:, None]

    @staticmethod
    def ranks(like: Tensor, stream: torch.Generator | None) -> Tensor:
        """A random permutation of 0 to C − 1 per row, ``(B, C)``."""
        return torch.rand(like.shape, device=like.device, generator=stream, dtype=torch.float32).argsort(1)
