"""Trainings of tiny networks on a tiny table, for the tests that cut them short, resume them and launch them."""

from pathlib import Path
from typing import Any

import torch

from recourse_gen import Constraints, registry, training
from recourse_gen.backbone import Backbone
from recourse_gen.pairs import PairSupervision
from recourse_gen.testing.tables import pairs_of, random_frame, table_of
from recourse_gen.training import Trained, TrainingOptions

TINY: dict[str, dict[str, Any]] = {
    "ar": {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "bins": 8},
    "flow": {"width": 16, "layers": 1},
    "diffusion": {"width": 16, "layers": 1},
}
SHORT: dict[str, Any] = {
    "steps": 30,
    "minutes": 60.0,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "validation_pairs": 32,
    "validate_every": 7,
    "checkpoint_every": 0.0,
}


def small_pairs(seed: int = 0) -> PairSupervision:
    return pairs_of(
        table_of(random_frame(["text", "steps", "float"], 60, seed)), Constraints(), training.processes().device
    )


def build(name: str, pairs: PairSupervision, **options: Any) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = registry.load(name)(pairs.transform.schema, **{**TINY[name], **options})
    model.observe(pairs)
    return model


def train(
    name: str, pairs: PairSupervision, folder: Path | None = None, *, seed: int = 0, **given: Any
) -> tuple[Backbone, Trained]:
    """Train a new network. given: training options, and `save`, `resume` and `settings` of `training.fit`."""
    model = build(name, pairs)
    rest = {key: given.pop(key) for key in ("save", "resume", "settings") if key in given}
    options = TrainingOptions(**{**SHORT, **given})
    return model, training.fit(model, pairs, options=options, seed=seed, folder=folder, **rest)


def same(a: Backbone, b: Backbone) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
