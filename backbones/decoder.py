"""The causal decoder: what a column's place knows of the factual, and of the columns that were drawn before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
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
        """Hidden state ``(R, W)`` of the next column, from its start ``(B, W)``, R / B drafts of each in a row, and the
        embedded column before it ``(R, W)``, zeros at first. Columns are visited in order from 0."""
        x = (previous.unflatten(0, (len(start), -1)) + start[:, None]).flatten(0, 1)
        for block in self.blocks:
            x = block.step(x, column)
        return x


class CachedBlock:
    """One block's causal pass over the columns of R drafts, one column at a time, without gradients.

    memory: encoded factuals ``(B, M, W)`` for a block with cross-attention; drafts are R / B per factual, in order.

    One query per draft and few keys: kernels of attention have little to do then, and are slow at it. Written out as
    products and sums with the drafts innermost, all of it runs over long rows of numbers.
    """

    def __init__(self, block: Block, columns: int, rows: int, memory: Tensor) -> None:
        attention, cross = block.self_attention, block.cross_attention
        # Looking up a module's part takes as long as multiplying a small matrix: once is enough.
        self.norm, self.out, self.feed_forward = block.self_norm, attention.out.weight.T, block.feed_forward
        self.cross_norm, heads = block.cross_norm, attention.heads
        self.weight = torch.cat([attention.query.weight * attention.scale, attention.memory.weight])
        width = self.weight.shape[1]
        # Query, keys and values ``(D, 3, heads, W / heads, R)``.
        self.held = memory.new_empty(columns, 3, heads, width // heads, rows)
        if cross is not None:
            self.cross_out = cross.out.weight.T
            self.query = (cross.query.weight * cross.scale).contiguous()
            # ``(M, heads, W / heads, R)``: the drafts of one factual look at the same memory.
            self.keys, self.values = (
                rearrange(part, "b h m w -> m h w b").repeat_interleave(rows // len(memory), 3)
                for part in cross.keys_values(memory)
            )

    def step(self, x: Tensor, column: int) -> Tensor:
        """``(R, W)`` → ``(R, W)`` for the next column; columns are visited in order from 0."""
        now = self.held[column]
        torch.mm(self.weight, self.norm(x).T, out=now.flatten(0, 2))
        _, keys, values = self.held[: column + 1].unbind(1)
        x = self._attended(x, now[0], keys, values, self.out)
        if self.cross_norm is not None:
            query = torch.mm(self.query, self.cross_norm(x).T).view_as(now[0])
            x = self._attended(x, query, self.keys, self.values, self.cross_out)
        return self.feed_forward(x)

    @staticmethod
    def _attended(x: Tensor, query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> Tensor:
        share = (keys * query).sum(2).softmax(0)
        mixed = (share[:, :, None] * values).sum(0).flatten(0, 1)
        return torch.addmm(x, mixed.T, out)
