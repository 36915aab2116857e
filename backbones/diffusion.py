"""Diffusion: EDM on numbers, masked diffusion on tokens, under one noise time τ from 1 (all noise) to 0.

Numbers: x_τ = x⁺ + σ(τ) ε (Karras et al. 2022, EDM, with σ_data = 1 for normal scores).
Tokens: a share τ of the columns is masked (Sahoo et al. 2024, MDLM; Shi et al. 2024, MD4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backbones.candidates import Candidates
from backbones.descent import Descent
from backbones.endpoint import EndpointBackbone
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema


class DiffusionBackbone(EndpointBackbone):
    """Mixed-type diffusion. At time τ exactly ⌈τC⌉ random token columns are masked, of the C that have a choice.

    For masked tokens every order of unmasking is exact. Columns without a choice are shown from the start, and each
    candidate unmasks the others in a random order, evenly over the steps: with at least as many steps one at a time,
    and then sampling adds no error to the network's.

    steps: of the sampler, see `backbones.endpoint.EndpointBackbone`.
    sigma_min, sigma_max, rho: noise levels, EDM eq. 5; scores lie within ±3, so 20 is as good as all noise. The
        sampler's last level is that of τ = 1 / steps.
    sigma_mean, sigma_std: of ln σ in training; EDM's −1.2 at σ_data = 0.5, moved by ln 2.
    width, heads, layers, body, expansion, cost_prior: of the network, see `backbones.denoiser.Denoiser`.
    corruption, rao_blackwell: of training, see `backbones.endpoint.EndpointBackbone`.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 64,
        heads: int = 2,
        layers: int = 3,
        body: str = "mlp",
        expansion: int = 3,
        cost_prior: bool = True,
        corruption: float = 0.45,
        rao_blackwell: bool = False,
        steps: int | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 20.0,
        rho: float = 7.0,
        sigma_mean: float = -0.5,
        sigma_std: float = 1.2,
    ) -> None:
        super().__init__(
            schema,
            width=width,
            heads=heads,
            layers=layers,
            body=body,
            expansion=expansion,
            cost_prior=cost_prior,
            corruption=corruption,
            steps=steps,
            rao_blackwell=rao_blackwell,
        )
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        for name, value in (("rho", rho), ("sigma_std", sigma_std)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        self.rho, self.sigma_mean, self.sigma_std = rho, sigma_mean, sigma_std
        self.ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def sigma(self, time: Tensor) -> Tensor:
        """Noise level at time τ in [0, 1] (EDM, eq. 5)."""
        low, high = self.ends
        return (low + time * (high - low)) ** self.rho

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Denoising loss of the numbers plus a bound on −log R of the tokens in nats, ``(B,)``.

        Numbers: EDM eq. 8 with λ(σ) = 1 + 1 / σ² at σ_data = 1. One uniform time serves both kinds of columns, so the
        log-normal density of σ (EDM, table 1) enters as a weight.
        Tokens: cross-entropy of the masked columns times C over their number m, for m uniform on 1 to C: the any-order
        bound (Uria et al. 2014; Hoogeboom et al. 2022, ARDM), an unbiased estimate.
        """
        stream, end = self.stream(cost_weight.device), self.encode(counterfactual)
        time = 1 - self.times(end.batch_size, cost_weight.device, stream)
        sigma = self.sigma(time)
        epsilon = torch.randn(end.num.shape, device=time.device, generator=stream, dtype=torch.float32)
        hidden = (time * len(self.levels)).ceil()
        masked = self.ranks(end.cat, stream) < hidden
        context = self.denoiser.context(self.encode(factual), cost_weight)
        shown = self.seen(factual, end, cost_weight)
        state = Rows(end.num + sigma * epsilon, torch.where(masked, self.levels, shown))
        signal = torch.ones_like(sigma)
        (moment,) = self.denoiser.moments(context, signal[None], sigma[None])
        num, logits = self.denoiser(context, state, moment)
        target = self.target(factual, end, cost_weight, ~masked, state.num, signal, sigma)
        loss = (self._weight(sigma) * (1 + sigma**-2) * (num - target.num).square()).sum(1)
        if len(self.levels):
            loss = loss + (target.nats(logits).masked_fill(~masked, 0.0) * len(self.levels) / hidden).sum(1)
        return loss

    def walk(self, candidates: Candidates) -> tuple[Rows, Tensor]:
        """Numbers follow the probability flow (EDM, eq. 1) while tokens are unmasked; the last step lands."""
        sigma = [*self.sigma(torch.linspace(1, 0, self.steps + 1, dtype=torch.float32)[:-1]).tolist(), 0.0]
        numbers = Descent(sigma[0] * candidates.gaussian())
        cat, choice = candidates.begin(self.levels.expand_as(candidates.factual.cat))
        turn = candidates.uniform()[:, :-1].masked_fill(~choice, math.inf).argsort(1).argsort(1)
        # As many are masked at each time as in training.
        step = ((turn + 1) * self.steps - 1) // choice.sum(1, keepdim=True).clamp(min=1)
        noise = self.sigma(torch.linspace(1, 0, self.steps + 1, device=cat.device, dtype=torch.float32)[:-1])
        logits, moments = candidates.context.prior, candidates.moments(torch.ones_like(noise), noise)
        for k, moment in enumerate(moments):
            end, logits = candidates.endpoint(Rows(numbers.num, cat), moment)
            numbers.step(end, sigma[k], sigma[k + 1])
            if len(self.levels):
                cat = candidates.redraw(cat, step == k, logits, candidates.uniform())
        return Rows(numbers.num, cat), logits

    def _weight(self, sigma: Tensor) -> Tensor:
        """Density of ln σ under the log-normal, over that under a uniform time."""
        low, high = self.ends
        z = (sigma.log() - self.sigma_mean) / self.sigma_std
        density = torch.exp(-0.5 * z**2) / (self.sigma_std * math.sqrt(2 * math.pi))
        return density * self.rho * (high - low) / sigma ** (1 / self.rho)
