"""The published sampling procedure, plainly: what the cached and batched sampler of `backbones/ar.py` is timed against.

Best-of-k in Garg, Nagalapatti and Sarawagi (ICLR 2025) draws one candidate after the other. For every column of every
candidate, the factual is encoded again and the whole prefix decoded again; only the last position's logits are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.ar import AutoregressiveBackbone
from recourse_gen.rows import Rows


@torch.no_grad()
def sample(
    model: AutoregressiveBackbone,
    factual: Rows,
    *,
    num_samples: int,
    cost_weight: Tensor,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Rows:
    """`Rows` ``(B, S, ·)`` from the law that `model.sample` draws from without constraints. Weights are the model's."""
    drawn = [_candidate(model, factual, cost_weight, temperature, generator) for _ in range(num_samples)]
    return Rows(torch.stack([rows.num for rows in drawn], 1), torch.stack([rows.cat for rows in drawn], 1))


def _candidate(
    model: AutoregressiveBackbone,
    factual: Rows,
    cost_weight: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Rows:
    alphabet, drawn = model.alphabet, Rows(torch.zeros_like(factual.num), torch.zeros_like(factual.cat))
    for column, (size, (_, t, n)) in enumerate(zip(alphabet.sizes, model.schema.places, strict=True)):
        logits = _last_logits(model, factual, drawn, cost_weight, column)[:, :size] / temperature
        codes = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        if t is not None:
            drawn.cat[:, t] = codes
            continue
        low, high = alphabet.emit_low[column][codes], alphabet.emit_high[column][codes]
        drawn.num[:, n] = low + (high - low) * torch.rand(low.shape, device=low.device, generator=generator)
    return drawn


def _last_logits(model: AutoregressiveBackbone, factual: Rows, drawn: Rows, cost_weight: Tensor, column: int) -> Tensor:
    """Logits ``(B, L)`` of one column, from the factual and the columns of `drawn` before it."""
    alphabet = model.alphabet
    context = model._encode(factual, cost_weight)
    codes, values = alphabet.codes(drawn), alphabet.numbers(drawn)
    moved, distance = codes != alphabet.codes(factual), values - alphabet.numbers(factual)
    prefix = slice(column + 1)
    previous = model.embed_previous(codes, values, moved, distance)[:, prefix]
    x = model.decoder((context + model.decoder_position)[:, prefix], previous, context)
    bias = model._bias(factual, cost_weight)[:, column, : alphabet.sizes[column]]
    return model.head.columns()[column](model.norm(x[:, -1]), bias)
