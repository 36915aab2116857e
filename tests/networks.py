"""Small autoregressive networks and rows for them, shared by the tests of the backbone."""

import itertools
from typing import Any

import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor

from backbones.ar import AutoregressiveBackbone
from recourse_gen import Feature, Schema
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows

SMALL: dict[str, Any] = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "bins": 8}
PAPER = {
    **SMALL,
    "encoder": "transformer",
    "spacing": "uniform",
    "smoothing": 0.05,
    "cross_attention": True,
    "cost_prior": False,
}
VARIANTS = [{"cross_attention": cross, "cost_prior": prior} for cross in (False, True) for prior in (False, True)]

TOKENS = Schema(
    (
        Feature("job", "categorical", "str", levels=("a", "b", "c")),
        Feature("count", "ordinal", "int64", levels=(0, 1, 3, 7), bounds=(0.0, 7.0)),
        Feature("owner", "categorical", "bool", levels=(False, True), weight=2.0),
    )
)
KNOTS = tuple(float(knot) for knot in np.linspace(0, 1, 65) ** 2 * 10)
NUMBER = Schema((Feature("x", "continuous", "float64", bounds=(0.0, 10.0), quantiles=KNOTS),))


def build(schema: Schema, seed: int = 0, **options: Any) -> AutoregressiveBackbone:
    """A small network whose weights are large enough that its law is far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoregressiveBackbone(schema, **{**SMALL, **options})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def every_row(schema: Schema) -> Rows:
    """All rows of a table of tokens."""
    codes = list(itertools.product(*(range(len(feature.levels)) for feature in schema.tokens)))
    return Rows(torch.zeros(len(codes), 0), torch.tensor(codes))


def random_rows(schema: Schema, size: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    cat = [torch.randint(len(feature.levels), (size,), generator=generator) for feature in schema.tokens]
    num = torch.rand(size, len(schema.numbers), generator=generator)
    return Rows(num, torch.stack(cat, 1) if cat else torch.zeros(size, 0, dtype=torch.int64))


def sample(model: AutoregressiveBackbone, factual: Rows, count: int, cost_weight: float = 5.0, **options: Any) -> Rows:
    noise = Noise.of(factual, options.pop("seed", 0))
    weights = torch.full((factual.batch_size,), cost_weight)
    return model.sample(factual, num_samples=count, cost_weight=weights, noise=noise, **options)


def log_prob(model: AutoregressiveBackbone, factual: Rows, at: int, rows: Rows, cost_weight: float) -> Tensor:
    """log R of each of `rows` given one factual."""
    one = factual.take(torch.tensor([at])).repeat(rows.batch_size)
    with torch.no_grad():
        return model.log_prob(one, rows, torch.full((rows.batch_size,), cost_weight))


def fits(hits: Tensor, probability: Tensor) -> bool:
    """Chi-square: counts agree with probabilities; the rare outcomes count as one."""
    order = probability.argsort()
    rare = int((probability * hits.sum() < 5).sum())
    seen, due = hits[order].double(), probability[order].double()
    due *= seen.sum() / due.sum()
    seen = torch.cat([seen[: rare + 1].sum()[None], seen[rare + 1 :]])
    due = torch.cat([due[: rare + 1].sum()[None], due[rare + 1 :]])
    return chisquare(seen.numpy(), due.numpy()).pvalue > 1e-4
