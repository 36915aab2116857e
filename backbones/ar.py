"""Autoregressive transformer over columns: GenRe's generator (Garg, Nagalapatti, Sarawagi, ICLR 2025).

R(x⁺ | x) = Π_d R(x⁺_d | x⁺_<d, x), each factor a softmax over the column's alphabet (backbones/alphabet.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.alphabet import Alphabet
from backbones.blocks import in_blocks
from backbones.corruption import Corruption
from backbones.decoder import CausalTransformer
from backbones.layers import (
    Block,
    ChangedEmbedding,
    ColumnEmbedding,
    ColumnHead,
    ScalarEmbedding,
    log_choice,
)
from backbones.perceptron import Perceptron
from backbones.replay import Replay
from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from recourse_gen.pairs import PairSupervision

ENCODERS = ("mlp", "transformer")
_BLOCK = 2048


class AutoregressiveBackbone(Backbone):
    """Encoder over the factual's columns, causal decoder over the counterfactual's.

    width, heads: of every block. encoder_layers, decoder_layers: number of blocks.
    encoder: ``mlp`` over all columns at once, which learns who is near whom in fewer steps, or ``transformer`` (the
        paper's).
    bins, spacing: how a continuous column is cut: ``quantile`` bins with a uniform draw inside, or a ``uniform`` grid
        of values from which one is emitted (the paper's).
    smoothing: standard deviation, in scaled units (0 to 1), of a Gaussian that blurs numeric targets (the paper: 0.02);
        0 for none. With it, continuous columns are read as numbers, as the paper's network reads them, without vectors
        of their bins: blur leads to values that no likely partner has, and who can tell neighbouring bins apart then
        follows the unlikely one who has.
    cross_attention: the decoder attends to every encoded column (the paper's); otherwise decoder position d simply
        receives the encoded column d, so leaving a column as it is needs no attention.
    cost_prior: add −λ·s_d·C_d(x_d, ·) to the logits of column d, with s_d learned from 1: the factor that Q itself has.
    corruption: share of the columns seen in training that belong to another draw, see `backbones.corruption`.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 64,
        heads: int = 2,
        encoder: str = "mlp",
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        bins: int = 64,
        spacing: str = "quantile",
        smoothing: float = 0.0,
        cross_attention: bool = False,
        cost_prior: bool = True,
        corruption: float = 0.5,
    ) -> None:
        super().__init__(schema)
        least = {"width": (width, 1), "heads": (heads, 1), "encoder_layers": (encoder_layers, 0)}
        for name, (value, limit) in {**least, "decoder_layers": (decoder_layers, 1)}.items():
            if value < limit:
                raise ValueError(f"{name} must be at least {limit}, got {value}")
        if encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {encoder!r}")
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"smoothing must be finite and not negative, got {smoothing}")
        self.alphabet = Alphabet(schema, bins=bins, spacing=spacing)
        sizes, columns = self.alphabet.sizes, len(schema.features)
        self.replay, self.smoothing = Replay(), smoothing
        self.corruption = Corruption(corruption)
        basis = self.alphabet.basis()
        free = torch.tensor([feature.is_token for feature in schema.features]) if smoothing else None
        self.embed_factual = ColumnEmbedding(basis, width, free)
        self.embed_previous = ChangedEmbedding(basis, width, free)
        self.embed_cost_weight = ScalarEmbedding(width)
        self.encoder_position = nn.Parameter(torch.randn(columns, width) * 0.1)
        self.decoder_position = nn.Parameter(torch.randn(columns, width) * 0.1)
        self.encoder = (
            Perceptron(columns, width, encoder_layers, expansion=6)
            if encoder == "mlp"
            else nn.ModuleList([Block(width, heads) for _ in range(encoder_layers)])
        )
        self.decoder = CausalTransformer(width, heads, decoder_layers, cross_attention)
        self.norm = nn.LayerNorm(width)
        self.head = ColumnHead(basis, sizes, width)
        self.cost_scale = nn.Parameter(torch.ones(columns)) if cost_prior else None

    def observe(self, pairs: PairSupervision) -> None:
        self.corruption.pairs = pairs

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Negative log-likelihood ``(B,)`` in nats; the cross-entropy to blurred targets if `smoothing` > 0."""
        seen = self.corruption(factual, counterfactual, cost_weight) if self.training else counterfactual
        log_p = torch.log_softmax(self._logits(factual, seen, cost_weight), -1)
        codes = self.alphabet.codes(counterfactual)
        if not self.smoothing:
            return -log_p.gather(2, codes[:, :, None])[..., 0].sum(1)
        targets = self.alphabet.blurred(codes, self.alphabet.numbers(counterfactual), self.smoothing)
        return -(targets * log_p.masked_fill(targets == 0, 0.0)).sum((1, 2))

    def log_prob(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """log R(x⁺ | x) ``(B,)`` in nats: a probability of tokens times a density of continuous columns."""
        log_p = torch.log_softmax(self._logits(factual, counterfactual, cost_weight), -1)
        codes = self.alphabet.codes(counterfactual)
        return log_p.gather(2, codes[:, :, None])[..., 0].sum(1) - self.alphabet.log_width(codes).sum(1)

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
        """Ancestral sampling, some thousand candidates at a time."""

        def draw(factual: Rows, cost_weight: Tensor, feasible: Feasible | None, noise: Noise) -> Rows:
            return self._draw(factual, num_samples, cost_weight, feasible, temperature, noise)

        replayed = self.replay(draw, self.parameters(), num_samples, temperature)
        return in_blocks(replayed, factual, cost_weight, feasible, noise, num_samples=num_samples, size=_BLOCK)

    def _draw(
        self,
        factual: Rows,
        num_samples: int,
        cost_weight: Tensor,
        feasible: Feasible | None,
        temperature: float,
        noise: Noise,
    ) -> Rows:
        """Encode once, then one cached decoder step per column for all R = B·S candidates."""
        context = self._encode(factual, cost_weight)
        owner = torch.arange(factual.batch_size, device=context.device).repeat_interleave(num_samples)
        draft = self.alphabet.draft(factual, owner, feasible)
        bias = self._bias(factual, cost_weight)
        if draft.open is not None:
            bias = bias.masked_fill(~draft.open, -math.inf)
        decoder, columns = self.decoder.cached(len(owner), context), context.shape[1]
        starts = (context + self.decoder_position).unbind(1)
        uniforms = noise.uniforms(columns, num_samples, 2).flatten(1, 2).unbind(2)
        which, within = (uniform.unbind(0) for uniform in uniforms)
        own_codes = self.alphabet.codes(factual)[owner].unbind(1)
        own_values = self.alphabet.numbers(factual)[owner].unbind(1)
        previous = context.new_zeros(len(owner), context.shape[2])
        embeddings, heads = self.embed_previous.columns(), self.head.columns()
        for column, size in enumerate(self.alphabet.sizes):
            x = decoder.step(starts[column], previous, column)
            logits = heads[column](self.norm(x), bias[:, column, :size])
            if draft.tied:
                logits = logits.masked_fill(~draft.mask(column), -math.inf)
            if temperature != 1.0:
                # The largest becomes 0, so that no temperature, however low, overflows.
                logits = (logits - logits.amax(1, keepdim=True)) / temperature
            codes = log_choice(logits, which[column])
            values = draft.emit(column, codes, within[column])
            moved, distance = codes != own_codes[column], values - own_values[column]
            previous = embeddings[column](codes, values, moved, distance)
        drawn = draft.rows()
        return Rows(*(part.unflatten(0, (-1, num_samples)) for part in drawn))

    def _encode(self, factual: Rows, cost_weight: Tensor) -> Tensor:
        """Context ``(B, D, W)``: each column of the factual, having seen the others and λ."""
        x = self.embed_factual(self.alphabet.codes(factual), self.alphabet.numbers(factual)) + self.encoder_position
        condition = self.embed_cost_weight(cost_weight)
        x = x + condition[:, None]
        if isinstance(self.encoder, Perceptron):
            return self.encoder(x[:, None], nn.functional.silu(condition))[:, 0]
        for block in self.encoder:
            x = block(x)
        return x

    def _bias(self, factual: Rows, cost_weight: Tensor) -> Tensor:
        """The head's bias, with `cost_prior` minus λ·s_d·C_d(x_d, level): ``(B, D, L)``."""
        if self.cost_scale is None:
            return self.head.bias.expand(factual.batch_size, -1, -1)
        return self.head.bias - self.alphabet.costs(factual) * (cost_weight[:, None] * self.cost_scale)[..., None]

    def _logits(self, factual: Rows, seen: Rows, cost_weight: Tensor) -> Tensor:
        """Teacher-forced logits ``(B, D, L)``; position d sees the columns of `seen` before d."""
        context = self._encode(factual, cost_weight)
        codes, values = self.alphabet.codes(seen), self.alphabet.numbers(seen)
        moved, distance = codes != self.alphabet.codes(factual), values - self.alphabet.numbers(factual)
        previous = self.embed_previous(codes, values, moved, distance)
        x = self.decoder(context + self.decoder_position, previous, context)
        return self.head(self.norm(x), self._bias(factual, cost_weight))
