"""The causal decoder: what a column's place knows of the factual, and of the columns that were drawn before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import Block


class CausalTransformer(nn.Module):
    """From starts ``(B, D, W)``, one per column or of the first columns only, and as many embedded columns of a
    counterfactual to hidden states ``(B, D, W)``; that of column d depends on the columns before d only.

    cross: also attention to every column of a memory ``(B, M, W)``, the encoded factual. `cached` gives the same one
    column at a time, for R drafts, without gradients.
    """

    def __init__(self, width: int, heads: int, layers: int, cross: bool) -> None:
        super().__init__()
        self.cross = cross
        self.blocks = nn.ModuleList([Block(width, heads, cross=cross) for _ in range(layers)])

    def forward(self, start: Tensor, previous: Tensor, memory: Tensor) -> Tensor:
        x = start + F.pad(previous[:, :-1], (0, 0, 1, 0))
        for block in self.blocks:
            x = block(x, causal=True, memory=memory if self.cross else None)
        return x

    def cached(self, rows: int, memory: Tensor) -> CachedTransformer:
        return CachedTransformer(self, rows, memory)


class CachedTransformer:
    """memory: encoded factuals ``(B, M, W)``; drafts are R / B per factual, in order."""

    def __init__(self, decoder: CausalTransformer, rows: int, memory: Tensor) -> None:
        self.blocks = [CachedBlock(block, memory.shape[1], rows, memory) for block in decoder.blocks]  # type: ignore[arg-type]

    def step(self, start: Tensor, previous: Tensor, column: int) -> Tensor:
        """Hidden state ``(R, W)`` of the next column, from its start ``(R, W)`` and the embedded column before it
        ``(R, W)``, zeros at first. Columns are visited in order from 0."""
        x = start + previous
        for block in self.blocks:
            x = block.step(x, column)
        return x


class CachedBlock:
    """One block's causal pass over the columns of R drafts, one column at a time, without gradients.

    memory: encoded factuals ``(B, M, W)`` for a block with cross-attention; drafts are R / B per factual, in order.
    """

    def __init__(self, block: Block, columns: int, rows: int, memory: Tensor) -> None:
        attention = block.self_attention
        self.block, self.heads = block, attention.heads
        self.weight = torch.cat([attention.query.weight, attention.memory.weight]).T.contiguous()
        self.keys, self.values = memory.new_empty(
            2, rows, self.heads, columns, attention.query.out_features // self.heads
        )
        self.memory = None if block.cross_attention is None else block.cross_attention.keys_values(memory)

    def step(self, x: Tensor, column: int) -> Tensor:
        """``(R, W)`` → ``(R, W)`` for the next column; columns are visited in order from 0."""
        block = self.block
        made = torch.mm(block.self_norm(x), self.weight).unflatten(1, (3, self.heads, -1))
        query, self.keys[:, :, column], self.values[:, :, column] = made.unbind(1)
        keys, values = self.keys[:, :, : column + 1].flatten(0, 1), self.values[:, :, : column + 1].flatten(0, 1)
        # One query per draft and few keys: fused kernels of attention would do less in more time.
        share = torch.bmm(query.flatten(0, 1)[:, None] * query.shape[-1] ** -0.5, keys.transpose(1, 2)).softmax(2)
        x = x + block.self_attention.out(torch.bmm(share, values).view_as(x))
        if self.memory is None:
            return block.rest(x, None)
        # The drafts of one factual look at the same memory: they are its queries.
        return block.rest(x.view(self.memory[0].shape[0], -1, x.shape[1]), self.memory).view_as(x)
