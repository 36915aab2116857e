"""Second opinions on candidates: models that never were the classifier, and a critic of plausibility."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.utils.class_weight import compute_sample_weight
from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from recourse_gen.classifier import check_target
from recourse_gen.cost import RecourseCost
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

FILE = "auditor.skops"
VERSION = 1

# All that skops does not trust by itself: the compiled containers of trees, of the neighbour index and of its metric.
# They hold arrays and numbers only; anything else in a file is refused.
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)


class Auditor:
    """Consensus of different models and a plausibility critic, fitted on the training rows.

    Used when choosing among candidates, because a candidate just past the classifier's boundary often satisfies that
    classifier alone. It is never the judge of an evaluation: it sees neither test rows nor any label but the training
    ones. It keeps the favourable training rows inside, so a saved auditor contains them.

    schema: columns, in unweighted cost coordinates.
    consensus_threshold: least mean probability that `accepts` asks for, on the scale where both classes weigh the
        same. None takes the median over the favourable training rows, so that noisy labels do not ask the impossible.
    plausibility_threshold: least plausibility that `accepts` asks for. 0 is the critic's own border of an inlier; the
        default leaves a margin, because a critic that saw other rows draws that border elsewhere.
    n_neighbors: neighbours of the critic; capped to what few rows allow.
    n_estimators: trees of the forest and rounds of the boosting.
    n_jobs: processor cores for the forest; None means one. The answers do not depend on it.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        consensus_threshold: float | None = None,
        plausibility_threshold: float = 0.3,
        n_neighbors: int = 5,
        n_estimators: int = 100,
        n_jobs: int | None = 2,
    ) -> None:
        if consensus_threshold is not None and not 0 <= consensus_threshold <= 1:
            raise ValueError(f"consensus_threshold must lie between 0 and 1, got {consensus_threshold!r}")
        if not np.isfinite(plausibility_threshold):
            raise ValueError(f"plausibility_threshold must be finite, got {plausibility_threshold!r}")
        for option, value in (("n_neighbors", n_neighbors), ("n_estimators", n_estimators)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{option} must be a positive whole number, got {value!r}")
        self.schema = schema
        self.consensus_threshold = consensus_threshold
        self.plausibility_threshold = float(plausibility_threshold)
        self.n_neighbors = n_neighbors
        self.n_estimators = n_estimators
        self.n_jobs = n_jobs
        self._cost = RecourseCost(schema)
        self._models: list[Any] = []
        self._critic: LocalOutlierFactor | None = None

    def fit(self, rows: Rows, target01: Any, *, seed: int) -> Auditor:
        """Fit on training rows ``(B, ·)`` and their labels ``(B,)``, 1 where favourable.

        Raises ValueError unless both labels occur and at least two rows are favourable.
        """
        target = check_target(target01, rows.batch_size)
        favourable = int(target.sum())
        if favourable < 2:
            raise ValueError(f"the auditor needs at least two favourable training rows, got {favourable}")
        features = self._features(rows)
        weight = compute_sample_weight("balanced", target)
        self._models = [
            HistGradientBoostingClassifier(max_iter=self.n_estimators, early_stopping=False, random_state=seed),
            # Large leaves: a forest that remembers each training row would agree with every label, also the odd ones.
            RandomForestClassifier(self.n_estimators, min_samples_leaf=20, random_state=seed, n_jobs=self.n_jobs),
        ]
        # OpenMP threads spin while they wait: on busy cores, two of them boost ten times slower than one.
        with threadpool_limits(1, user_api="openmp"):
            for model in self._models:
                model.fit(features, target, sample_weight=weight)
        consensus = self.consensus(rows)
        if self.consensus_threshold is None:
            self.consensus_threshold = float(np.median(consensus[target == 1]))
        # What the models agree on rather than the labels: a favourable label may be noise in the middle of nowhere.
        agreed = features[consensus > 0.5]
        self._critic = _critic(agreed if len(agreed) >= 2 else features[target == 1], self.n_neighbors)
        return self

    def consensus(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B,)``: mean probability of the favourable class over the models; higher is better."""
        if rows.batch_size == 0:
            return np.zeros(0)
        features = self._features(rows)
        with threadpool_limits(1, user_api="openmp"):
            votes = np.stack([model.predict_proba(features)[:, 1] for model in self._fitted()])
        # Threads add up trees in any order; rounding drops the bits that this changes, so equal rows stay equal.
        return votes.mean(axis=0).round(9)

    def plausibility(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B,)``: local outlier factor, negated and shifted so that 0 is the border; higher is more
        plausible, at least 0 an inlier among the training rows that the models favour."""
        self._fitted()
        assert self._critic is not None
        if rows.batch_size == 0:
            return np.zeros(0)
        features = self._features(rows)
        return self._critic.decision_function(features)

    def accepts(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        """Bool, in the shape of the inputs: both thresholds are reached."""
        if self.consensus_threshold is None:
            self._fitted()
        return (np.asarray(consensus) >= self.consensus_threshold) & (
            np.asarray(plausibility) >= self.plausibility_threshold
        )

    def reservation(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        """Float64, in the shape of the inputs: 0 where `accepts` holds, else larger the less a candidate convinces.

        An order for when nothing is accepted, as happens where labels are noisy: plausible candidates (1 to 2) come
        before implausible ones (3 to 4), and more consensus before less. Consensus alone would prefer outliers, which
        lie deepest on the favourable side.
        """
        implausible = ~(np.asarray(plausibility) >= self.plausibility_threshold)
        rest = 2.0 - np.nan_to_num(np.asarray(consensus, dtype=np.float64)) + 2.0 * implausible
        return np.where(self.accepts(consensus, plausibility), 0.0, rest)

    def save(self, folder: str | Path) -> Path:
        """Write `FILE` into an existing folder and return its path. No pickle."""
        state = {
            "version": VERSION,
            "schema": self.schema.to_json(),
            "options": self.options,
            "models": self._fitted(),
            "critic": self._critic,
        }
        path = Path(folder) / FILE
        skops.io.dump(state, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
        return path

    @classmethod
    def load(cls, folder: str | Path, schema: Schema) -> Auditor:
        """Inverse of `save`. Raises ValueError if the file is missing, no auditor of this schema, or holds any type
        beyond scikit-learn's models and `TRUSTED`."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} is missing; the folder holds no auditor")
        try:
            state = skops.io.load(path, trusted=list(TRUSTED))
            version, kinds = state["version"], [*map(type, state["models"])]
            critic = state["critic"]
            auditor = cls(schema, **state["options"])
            saved = state["schema"]
        except (UntrustedTypesFoundException, UnsupportedTypeException) as error:
            raise ValueError(f"{path} holds types that an auditor never has, and is refused: {error}") from error
        # skops fails in many ways on a file that is none of its own or was tampered with.
        except Exception as error:
            raise ValueError(f"{path} is not an auditor file: {type(error).__name__}: {error}") from error
        if version != VERSION:
            raise ValueError(f"{path} is an auditor file of version {version}; this release reads version {VERSION}")
        right = kinds == [HistGradientBoostingClassifier, RandomForestClassifier]
        if not right or type(critic) is not LocalOutlierFactor:
            raise ValueError(f"{path} holds other models than an auditor has")
        if saved != schema.to_json():
            raise ValueError(f"{path} was fitted on another schema than the one given")
        auditor._models, auditor._critic = list(state["models"]), critic
        return auditor

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return {
            "consensus_threshold": self.consensus_threshold,
            "plausibility_threshold": self.plausibility_threshold,
            "n_neighbors": self.n_neighbors,
            "n_estimators": self.n_estimators,
            "n_jobs": self.n_jobs,
        }

    def _fitted(self) -> list[Any]:
        if not self._models:
            raise ValueError("the auditor is not fitted; call fit(rows, target01, seed=...) first")
        return self._models

    def _features(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B, E)``. Weights are left out: they say what a person minds, not what rows look like."""
        return self._cost.coordinates(rows, weighted=False).cpu().double().numpy()


def _critic(features: np.ndarray, n_neighbors: int) -> LocalOutlierFactor:
    # kd_tree in any dimension: brute force goes through matrix products, whose last bits vary with the batch.
    neighbors = min(n_neighbors, len(features) - 1)
    return LocalOutlierFactor(n_neighbors=neighbors, novelty=True, algorithm="kd_tree").fit(features)
