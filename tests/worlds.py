"""Worlds whose best answers are known in closed form."""

from typing import Any

import numpy as np
import pandas as pd

from recourse_gen import Constraints, Schema
from recourse_gen.classifier import fit_classifier
from train import World


def world(
    frame: pd.DataFrame, target: np.ndarray, classifier: Any, schema: Schema, constraints: Constraints | None = None
) -> World:
    """A world without a judge: baselines must not touch it."""
    judge: Any = None
    denied = frame[classifier.predict_proba(frame)[:, 1] <= 0.5]
    return World(frame, target, schema, constraints or Constraints(), judge, classifier, denied)


def linear(slope: list[float], intercept: float, immutable: tuple[str, ...] = (), size: int = 400) -> World:
    """Columns a, b, c, ... uniform on 0 to 1 with both ends, and a classifier of logit slope · x + intercept."""
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.random((size, len(slope))), np.zeros((1, len(slope))), np.ones((1, len(slope)))])
    frame = pd.DataFrame(points, columns=list("abcdefgh"[: len(slope)]))
    schema = Schema.infer(frame, tokenize="none")
    target = (points @ np.array(slope) + intercept > 0).astype(int)
    classifier = fit_classifier("logistic", frame, target, schema=schema, seed=0)
    classifier["model"].coef_, classifier["model"].intercept_ = np.array([slope]), np.array([intercept])
    return world(frame, target, classifier, schema, Constraints(immutable=immutable))


def clusters(size: int = 400) -> World:
    """Denied people around (0.2, 0.2), approved ones around (0.8, 0.8), nobody elsewhere; the boundary is x = 0.5.

    A count, a category of three and an immutable of two have nothing to do with it.
    """
    rng = np.random.default_rng(5)
    target = np.arange(size) % 2
    centre = 0.2 + 0.6 * target[:, None]
    x, y = np.clip(centre + 0.04 * rng.standard_normal((size, 2)), 0, 1).T
    frame = pd.DataFrame(
        {
            "x": x,
            "y": y,
            "count": rng.integers(0, 9, size),
            "job": rng.choice(["none", "part", "full"], size),
            "group": rng.choice(["one", "two"], size),
        }
    )
    schema = Schema.infer(frame, kinds={"x": "continuous", "y": "continuous"}, bounds={"x": (0, 1), "y": (0, 1)})
    classifier = fit_classifier("logistic", frame, target, schema=schema, seed=0)
    scaler = classifier["encode"].named_transformers_["numbers"]
    slope = np.zeros_like(classifier["model"].coef_)
    slope[0, -3] = 10 / scaler.scale_[0]
    classifier["model"].coef_ = slope
    classifier["model"].intercept_ = np.array([10 * scaler.data_min_[0] - 5])
    return world(frame, target, classifier, schema, Constraints(immutable=["group"]))
