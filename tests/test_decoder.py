"""Causal decoders hear the columns before, and one column at a time gives what all at once give."""

import pytest
import torch
from torch import nn

from backbones.decoder import CausalTransformer

DECODERS = {
    "alone": lambda: CausalTransformer(12, 3, 2, cross=False),
    "cross": lambda: CausalTransformer(12, 3, 2, cross=True),
}


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DECODERS[name]().double()


@pytest.mark.parametrize("name", DECODERS)
def test_cached_steps_equal_the_causal_pass(name):
    decoder, generator = built(name), torch.Generator().manual_seed(0)
    start, previous, memory = torch.randn(3, 4, 6, 12, generator=generator, dtype=torch.float64)
    whole = decoder(start, previous, memory)
    with torch.no_grad():
        cached, before = decoder.cached(8, memory), torch.zeros(8, 12, dtype=torch.float64)
        for column in range(6):
            # Two drafts each, with the same columns.
            step = cached.step(start[:, column], before, column)
            torch.testing.assert_close(step, whole[:, column].repeat_interleave(2, 0))
            before = previous[:, column].repeat_interleave(2, 0)
    assert (name == "cross") != torch.equal(whole, decoder(start, previous, memory.flip(0)))


@pytest.mark.parametrize("name", DECODERS)
def test_a_column_hears_all_columns_before_it_and_no_other(name):
    decoder, generator = built(name), torch.Generator().manual_seed(0)
    start, previous, memory = torch.randn(3, 4, 6, 12, generator=generator, dtype=torch.float64)
    whole, changed = decoder(start, previous, memory), previous.clone()
    changed[:, 2] += start[:, 5]
    differs = (decoder(start, changed, memory) - whole).abs().amax((0, 2)) > 1e-9
    assert differs.tolist() == [False] * 3 + [True] * 3
