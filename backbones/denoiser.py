"""One network for every non-autoregressive backbone: it predicts the endpoint of a path from a noisy state.

A path leads from noise, or from the factual x, to the counterfactual x⁺. All that flow matching and diffusion of
numbers need is E[x⁺ | x_t, x]; all that masked diffusion and discrete flows of tokens need is p(x⁺_d | x_t, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.columns import NumberColumns, Tables, TokenColumns, WaveEmbedding
from backbones.layers import Attention, Kept
from backbones.perceptron import Modulation, Perceptron, Rest
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

BODIES = ("transformer", "mlp")
_AT_ONCE = 2048  # conditions of which modulations are made at one time, for memory


class Context(NamedTuple):
    """What is known of the factuals before any noise, computed once per factual.

    columns: ``(B, D, W)`` embedded. condition: of λ, ``(B, W)``. cat: the factuals' codes ``(B, C)``.
    prior: logits ``(B, C, L)`` before the network has its say: what the cost suggests, and a bias.
    entry: for a perceptron, what its first layer makes of the columns; None for other bodies.
    tokens, numbers: what is asked of token columns, and the embedding of numbers, at every step; None without any.
    """

    columns: Tensor
    condition: Tensor
    cat: Tensor
    prior: Tensor
    entry: Entry | None = None
    tokens: Tables | None = None
    numbers: Callable[[Tensor], Tensor] | None = None


class Entry(NamedTuple):
    """How states enter a perceptron. As its first layer is linear, what it makes of a token's state can be looked up;
    only embedded numbers need a product.

    columns: what it makes of the factuals' columns, ``(B, 1, H)``. tokens: of each state of a token, in the order of
    `Tables`, ``(V + 1, H)``. numbers: its weights for the N numbers, ``(H, N · W)``. rest: what follows it.
    """

    columns: Tensor
    tokens: Tensor | None
    numbers: Tensor
    rest: Rest

    def __call__(self, moves: Tensor | None, numbers: Tensor | None, each: tuple[int, int]) -> Tensor:
        """``(B, S, H)`` from the places of tokens ``(R, C)`` and embedded numbers ``(R, N, W)``."""
        entered = self.columns
        if moves is not None and self.tokens is not None:
            entered = entered + F.embedding_bag(moves, self.tokens, mode="sum").unflatten(0, each)
        if numbers is not None:
            entered = entered + F.linear(numbers.flatten(1), self.numbers).unflatten(0, each)
        return entered


class Moment(NamedTuple):
    """A time on the path, as the network takes it.

    scale, skip, gain: c_in, c_skip and c_out of the preconditioning of Karras et al. (2022), ``(1, 1)`` for all states,
    or ``(B, 1)`` for one state of each factual. modulations: what the body takes of λ and the time, by layer.
    """

    scale: Tensor
    skip: Tensor
    gain: Tensor
    modulations: tuple[tuple[Tensor, ...], ...]


class Endpoint(NamedTuple):
    """num: E[x⁺ | x_t, x] of numbers ``(R, N)``, normal scores. logits: of tokens ``(R, C, L)``, padded with −inf."""

    num: Tensor
    logits: Tensor


class Denoiser(nn.Module):
    """Feature-aligned network: column d of the state and column d of the factual share one embedding.

    So leaving a column as it is needs no attention. Columns are ordered tokens first, then numbers; D = C + N.

    width: of a column's embedding. heads: of attention. layers: number of blocks.
    body: ``transformer`` over the columns, or ``mlp`` over all of them flattened; both conditioned on time and λ.
    expansion: hidden units of the ``mlp``, in widths; most of what a sample costs is their square.
    cost_prior: add −λ·s_d·C_d(x_d, ·) to the logits of token column d, with s_d learned from 1: the factor of Q.
    """

    def __init__(
        self, schema: Schema, *, width: int, heads: int, layers: int, body: str, expansion: int, cost_prior: bool
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("heads", heads), ("layers", layers), ("expansion", expansion)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if body not in BODIES:
            raise ValueError(f"body must be one of {', '.join(BODIES)}, got {body!r}")
        count, columns = len(schema.tokens), len(schema.features)
        self.tokens = TokenColumns(schema, width) if count else None
        self.numbers = NumberColumns(len(schema.numbers), width) if schema.numbers else None
        self.cost_scale = nn.Parameter(torch.ones(count)) if cost_prior and count else None
        self.position = nn.Parameter(torch.randn(columns, width) * 0.1)
        self.weight_condition = WaveEmbedding(1, width)
        self.time_condition = WaveEmbedding(1, width)
        # A column alone has nothing to attend to.
        attend = body == "transformer" and columns > 1
        self.body = Transformer(width, heads, layers) if attend else Perceptron(columns, width, layers, expansion)
        self._entries = Kept()

    def context(self, factual: Rows, cost_weight: Tensor) -> Context:
        """Of factuals, their numbers as normal scores, and λ ``(B,)``."""
        columns, prior = [], factual.num.new_zeros(factual.batch_size, 0, 1)
        if self.tokens is not None:
            columns.append(F.embedding(factual.cat + self.tokens.offset, self.tokens.factual().flatten(0, 1)))
            prior = (self.tokens.bias + self.tokens.padding).expand(factual.batch_size, -1, -1)
            if self.cost_scale is not None:
                scale = (cost_weight[:, None] * self.cost_scale)[..., None]
                prior = prior - self.tokens.alphabet.costs(Rows(factual.num[:, :0], factual.cat)) * scale
        if self.numbers is not None:
            columns.append(self.numbers.factual(factual.num[..., None]))
        condition, embedded = self.weight_condition(cost_weight.log()[:, None]), torch.cat(columns, 1) + self.position
        tokens = None if self.tokens is None else self.tokens.ready()
        numbers = None if self.numbers is None else self.numbers.state.ready()
        return Context(embedded, condition, factual.cat, prior, self._entry(embedded), tokens, numbers)

    def moments(self, context: Context, signal: Tensor, noise: Tensor) -> Iterator[Moment]:
        """K times in turn, where x_t = signal·x⁺ + noise·ε, from these coefficients ``(K, 1, 1)`` or ``(K, B, 1)``."""
        # Eq. 7 and table 1 of Karras et al. (2022), with σ_data = 1 and x_t of any scale.
        scale = (signal**2 + noise**2).rsqrt()
        skip, gain = signal * scale**2, noise * scale
        # c_noise = ln(σ) / 4; the ends, where a coefficient is 0, are clipped.
        time = (torch.log(noise / signal) / 4).clamp(-2.0, 2.0)
        condition = F.silu(context.condition + self.time_condition(time))
        coefficients = zip(scale, skip, gain, strict=True)
        for some in condition.split(max(1, _AT_ONCE // max(condition.shape[1], 1))):
            layers = [zip(*(part.unbind() for part in each), strict=True) for each in self.body.modulations(some)]
            for modulations in zip(*layers, strict=True):
                yield Moment(*next(coefficients), modulations)

    def forward(self, context: Context, state: Rows, moment: Moment) -> Endpoint:
        """Endpoint given states x_t ``(R, ·)`` of B contexts at one moment, S = R / B in a row of each.

        state.cat holds codes, or as many as a column has levels for a masked one.
        """
        each = len(context.cat), len(state.cat) // max(len(context.cat), 1)
        count, columns, moves, numbers = context.cat.shape[1], [], None, None
        if context.tokens is not None:
            moves = context.tokens.moves(context.cat, state.cat.unflatten(0, each)).flatten(0, 1)
            columns.append(F.embedding(moves, context.tokens.vectors))
        if context.numbers is not None:
            numbers = context.numbers((state.num * moment.scale)[..., None])
            columns.append(numbers)
        x = context.columns[:, None] + torch.cat(columns, 1).unflatten(0, each)
        if context.entry is not None:
            hidden = context.entry.rest(context.entry(moves, numbers, each), x, moment.modulations).flatten(0, 1)
        else:
            hidden = self.body(x, moment.modulations).flatten(0, 1)
        logits, num = context.prior, state.num
        if context.tokens is not None:
            logits = context.tokens.logits(hidden[:, :count], context.prior, each)
        if self.numbers is not None:
            num = torch.addcmul(moment.skip * state.num, moment.gain, self.numbers.read(hidden[:, count:]))
        return Endpoint(num, logits)

    def _entry(self, columns: Tensor) -> Entry | None:
        """For a perceptron, how states enter it beside embedded factuals ``(B, D, W)``."""
        if not isinstance(self.body, Perceptron):
            return None
        weight, tokens, table = self.body.into.weight, self.tokens, None
        first = weight.unflatten(1, self.position.shape)
        if tokens is not None:

            def behind() -> Tensor:
                vectors = tokens.states()[:-1].unflatten(0, (len(tokens.offset), -1))
                entered = torch.einsum("clw,hcw->clh", vectors, first[:, : len(vectors)])
                return F.pad(entered.flatten(0, 1), (0, 0, 0, 1))

            # In low precision, a product has another type than its factors.
            table = self._entries(behind, weight, *tokens.state_weights).to(weight.dtype)
        numbers = first[:, 0 if tokens is None else len(tokens.offset) :].flatten(1)
        return Entry(self.body.into(columns.flatten(1))[:, None], table, numbers, self.body.ready())


class AdaptiveBlock(nn.Module):
    """Transformer block with adaptive layer norm (Peebles and Xie 2023, DiT).

    **Shape**: ``(B, S, D, W)`` → ``(B, S, D, W)``.
    """

    def __init__(self, width: int, heads: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 6)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        for last in (self.attention.out, self.down):
            nn.init.normal_(last.weight, std=0.5 / math.sqrt(last.in_features))

    def modulate(self, condition: Tensor) -> tuple[Tensor, ...]:
        """What `forward` takes of conditions ``(..., W)``: shift, scale and gate of either half, ``(..., 1, 1, W)``."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (part.unsqueeze(-2) for part in self.modulation(condition))
        return shift, 1 + scale, 1 + gate, ff_shift, 1 + ff_scale, 1 + ff_gate

    def forward(self, x: Tensor, *modulation: Tensor) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation
        normed = torch.addcmul(shift, self.norm(x), scale).flatten(0, 1)
        x = torch.addcmul(x, gate, self.attention(normed, self.attention.keys_values(normed)).view_as(x))
        normed = torch.addcmul(ff_shift, self.norm(x), ff_scale)
        return torch.addcmul(x, ff_gate, self.down(F.gelu(self.up(normed))))


class Transformer(nn.Module):
    """Blocks over the columns and a last adaptive norm. **Shape**: S states under each of B conditions,
    ``(B, S, D, W)`` → ``(B, S, D, W)``."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([AdaptiveBlock(width, heads) for _ in range(layers)])
        self.norm, self.last = nn.LayerNorm(width, elementwise_affine=False), Modulation(width, width, 2)

    def modulations(self, condition: Tensor) -> list[tuple[Tensor, ...]]:
        """What each block, and then the last norm, takes of conditions ``(..., W)``."""
        blocks = [block.modulate(condition) for block in self.blocks]  # type: ignore[operator]
        shift, scale = (part.unsqueeze(-2) for part in self.last(condition))
        return [*blocks, (shift, 1 + scale)]

    def forward(self, x: Tensor, modulations: Sequence[tuple[Tensor, ...]]) -> Tensor:
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            x = block(x, *modulation)
        shift, scale = modulations[-1]
        return torch.addcmul(shift, self.norm(x), scale)
