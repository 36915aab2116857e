"""What every baseline is given of a world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.baselines.coordinates import Coordinates
from bench.baselines.differentiable import Differentiable
from recourse_gen.classifier import Classifier, as_classifier

if TYPE_CHECKING:
    from train import World


@dataclass(frozen=True)
class Space:
    """Points, their logits, and the training rows among them.

    train: ``(N, E)``. outcome: int64 ``(N,)``, 1 is favourable. logit: the classifier on points, with gradients.
    classifier: the same on frames.
    """

    coordinates: Coordinates
    logit: Differentiable
    classifier: Classifier
    train: Tensor
    outcome: Tensor

    @classmethod
    def of(cls, world: World) -> Space:
        """Raises ValueError for a classifier without gradients."""
        coordinates = Coordinates(world.schema, world.constraints, world.train)
        points = coordinates.encode(world.train)
        return cls(
            coordinates,
            Differentiable(world.classifier, world.train, points),
            as_classifier(world.classifier, columns=world.train.dtypes),
            points,
            torch.as_tensor(np.asarray(world.y_train), dtype=torch.int64),
        )

    def answers(self, factuals: pd.DataFrame, points: Tensor) -> pd.DataFrame:
        return approved(factuals, points, self.coordinates, self.classifier)


def approved(factuals: pd.DataFrame, points: Tensor, coordinates: Coordinates, classifier: Classifier) -> pd.DataFrame:
    """The rows of points ``(B, E)`` that the classifier approves of; NaN for others, and for points that are NaN."""
    found = points.isfinite().all(1)
    asked = factuals[found.numpy()]
    frame = coordinates.decode(points[found], coordinates.encode(asked), asked)
    return frame[classifier.probability(frame) > 0.5].reindex(factuals.index)
