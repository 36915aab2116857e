"""The independent judge: a gold labeller that no generator, classifier or choice ever asks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.utils.class_weight import compute_sample_weight

from recourse_gen import metrics
from recourse_gen.options import random_state
from recourse_gen.schema import Schema


class GoldJudge:
    """Random forest with isotonic calibration and balanced weights, fitted on train and test rows together.

    The gold labeller of Garg et al. (ICLR 2025): it may draw the labels that everyone else trains on, and it says
    afterwards whether an answer is really favourable and plausible. It knows the test rows, so using it to choose
    among candidates would be cheating.

    schema: columns and category levels. seed: random state of the forest. n_estimators: trees per calibration fold.
    """

    def __init__(self, schema: Schema, *, seed: int = 0, n_estimators: int = 100) -> None:
        self.schema = schema
        self.seed = seed
        self.n_estimators = n_estimators

    def fit(self, frame: pd.DataFrame, target01: Any) -> GoldJudge:
        """Fit on all rows. frame: ``(B, D)``, train and test rows. target01: ``(B,)``, 1 is favourable.

        Raises ValueError unless both outcomes occur at least twice.
        """
        target = np.asarray(target01).astype(np.int64)
        if len(target) != len(frame):
            raise ValueError(f"the judge got {len(frame)} rows but {len(target)} labels")
        if not np.isin(target, (0, 1)).all():
            raise ValueError("the judge's labels must be 0 or 1")
        rarest = int(np.bincount(target, minlength=2).min())
        if rarest < 2:
            raise ValueError(f"the judge needs at least two rows of each outcome, got {rarest} of the rarer one")
        # All cores go to the trees of one forest at a time: fastest, and one forest in memory while it grows.
        forest = RandomForestClassifier(self.n_estimators, random_state=random_state(self.seed), n_jobs=-1)
        model = CalibratedClassifierCV(forest, method="isotonic", cv=min(5, rarest))
        # The forest is the direct estimator (a pipeline would swallow the weights), and routing stays off: with it
        # on, scikit-learn passes weights only to estimators that request them.
        with sklearn.config_context(enable_metadata_routing=False):
            self._model = model.fit(self._codes(frame), target, sample_weight=compute_sample_weight("balanced", target))
        self._frame = frame.reset_index(drop=True)
        self.__dict__.pop("_reference", None)
        self.__dict__.pop("_detector", None)
        return self

    def probability(self, frame: pd.DataFrame) -> np.ndarray:
        """Float64 ``(B,)``: calibrated probability of the favourable class."""
        if not len(frame):
            return np.zeros(0)
        # Threads add up the trees in any order; rounding takes out the last bits, so equal rows get equal answers.
        return np.round(self._fitted.predict_proba(self._codes(frame))[:, 1], 12)

    def draw_labels(self, frame: pd.DataFrame, seed: int) -> np.ndarray:
        """Int64 ``(B,)``: one Bernoulli draw per row, 1 with the row's probability; fixed by `seed`."""
        draws = np.random.default_rng(seed).random(len(frame))
        return (draws < self.probability(frame)).astype(np.int64)

    def plausible(self, frame: pd.DataFrame) -> np.ndarray:
        """Bool ``(B,)``: inlier (local outlier factor, 5 neighbours) among the rows that this judge favours."""
        return metrics.inlier(frame, self._detector, self.schema)

    @property
    def description(self) -> dict[str, Any]:
        """What the judge is, for a report: model, seed, numbers of rows."""
        return {
            "model": f"random forest of {self.n_estimators} trees, isotonic calibration, balanced weights",
            "seed": self.seed,
            "rows": len(self._frame),
            "favoured_rows": len(self._reference),
            "plausibility": "local outlier factor, 5 neighbours, on favoured rows",
        }

    @cached_property
    def _reference(self) -> pd.DataFrame:
        return self._frame[self.probability(self._frame) > 0.5]

    @cached_property
    def _detector(self) -> LocalOutlierFactor:
        if len(self._reference) < 2:
            raise ValueError(f"the judge favours {len(self._reference)} rows; plausibility needs at least two")
        return metrics.outlier_detector(self._reference, self.schema, n_neighbors=5)

    @property
    def _fitted(self) -> CalibratedClassifierCV:
        if not hasattr(self, "_model"):
            raise ValueError("the judge is not fitted; call fit(frame, target01) first")
        return self._model

    def _codes(self, frame: pd.DataFrame) -> np.ndarray:
        """Float32 ``(B, D)``: numbers as they are, categories as the place of their level (trees need no one-hot)."""
        columns = [
            metrics.level_codes(frame[feature.name], feature.levels)
            if feature.kind == "categorical"
            else frame[feature.name].to_numpy(dtype=np.float64)
            for feature in self.schema.features
        ]
        return np.stack(columns, axis=1).astype(np.float32)
