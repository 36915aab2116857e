"""Downs et al., "CRUDS: counterfactual recourse using disentangled subspaces" (2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, one_hot, softplus

from bench.baselines import Baseline
from bench.baselines.coordinates import DTYPE, Coordinates
from bench.baselines.descent import nearest
from bench.baselines.space import Space
from bench.baselines.vae import batches, divergence, network

if TYPE_CHECKING:
    from typing import Self

    from train import World


class SubspaceAutoencoder(nn.Module):
    """A conditional subspace autoencoder (Klys et al., NeurIPS 2018): z knows nothing of the outcome y, w does.

    p(x | z, w, c), p(w | y) learned, p(z) standard normal, c the immutable coordinates; q(z | x) and q(w | x, y). The
    `critic` guesses y from z and c, and z is trained so that it cannot.
    """

    def __init__(self, coordinates: Coordinates, latents: int, subspace: int, width: int, sigma: float) -> None:
        super().__init__()
        self.coordinates, self.sigma = coordinates, sigma
        size, given = len(coordinates.fixed), int(coordinates.fixed.sum())
        self.to_z = network(size, 2 * latents, width)
        self.to_w = network(size + 2, 2 * subspace, width)
        self.decoder = network(latents + subspace + given, size, width)
        self.critic = network(latents + given, 2, width)
        self.prior = nn.Parameter(torch.zeros(2, 2 * subspace, dtype=DTYPE))

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log variance of z ``(B, V)`` and of w ``(B, W)``, of points ``(B, E)`` and outcomes ``(B,)``."""
        z, z_log = self.to_z(2 * x - 1).chunk(2, -1)
        w, w_log = self.to_w(torch.cat([2 * x - 1, one_hot(y, 2)], -1)).chunk(2, -1)
        return z, z_log.clamp(-10, 10), w, w_log.clamp(-10, 10)

    def decode(self, z: Tensor, w: Tensor, origin: Tensor) -> Tensor:
        """The mean of points ``(B, E)``; immutable coordinates are those of `origin` ``(B, E)``."""
        fixed = self.coordinates.fixed
        raw = self.decoder(torch.cat([z, w, 2 * origin[:, fixed] - 1], -1))
        return torch.where(fixed, origin, self.coordinates.squash(raw))

    def guess(self, z: Tensor, origin: Tensor) -> Tensor:
        """The critic's logits ``(B, 2)`` of the outcome."""
        return self.critic(torch.cat([z, 2 * origin[:, self.coordinates.fixed] - 1], -1))

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``(B,)`` twice: the loss of everything but the critic, and that of the critic. noise: ``(B, V + W)``."""
        z, z_log, w, w_log = self.encode(x, y)
        deviation = (torch.cat([z_log, w_log], -1) / 2).exp()
        drawn_z, drawn_w = (torch.cat([z, w], -1) + noise * deviation).split([z.shape[1], w.shape[1]], -1)
        error = ((x - self.decode(drawn_z, drawn_w, x)) ** 2).sum(-1) / (2 * self.sigma**2)
        prior, prior_log = self.prior[y].chunk(2, -1)
        bound = error + divergence(w, w_log, prior, prior_log)
        bound = bound + divergence(z, z_log, torch.zeros_like(z), torch.zeros_like(z))
        guessed = log_softmax(self.guess(drawn_z, x), -1)
        negative_entropy = (guessed.exp() * guessed).sum(-1)
        return bound + negative_entropy, cross_entropy(self.guess(drawn_z.detach(), x), y, reduction="none")


class Cruds(Baseline):
    """The nearest approved row on a gradient descent in the latent subspace that carries the outcome.

    z of the factual stays, w follows the gradient of cross-entropy + `weight` · L1 between decoded point and factual.
    weight, learning_rate, steps, RMSprop, and two dimensions of w: those of CARLA (Pawelczyk et al., 2021). The
    autoencoder is smaller than CARLA's and trained for longer than its 5 epochs.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        weight: float = 0.001,
        learning_rate: float = 0.008,
        steps: int = 2000,
        norm: float = 1.0,
        latents: int = 8,
        subspace: int = 2,
        width: int = 64,
        sigma: float = 0.03,
        training_steps: int = 2000,
        batch_size: int = 128,
    ) -> None:
        self.seed = seed
        self.options = {"weight": weight, "learning_rate": learning_rate, "steps": steps, "norm": norm}
        self.network = {"latents": latents, "subspace": subspace, "width": width, "sigma": sigma}
        self.training = {"steps": training_steps, "batch_size": batch_size}

    def fit(self, world: World) -> Self:
        self.space = Space.of(world)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = SubspaceAutoencoder(self.space.coordinates, **self.network)  # type: ignore[arg-type]
        critics = list(model.critic.parameters())
        others = [parameter for name, parameter in model.named_parameters() if not name.startswith("critic")]
        descents = [torch.optim.Adam(others, 2e-3), torch.optim.Adam(critics, 2e-3)]
        x, y = self.space.train, self.space.outcome
        size = self.network["latents"] + self.network["subspace"]
        for rows in batches(len(x), generator, **self.training):
            noise = torch.randn(len(rows), int(size), generator=generator, dtype=DTYPE)
            losses = model(x[rows], y[rows], noise)
            gradients = [
                torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
                for loss, parameters in zip(losses, (others, critics), strict=True)
            ]
            for descent, parameters, slopes in zip(descents, (others, critics), gradients, strict=True):
                for parameter, slope in zip(parameters, slopes, strict=True):
                    parameter.grad = slope
                descent.step()
        self.model = model.requires_grad_(False)
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        space, model = self.space, self.model
        origin = space.coordinates.encode(factuals)
        z, _, w, _ = model.encode(origin, (space.logit(origin) > 0).long())
        points = nearest(
            space.coordinates,
            origin,
            loss=lambda x: softplus(-space.logit(x)),
            slack=space.logit,
            optimizer=torch.optim.RMSprop,
            start=w,
            point=lambda moved: model.decode(z, moved, origin),
            **self.options,  # type: ignore[arg-type]
        )
        return space.answers(factuals, points)
