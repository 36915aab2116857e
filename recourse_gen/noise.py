"""Random numbers that depend on a seed and a row's content, and on nothing else."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from recourse_gen.rows import Rows

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A 32-bit avalanche on int64 tensors (the "lowbias32" finaliser of C. Wellons' hash-prospector search)."""
    x = x & _MASK
    x ^= x >> 16
    x *= 0x7FEB352D
    x &= _MASK
    x ^= x >> 15
    x *= 0x846CA68B
    x &= _MASK
    return x.bitwise_xor_(x >> 16)


@lru_cache(maxsize=32)
def _salts(seed: int, words: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where a seed's keys start, int64 ``(2,)``, and a salt for each word ``(words, 2)``. Hashed with a salt of its
    own, each tells its place in the sum of all."""
    with torch.inference_mode(False):
        start = _mix(torch.tensor([seed & _MASK, ~seed & _MASK], device=device))
        if high := seed >> 32 & _MASK:
            start = _mix(start ^ high)
        place = torch.arange(1, words + 1, device=device)[:, None]
        return start, _mix(start + place * 0x9E3779B9)


class Noise:
    """A counter-based stream: the answer for a row is the same alone, in any batch and on any process.

    `keys` is int64 ``(B, 2)``, one pair of 32-bit words per row; `Noise.of(rows, seed)` derives it from content. Each
    call draws afresh, so a sampler that makes the same calls gets the same numbers. Sample s is the same number
    whatever the number of samples. `draws` counts the calls.
    """

    def __init__(self, keys: Tensor, *, first_sample: int = 0) -> None:
        self.keys = keys
        self.first_sample = first_sample
        self.draws = 0

    @classmethod
    def of(cls, rows: Rows, seed: int, *, first_sample: int = 0) -> Noise:
        """Keys from the seed and the rows ``(B, ·)``; samples are numbered from `first_sample`."""
        # Adding zero turns −0.0 into 0.0: equal rows must have equal bits.
        bits = (rows.num + 0.0).contiguous().view(torch.int32).to(torch.int64)
        words = torch.cat([bits & _MASK, rows.cat], 1)
        start, salts = _salts(int(seed), words.shape[1], words.device)
        return cls(_mix(start + _mix(words[..., None] ^ salts).sum(1)), first_sample=first_sample)

    def take(self, index: Tensor) -> Noise:
        """The streams of the rows at `index`, from the next draw on; these and the given ones advance separately."""
        return Noise(self.keys[index], first_sample=self.first_sample).skip(self.draws)

    def skip(self, draws: int) -> Noise:
        """This stream, advanced as by so many calls of `uniform`."""
        self.draws += draws
        return self

    def uniform(self, samples: int, columns: int) -> Tensor:
        """Float32 ``(B, samples, columns)``, uniform on the open interval (0, 1)."""
        return self.uniforms(1, samples, columns)[0]

    def uniforms(self, draws: int, samples: int, columns: int) -> Tensor:
        """What `draws` calls of `uniform` give one after the other, in one: ``(draws, B, samples, columns)``."""
        device = self.keys.device
        draw = torch.arange(self.draws + 1, self.draws + draws + 1, device=device)[:, None, None, None]
        self.draws += draws
        sample = torch.arange(self.first_sample, self.first_sample + samples, device=device)[:, None]
        column = torch.arange(columns, device=device)
        counter = _mix(_mix(sample + 0x632BE5AB) ^ (column * 0x9E3779B1 + draw))
        word = _mix(self.keys[:, 0, None, None] ^ counter)
        word = _mix(word ^ _mix(self.keys[:, 1, None, None] + counter))
        # 23 bits: with the half added, 24 are all that a float32 holds, and one bit more would round up to 1.
        return ((word >> 9).float() + 0.5) * 2.0**-23

    def normal(self, samples: int, columns: int) -> Tensor:
        """Float32 ``(B, samples, columns)``, standard normal by inverse CDF."""
        return torch.special.ndtri(self.uniform(samples, columns))
