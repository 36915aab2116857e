"""A mixture density network (Bishop, 1994): a generator small enough to read as an example.

R(x⁺ | x) = Σ_k w_k Π_c Categorical(x⁺_c; p_kc) Π_n Normal(x⁺_n; μ_kn, σ_kn), all of it read off x and λ by one network.
"""

import torch
from torch import Tensor, nn

from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema


class MyBackbone(Backbone):
    """K components; given one, columns are independent. B rows, C tokens of up to L levels, N numbers, S samples."""

    def __init__(self, schema: Schema, *, width: int = 96, components: int = 8) -> None:
        super().__init__(schema)
        if min(width, components) < 1:
            raise ValueError(f"width and components must be at least 1, got {width} and {components}")
        sizes = torch.tensor([len(feature.levels) for feature in schema.tokens], dtype=torch.int64)
        self.size, self.components = max(sizes.tolist(), default=1), components  # L, K
        inputs = 1 + len(schema.numbers) + len(sizes) * self.size
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, components * (1 + 2 * len(schema.numbers) + len(sizes) * self.size))
        self.keep = nn.Parameter(torch.full((components, len(sizes)), 0.5))
        # Constants of the schema stay out of the saved weights.
        self.register_buffer("padding", torch.arange(self.size) >= sizes[:, None], persistent=False)

    def _mixture(self, factual: Rows, cost_weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log w ``(B, K)``, log p ``(B, K, C, L)``, μ and σ ``(B, K, N)``."""
        own, n = nn.functional.one_hot(factual.cat, self.size).float(), factual.num.shape[1]
        x = self.body(torch.cat([cost_weight.log()[:, None], factual.num, own.flatten(1)], 1))
        parts = self.head(x).unflatten(1, (self.components, -1))
        weight, shift, scale, logits = parts.split([1, n, n, own.flatten(1).shape[1]], 2)
        # Numbers start from x, and a token's own level gains with λ: what a cost asks for before anything is learned.
        logits = logits.unflatten(2, own.shape[1:]) + own[:, None] * (self.keep * cost_weight[:, None, None])[..., None]
        logits = logits.masked_fill(self.padding, -1e9).log_softmax(3)
        return weight[..., 0].log_softmax(1), logits, factual.num[:, None] + shift, (scale - 2).clamp(-5, 1).exp()

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Negative log-likelihood ``(B,)`` in nats."""
        weight, logits, mean, scale = self._mixture(factual, cost_weight)
        tokens = logits.take_along_dim(counterfactual.cat[:, None, :, None], 3)[..., 0]
        numbers = torch.distributions.Normal(mean, scale).log_prob(counterfactual.num[:, None])
        return -(weight + tokens.sum(2) + numbers.sum(2)).logsumexp(1)

    @torch.no_grad()
    def sample(
        self, factual: Rows, *, num_samples: int, cost_weight: Tensor, feasible: Feasible | None = None,
        temperature: float = 1.0, noise: Noise,
    ) -> Rows:  # fmt: skip
        """The mixture conditioned on what each column may become: masked tokens, truncated normals, reweighted w."""
        weight, logits, mean, scale = self._mixture(factual, cost_weight)
        logits, scale = logits / temperature, scale * temperature**0.5
        low, high = torch.zeros_like(factual.num), torch.ones_like(factual.num)
        if feasible is not None:
            low, high = feasible.low, feasible.high
            logits = logits.masked_fill(~feasible.tokens[:, None, : logits.shape[2]], -1e9)
        below, above = (torch.special.ndtr((end[:, None] - mean) / scale) for end in (low, high))
        mass = (above - below).clamp(min=1e-30).log().sum(2) + logits.logsumexp(3).sum(2)
        uniform = noise.uniform(num_samples, 1 + logits.shape[2] + low.shape[1])
        component = _choose(weight / temperature + mass, uniform[..., 0])[..., None]  # (B, S, 1)
        codes = _choose(logits, uniform[:, None, :, 1 : 1 + logits.shape[2]].mT)  # (B, K, C, S)
        cat = codes.mT.take_along_dim(component[:, None], 1)[:, 0]
        below, above, mean, scale = (part.take_along_dim(component, 1) for part in (below, above, mean, scale))
        place = below + (above - below) * uniform[..., 1 + logits.shape[2] :]
        num = (mean + scale * torch.special.ndtri(place)).clamp(low[:, None], high[:, None])
        # What no column can see alone: ordered pairs and max_changes.
        return Rows(num, cat) if feasible is None else feasible.settle(self.schema, factual, Rows(num, cat))


def _choose(logits: Tensor, uniform: Tensor) -> Tensor:
    """Indices ``(..., S)`` by inverse CDF of logits ``(..., L)``, one uniform each."""
    cumulative = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[..., -1:]).contiguous())
