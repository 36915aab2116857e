"""A variational autoencoder of the training rows (Kingma & Welling, 2014), trained once per world and shared."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.baselines.coordinates import DTYPE, Coordinates
from bench.baselines.space import Space

if TYPE_CHECKING:
    from train import World

_TRAINED: dict[tuple[int, int, int], Autoencoder] = {}


def network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers).to(DTYPE)


class Autoencoder(nn.Module):
    """p(x | z, c) and q(z | x, c) of points: c are the immutable coordinates, which are given and come back unchanged.

    coordinates: of the table. latents: size of z. width: of both hidden layers. sigma: standard deviation of a point
    around its reconstruction.
    """

    def __init__(self, coordinates: Coordinates, latents: int = 8, width: int = 64, sigma: float = 0.03) -> None:
        super().__init__()
        self.coordinates, self.latents, self.sigma = coordinates, latents, sigma
        size, given = len(coordinates.fixed), int(coordinates.fixed.sum())
        self.encoder = network(size, 2 * latents, width)
        self.decoder = network(latents + given, size, width)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(B, V)`` of z given points ``(B, E)``."""
        mean, log_variance = self.encoder(2 * x - 1).chunk(2, -1)
        return mean, log_variance.clamp(-10, 10)

    def decode(self, z: Tensor, origin: Tensor) -> Tensor:
        """The mean of points ``(..., E)`` given z ``(..., V)`` and the immutables of `origin` ``(..., E)``."""
        fixed = self.coordinates.fixed
        raw = self.decoder(torch.cat([z, 2 * origin[..., fixed] - 1], -1))
        return torch.where(fixed, origin, self.coordinates.squash(raw))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``(B,)``: the negative evidence bound, up to a constant; noise is standard normal ``(B, V)``."""
        mean, log_variance = self.encode(x)
        reconstructed = self.decode(mean + noise * (log_variance / 2).exp(), x)
        error = ((x - reconstructed) ** 2).sum(-1) / (2 * self.sigma**2)
        return error + divergence(mean, log_variance, torch.zeros_like(mean), torch.zeros_like(mean))


def divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """``(B,)``: KL(q ‖ p) of two diagonal normal laws ``(B, V)``."""
    ratio = (log_variance - prior_log_variance).exp() + (mean - prior_mean) ** 2 / prior_log_variance.exp()
    return (ratio - 1 - log_variance + prior_log_variance).sum(-1) / 2


def batches(size: int, generator: torch.Generator, *, steps: int, batch_size: int) -> Iterator[Tensor]:
    """The positions of each step's rows, all rows in a new order before any comes again."""
    epochs = (torch.randperm(size, generator=generator).split(batch_size) for _ in count())
    return islice(chain.from_iterable(epochs), steps)


def autoencoder(
    world: World, space: Space, *, seed: int, steps: int, batch_size: int = 128, learning_rate: float = 2e-3
) -> Autoencoder:
    """The autoencoder of the world's training rows, trained with Adam when first asked for.

    CARLA (Pawelczyk et al., 2021) trains larger ones for 5 epochs in batches of 32; here the learning rate also falls.
    """
    key = (id(world), seed, steps)
    if key not in _TRAINED:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Autoencoder(space.coordinates)
        descent = torch.optim.Adam(model.parameters(), learning_rate)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
        for rows in batches(len(space.train), generator, steps=steps, batch_size=batch_size):
            x = space.train[rows]
            noise = torch.randn(len(x), model.latents, generator=generator, dtype=DTYPE)
            descent.zero_grad()
            model(x, noise).mean().backward()
            descent.step()
            rate.step()
        _TRAINED[key] = model.requires_grad_(False)
        weakref.finalize(world, _TRAINED.pop, key, None)
    return _TRAINED[key]
