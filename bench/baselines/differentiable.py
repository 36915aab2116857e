"""A scikit-learn network as the same function in torch, so that it has gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "identity": lambda x: x,
}


class Differentiable:
    """The logit of the favourable class at coordinates: ``(..., E)`` to ``(...)``, float64, approving above 0.

    classifier: what `recourse_gen.classifier.fit_classifier` makes of ``mlp`` or ``logistic``, class 1 being the
    favourable one. frame, points: training rows ``(N, D)`` and their coordinates ``(N, E)``. Raises ValueError for
    another classifier.
    """

    def __init__(self, classifier: Any, frame: pd.DataFrame, points: Tensor) -> None:
        steps = getattr(classifier, "named_steps", {})
        model = steps.get("model", classifier)
        if isinstance(model, MLPClassifier) and model.out_activation_ == "logistic":
            layers, activation = list(zip(model.coefs_, model.intercepts_, strict=True)), model.activation
        elif isinstance(model, LogisticRegression) and len(model.coef_) == 1:
            layers, activation = [(model.coef_.T, model.intercept_)], "identity"
        else:
            layers, activation = [], ""
        if "encode" not in steps or not layers:
            raise ValueError(
                f"this baseline needs gradients, which {type(model).__name__} does not give here; take "
                "classifier=mlp or classifier=logistic"
            )
        scale, shift = _affine(points.numpy(), steps["encode"].transform(frame))
        (weight, bias), *rest = layers
        folded = [(scale @ weight, shift @ weight + bias), *rest]
        self.layers = [(torch.tensor(weight), torch.tensor(bias)) for weight, bias in folded]
        self._activate = ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        for weight, bias in self.layers[:-1]:
            x = self._activate(x @ weight + bias)
        weight, bias = self.layers[-1]
        return (x @ weight + bias)[..., 0]

    def gradient(self, x: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """The logit ``(...)`` and its gradient ``(..., E)``; with `create_graph`, both can be differentiated again."""
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            logit = self(x)
            (slope,) = torch.autograd.grad(logit.sum(), x, create_graph=create_graph)
        return (logit, slope) if create_graph else (logit.detach(), slope)


def _affine(points: np.ndarray, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(E, I)`` and ``(I,)``: what the network is given is points @ scale + shift.

    Scaling and one-hot encoding are affine in the coordinates, in whatever order; least squares reads off how.
    """
    ones = np.ones((len(points), 1))
    solution = np.linalg.lstsq(np.concatenate([points, ones], 1), inputs, rcond=None)[0]
    wrong = np.abs(points @ solution[:-1] + solution[-1] - inputs).max()
    if not wrong < 1e-8:
        raise ValueError("this baseline needs a classifier that scales numbers and encodes categories one by one")
    return solution[:-1], solution[-1]
