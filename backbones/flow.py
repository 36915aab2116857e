"""Flow matching: numbers flow from noise, tokens jump from the factual, each jump one step of recourse.

Numbers: x_t = (1 − t) ε + t x⁺ with velocity (E[x⁺ | x_t] − x_t) / (1 − t) (Lipman et al. 2023, eq. 22 and 23).
Tokens: x_t,d is x⁺_d with probability κ(t), else the source; the rate of a jump is κ̇ / (1 − κ) · p(x⁺_d | x_t) (Gat et
al. 2024, Discrete Flow Matching; Campbell et al. 2024, Multiflow).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.candidates import Candidates
from backbones.descent import Descent
from backbones.endpoint import EndpointBackbone
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

SOURCES = ("factual", "mask", "noise")


class FlowBackbone(EndpointBackbone):
    """Conditional flow matching on numbers and a discrete flow on tokens, over one time t from 0 to 1.

    Three clocks, one hand:
        u: progress, even from 0 to 1; step k of K begins at u = k / K.
        s = (1 − u)²: noise left in the numbers (``noise_left``), t = 1 − s, so that steps get finer towards the end.
        κ = ⌊uC⌋ / C: share decided of the C token columns, in sampling of those that have a choice.
    At each step the network predicts the end, the numbers follow their ODE from s to the next s, and each undecided
    column jumps with probability rate · p(x⁺_d ≠ x_d | x_t). Exactly κC random columns are decided at a time, rather
    than each with probability κ: with at least C steps none decides more than one column, and then jumping follows the
    path exactly. With tokens alone, sampling adds no error to the network's.

    source: of the tokens: ``factual``, ``mask``, or uniform ``noise``.
    width, heads, layers, body, expansion, cost_prior: of the network, see `backbones.denoiser.Denoiser`.
    steps: of the sampler, see `backbones.endpoint.EndpointBackbone`.
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
        source: str = "factual",
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
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
        self.source = source

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Flow matching loss of the numbers plus a bound on −log R of the tokens in nats, ``(B,)``.

        Numbers: ‖v_θ − (x⁺ − ε)‖² (Lipman et al. 2023, eq. 23). Tokens: the cross-entropy of p(x⁺_d | x_t) with the
        weight 1 / (1 − κ), which is at least the rate-matching bound of Shaul et al. (2024).
        """
        stream, end = self.stream(cost_weight.device), self.encode(counterfactual)
        progress = self.times(end.batch_size, cost_weight.device, stream)
        noise_left = (1 - progress).clamp(min=0.01) ** 2
        t = 1 - noise_left
        epsilon = torch.randn(end.num.shape, device=t.device, generator=stream, dtype=torch.float32)
        decided = (progress * len(self.levels)).floor()
        shown = self.ranks(end.cat, stream) < decided
        uniform = torch.rand(end.cat.shape, device=t.device, generator=stream, dtype=torch.float32)
        cat = torch.where(shown, self._evidence(factual, end, cost_weight), self._start(factual.cat, uniform))
        context = self.denoiser.context(self.encode(factual), cost_weight)
        state = Rows(noise_left * epsilon + t * end.num, cat)
        (moment,) = self.denoiser.moments(context, t[None], noise_left[None])
        num, logits = self.denoiser(context, state, moment)
        target = self.target(factual, end, cost_weight, shown, state.num, t, noise_left)
        loss = ((num - target.num) / noise_left).square().sum(1)
        if len(self.levels):
            share = decided / len(self.levels)
            logits = self._posterior(logits, cat, share)
            loss = loss + (target.nats(logits).masked_fill(self._known(cat, factual.cat), 0.0) / (1 - share)).sum(1)
        return loss

    def walk(self, candidates: Candidates) -> tuple[Rows, Tensor]:
        """Numbers flow and tokens jump; the last step lands on the endpoint."""
        numbers = Descent(candidates.gaussian())
        cat, choice = candidates.begin(self._start(candidates.factual.cat, candidates.uniform()[:, :-1]))
        logits, left = candidates.context.prior, [(1 - k / self.steps) ** 2 for k in range(self.steps + 1)]
        hand = torch.arange(self.steps + 1, device=cat.device)
        noise = (1 - hand[:-1].float() / self.steps) ** 2
        # Columns without a choice are shown from the start: κ counts the others.
        count = choice.sum(1)[:, None].clamp(min=1)
        decided = count * hand[:, None, None] // self.steps
        before = decided[:-1]
        rates, odds = decided.diff(dim=0).float() / (count - before), self._odds(before.float() / count)
        for k, moment in enumerate(candidates.moments(1 - noise, noise)):
            end, logits = candidates.endpoint(Rows(numbers.num, cat), moment)
            numbers.step(end, left[k], left[k + 1])
            if len(self.levels):
                cat = self._jump(candidates, cat, logits, odds[k], rates[k])
        return Rows(numbers.num, cat), logits

    def _evidence(self, factual: Rows, end: Rows, cost_weight: Tensor) -> Tensor:
        """Codes ``(B, C)`` that decided columns show. From the factual, corruption changes where a move leads but not
        whether there is one: that is what `_posterior` takes for granted."""
        seen = self.seen(factual, end, cost_weight)
        if self.source != "factual":
            return seen
        return torch.where((end.cat == factual.cat) | (seen == factual.cat), end.cat, seen)

    def _start(self, factual: Tensor, uniform: Tensor) -> Tensor:
        """Codes of the source ``(B, C)``."""
        if self.source == "factual":
            return factual
        return self.levels.expand_as(factual) if self.source == "mask" else (uniform * self.levels).long()

    def _known(self, cat: Tensor, factual: Tensor) -> Tensor:
        """Bool ``(B, C)``: columns whose state is their endpoint for certain."""
        if self.source == "factual":
            return cat != factual
        return cat != self.levels if self.source == "mask" else torch.zeros_like(cat, dtype=torch.bool)

    def _posterior(self, logits: Tensor, cat: Tensor, share: Tensor) -> Tensor:
        """Logits ``(B, C, L)`` of p(x⁺_d | x_t) for columns that are not `_known`: Bayes' rule with the likelihood of
        the column's own state, which the path fixes. So the network is left with what the other columns say."""
        if self.source == "mask":
            return logits
        return logits.scatter_add(2, cat[..., None], self._odds(share).log().expand_as(cat)[..., None])

    def _odds(self, share: Tensor) -> Tensor:
        """How much likelier a state is if the endpoint is the same than if it is another: 1 over 1 − κ where it equals
        the factual; κ + (1 − κ) / L over (1 − κ) / L from uniform noise on L levels."""
        return 1 / (1 - share) if self.source == "factual" else 1 + self.levels * (share / (1 - share))

    def _jump(self, candidates: Candidates, cat: Tensor, logits: Tensor, odds: Tensor, rate: Tensor) -> Tensor:
        """Let each column jump with probability rate · p(x⁺_d ≠ x_t,d | x_t), to a level drawn from p(x⁺_d | x_t).
        odds: see `_odds`. rate: ``(R, 1)``."""
        uniform = candidates.uniform()
        if self.source == "mask":
            due = self._due(rate * (cat == self.levels).to(logits.dtype), uniform)
            return candidates.redraw(cat, due, logits, uniform)
        # `_posterior` changes the odds of the state itself alone, so not where a jump leads.
        stay = logits.transpose(0, 1).softmax(2).gather(2, cat.T[..., None])[..., 0].T
        leave = 1 - stay
        chance = rate * leave / torch.addcmul(leave, odds, stay)
        if self.source == "factual":
            chance = chance.masked_fill_(self._known(cat, candidates.factual.cat), 0.0)
        return candidates.redraw(cat, self._due(chance, uniform), logits, uniform, leave=True)

    @staticmethod
    def _due(chance: Tensor, uniform: Tensor) -> Tensor:
        """Which columns jump, bool ``(R, C)``, each with its chance. Systematic sampling: two columns jump at once only
        where more than one jump is due."""
        passed = torch.cat([uniform[:, -1:], chance], 1).cumsum(1, dtype=torch.float64).floor_()
        # Sums may round otherwise from column to column; what is certain does not hang on that.
        return (passed.diff() > 0) & (chance > 0) | (chance >= 1)
