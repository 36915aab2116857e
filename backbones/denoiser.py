"""One network for every non-autoregressive backbone: it predicts the endpoint of a path from a noisy state.

A path leads from noise, or from the factual x, to the counterfactual x⁺. All that flow matching and diffusion of
numbers need is E[x⁺ | x_t, x]; all that masked diffusion and discrete flows of tokens need is p(x⁺_d | x_t, x).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.alphabet import Alphabet
from backbones.layers import Attention, Kept, LevelTable
from backbones.perceptron import Modulation, Perceptron
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

BODIES = ("transformer", "mlp")
_AT_ONCE = 2048  # conditions of which modulations are made at one time, for memory


class Context(NamedTuple):
    """What is known of the factuals before any noise, computed once per factual.

    columns: ``(B, D, W)`` embedded. condition: of λ, ``(B, W)``. cat: the factuals' codes ``(B, C)``.
    prior: logits ``(B, C, L)`` before the network has its say: what the cost suggests, and a bias.
    entered: what the first layer of a perceptron makes of the columns, ``(B, H)``; None for other bodies.
    """

    columns: Tensor
    condition: Tensor
    cat: Tensor
    prior: Tensor
    entered: Tensor | None = None


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
        entered = self.body.into(embedded.flatten(1)) if isinstance(self.body, Perceptron) else None
        return Context(embedded, condition, factual.cat, prior, entered)

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
        if self.tokens is not None:
            moves = self.tokens.moves(context.cat, state.cat.unflatten(0, each)).flatten(0, 1)
            columns.append(F.embedding(moves, self.tokens.states()))
        if self.numbers is not None:
            numbers = self.numbers.state((state.num * moment.scale)[..., None])
            columns.append(numbers)
        x = context.columns[:, None] + torch.cat(columns, 1).unflatten(0, each)
        if isinstance(self.body, Perceptron) and context.entered is not None:
            entered = context.entered[:, None] + self._entered(moves, numbers).unflatten(0, each)
            hidden = self.body.after(entered, x, moment.modulations).flatten(0, 1)
        else:
            hidden = self.body(x, moment.modulations).flatten(0, 1)
        logits, num = context.prior, state.num
        if self.tokens is not None:
            logits = self.tokens.logits(hidden[:, :count], context.prior, each)
        if self.numbers is not None:
            num = torch.addcmul(moment.skip * state.num, moment.gain, self.numbers.read(hidden[:, count:]))
        return Endpoint(num, logits)

    def _entered(self, moves: Tensor | None, numbers: Tensor | None) -> Tensor:
        """What a perceptron's first layer makes of states, ``(R, H)``. As it is linear, the vector of a token's move
        can be looked up behind it; only embedded numbers ``(R, N, W)`` need a product. moves: ``(R, C)``."""
        assert isinstance(self.body, Perceptron)
        weight, tokens, parts = self.body.into.weight, self.tokens, []
        first = weight.unflatten(1, self.position.shape)
        if moves is not None and tokens is not None:

            def behind() -> Tensor:
                vectors = tokens.states()[:-1].unflatten(0, (moves.shape[1], -1))
                return F.pad(
                    torch.einsum("clw,hcw->clh", vectors, first[:, : moves.shape[1]]).flatten(0, 1), (0, 0, 0, 1)
                )

            table = self._entries(behind, weight, *tokens.state_weights)
            # In low precision, a product has another type than its factors.
            parts.append(F.embedding_bag(moves, table.to(weight.dtype), mode="sum"))
        if numbers is not None:
            parts.append(F.linear(numbers.flatten(1), first[:, -numbers.shape[1] :].flatten(1)))
        return sum(parts[1:], parts[0])


class WaveEmbedding(nn.Module):
    """Perceptron of scalars and their sines and cosines, one per column. **Shape**: ``(..., D, 1)`` → ``(..., D, W)``.

    Several wavelengths let it follow sharp functions of a number (Tancik et al. 2020; Gorishniy et al. 2022).
    """

    def __init__(self, columns: int, width: int, waves: int = 8) -> None:
        super().__init__()
        self.frequency: Tensor
        self.phase: Tensor
        # Scores lie within ±3: from less than one wave over that range to waves of an eighth.
        self.register_buffer("frequency", (math.pi / 4 * 1.8 ** torch.arange(waves)).repeat(2), persistent=False)
        # cos x = sin(x + π / 2)
        self.register_buffer("phase", (torch.arange(2 * waves) >= waves) * (math.pi / 2), persistent=False)
        self.weight = nn.Parameter(torch.randn(columns, 2 * waves + 1, width) * 0.3)
        self.bias = nn.Parameter(torch.randn(columns, width) * 0.3)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.cat([x, torch.addcmul(self.phase, x, self.frequency).sin()], -1)
        if self.weight.shape[0] == 1:
            return self.out(F.silu(features @ self.weight[0] + self.bias[0]))
        by_column = torch.baddbmm(self.bias[:, None], features.transpose(0, 1), self.weight)
        return self.out(F.silu(by_column.transpose(0, 1)))


class NumberColumns(nn.Module):
    """Embeddings of factual and noisy numbers, and what the network says about each number."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.factual, self.state = WaveEmbedding(columns, width), WaveEmbedding(columns, width)
        self.weight = nn.Parameter(torch.randn(columns, width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(columns))

    def read(self, hidden: Tensor) -> Tensor:
        """``(R, N, W)`` → ``(R, N)``."""
        return (hidden * self.weight).sum(-1) + self.bias


class TokenColumns(nn.Module):
    """Embeddings and logits of token columns: C columns, L levels in the largest; smaller ones are padded.

    The vector of an ordinal level is a free one plus a smooth function of its rank, so that neighbours share what
    they learn.
    """

    def __init__(self, schema: Schema, width: int) -> None:
        super().__init__()
        self.alphabet = Alphabet(Schema(schema.tokens), bins=2, spacing="uniform")
        count, size = len(schema.tokens), max(self.alphabet.sizes)
        self.padding: Tensor
        self.offset: Tensor
        basis = F.pad(self.alphabet.basis(), (0, 0, 0, 1))  # one more code, for a masked token
        padding = torch.arange(size) >= torch.tensor(self.alphabet.sizes)[:, None]
        self.register_buffer("padding", torch.zeros(count, size).masked_fill(padding, -math.inf), persistent=False)
        self.register_buffer("offset", torch.arange(count) * (size + 1), persistent=False)
        self.factual = LevelTable(basis, width, 0.1)
        self.present = LevelTable(basis, width, 0.1)
        self.moved = nn.Parameter(torch.randn(count, width) * 0.1)
        self.head = LevelTable(basis[:, :size], width, 0.02)
        self.bias = nn.Parameter(torch.zeros(count, size))
        self._states = Kept()

    @property
    def state_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.present.free, self.present.smooth, self.moved

    def moves(self, factual: Tensor, cat: Tensor) -> Tensor:
        """The places in `states` of codes ``(B, S, C)`` of states under each of B factuals ``(B, C)``."""
        same = cat == factual[:, None]
        return (cat + self.offset).masked_fill_(same, self.present.basis.shape[:2].numel())

    def states(self) -> Tensor:
        """Vectors of the codes of a state, column by column, and zeros for whatever is as in the factual:
        ``(C · (L + 1) + 1, W)``."""

        def vectors() -> Tensor:
            return F.pad((self.present() + self.moved[:, None]).flatten(0, 1), (0, 0, 0, 1))

        return self._states(vectors, *self.state_weights)

    def logits(self, hidden: Tensor, prior: Tensor, each: tuple[int, int]) -> Tensor:
        """``(R, C, W)`` and ``(B, C, L)`` → ``(R, C, L)``; each: B and S, S rows for each of B in a row."""
        by_column = torch.bmm(hidden.transpose(0, 1), self.head().mT).unflatten(1, each)
        # Column after column in memory, as the first summand is: no copy is needed.
        return (by_column + prior.transpose(0, 1)[:, :, None]).flatten(1, 2).transpose(0, 1)


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
