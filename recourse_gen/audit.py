"""Second opinions on candidates: would others agree that this person is approved, and do such people exist?"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np

from recourse_gen import estimators, files
from recourse_gen.classifier import check_target
from recourse_gen.cost import RecourseCost
from recourse_gen.outliers import OutlierFactor
from recourse_gen.panel import FAMILIES, OTHERS, Agreement, Curve, Panel
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.workers import alone

FILE = "auditor.skops"
_OWN = ("weight", "distance", "density")  # of each critic; their rows are the same
VERSION = 5
SHARED = 0.95  # how likely somebody else agrees with a consensus that reaches the threshold


class Auditor:
    """Consensus of different models and a plausibility critic, fitted on the training rows.

    Used when choosing among candidates, because a candidate just past the classifier's boundary often satisfies that
    classifier alone. It is never the judge of an evaluation: it sees neither test rows nor any label but the training
    ones. It keeps the training rows that its models favour, whatever their label, so a saved auditor contains them.

    schema: columns, in unweighted cost coordinates.
    consensus_threshold: least mean probability that `accepts` asks for, on the scale where both classes weigh the
        same. None takes that from which on models fitted to other people would favour a row too with a probability of
        95 %; at least 0.5, and at most the median over the favourable training rows, so that noisy labels do not ask
        the impossible.
    plausibility_threshold: least plausibility that `accepts` asks for. 0 is the critic's own border of an inlier; the
        default leaves a margin, because a critic that saw other rows draws that border elsewhere.
    n_neighbors: neighbours of the critic; capped to what few rows allow.
    n_estimators: trees of each forest, and twice the rounds of the boosting.
    n_jobs: processor cores, of scikit-learn's kind; None means one. The answers do not depend on it.
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
        if consensus_threshold is not None:
            number = isinstance(consensus_threshold, (int, float, np.integer, np.floating))
            if not number or isinstance(consensus_threshold, bool) or not 0 <= consensus_threshold <= 1:
                raise ValueError(f"consensus_threshold must be a number from 0 to 1, got {consensus_threshold!r}")
        if not np.isfinite(plausibility_threshold):
            raise ValueError(f"plausibility_threshold must be finite, got {plausibility_threshold!r}")
        for option, value in (("n_neighbors", n_neighbors), ("n_estimators", n_estimators)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{option} must be a positive whole number, got {value!r}")
        if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs == 0):
            raise ValueError(f"n_jobs must be a whole number other than 0 or None, got {n_jobs!r}")
        self.schema = schema
        self.consensus_threshold = consensus_threshold
        self.plausibility_threshold = float(plausibility_threshold)
        self.n_neighbors = n_neighbors
        self.n_estimators = n_estimators
        self.n_jobs = n_jobs
        self._cost = RecourseCost(schema)
        self._panel: Panel | None = None
        self._agreement = Agreement()

    def fit(self, rows: Rows, target01: Any, *, seed: int, approved: np.ndarray | None = None) -> Auditor:
        """Fit on training rows ``(B, ·)`` and their labels ``(B,)``, 1 where favourable.

        approved: bool ``(B,)``, the rows that the classifier approves, by default all; see `expected`.

        Raises ValueError unless both labels occur and at least two rows are favourable.
        """
        target = check_target(target01, rows.batch_size)
        favourable = int(target.sum())
        if favourable < 2:
            raise ValueError(f"the auditor needs at least two favourable training rows, got {favourable}")
        features = self._features(rows)
        options = {name: self.options[name] for name in ("n_estimators", "n_neighbors", "n_jobs")}
        self._panel = Panel.fit(features, target, seed=seed, **options)
        approved = np.ones(len(target), dtype=bool) if approved is None else np.asarray(approved, dtype=bool)
        self._agreement = Agreement.fit(features, target, approved, seed=seed, **options)
        if self.consensus_threshold is None:
            usual = float(np.median(self._panel.consensus(features[target == 1])))
            self.consensus_threshold = min(usual, max(0.5, self._agreement.consensus(SHARED)))
        return self

    def consensus(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B,)``: mean probability of the favourable class over the models; higher is better."""
        return self._fitted().consensus(alone(self._features, rows), self._threads)

    def plausibility(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B,)``, at least −1: local outlier factor, negated and shifted so that 0 is the border; higher is
        more plausible, at least 0 an inlier among the training rows that the models favour. The mean over critics, most
        of whom have seen some of these rows more often."""
        return self._fitted().plausibility(alone(self._features, rows), self._threads)

    def expected(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        """Float64 in [0, 2], in the shape of the inputs, higher is better: the probability that models fitted to
        other people would favour a row, plus the probability that their critic would find it an inlier.

        Both are measured on training rows, between parts of them (`recourse_gen.panel.Agreement`). Their sum is what
        an independent judge can be expected to add to an answer's score, before the cost.
        """
        self._fitted()
        return self._agreement.expected(np.asarray(consensus), np.asarray(plausibility))

    def accepts(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        """Bool, in the shape of the inputs: both thresholds are reached."""
        if self.consensus_threshold is None:
            self._fitted()
        return (np.asarray(consensus) >= self.consensus_threshold) & (
            np.asarray(plausibility) >= self.plausibility_threshold
        )

    def save(self, folder: str | Path) -> Path:
        """Write `FILE` into an existing folder and return its path. No pickle."""
        panel = self._fitted()
        state = {
            "version": VERSION,
            "schema": self.schema.to_json(),
            "options": self.options,
            "models": list(panel.models),
            "critic": asdict(panel.critic),
            "others": [{name: getattr(one, name) for name in _OWN} for one in panel.others],
            "agreement": asdict(self._agreement),
        }
        path = Path(folder) / FILE
        estimators.save(state, path)
        return path

    @classmethod
    def load(cls, folder: str | Path, schema: Schema) -> Auditor:
        """Inverse of `save`. Raises ValueError if the file is missing, no auditor of this schema, or holds any type
        that an auditor does not have (`recourse_gen.estimators.OWN`)."""
        path = Path(folder) / FILE
        if not path.exists():
            raise ValueError(f"{path} is missing; the folder holds no auditor")
        return cls.parse(files.read(path, estimators.LIMIT), schema)

    @classmethod
    def parse(cls, data: bytes, schema: Schema) -> Auditor:
        """`load`, from the content of the file."""
        try:
            state = estimators.load(data, own=True)
            version = state["version"]
        except estimators.ForeignTypesError as error:
            raise ValueError(f"{FILE} holds types that an auditor never has, and is refused: {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{FILE} is not an auditor file: {error}") from error
        if version != VERSION:
            raise ValueError(f"{FILE} is an auditor file of version {version!r}; this release reads version {VERSION}")
        try:
            kinds = [*map(type, state["models"])]
            critic = OutlierFactor(**state["critic"])
            others = tuple(replace(critic, **{name: one[name] for name in _OWN}) for one in state["others"])
            panel = Panel(tuple(state["models"]), critic, others)
            agreement = Agreement(**{name: Curve(**curve) for name, curve in state["agreement"].items()})
            auditor = cls(schema, **state["options"])
            saved = state["schema"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{FILE} is not an auditor file: {type(error).__name__}: {error}") from error
        if kinds != [*FAMILIES] or len(others) not in (0, OTHERS) or not all(one.whole() for one in (critic, *others)):
            raise ValueError(f"{FILE} holds other models than an auditor has")
        if saved != schema.to_json():
            raise ValueError(f"{FILE} was fitted on another schema than the one given")
        columns = auditor._cost.columns
        two = all(np.array_equal(vars(model).get("classes_", ()), [0, 1]) for model in panel.models)
        fits = all(vars(model).get("n_features_in_") == columns for model in panel.models)
        if not (two and fits and panel.critic.rows.shape[1] == columns):
            raise ValueError(f"{FILE} holds models or rows of other columns than the schema has")
        for forest in panel.models[1:]:
            forest.n_jobs = None  # as after fitting; a file could ask for any number of threads
        if any(vars(model).get("n_classes_", 2) != 2 for model in panel.models):
            raise ValueError(f"{FILE} holds models that cannot answer")
        try:
            asked = panel.critic.rows[:1]
            answer = np.concatenate([panel.consensus(asked), panel.plausibility(asked)])
        except Exception as error:  # of many types, where parts of a model do not fit together
            raise ValueError(f"{FILE} holds models that cannot answer: {type(error).__name__}: {error}") from error
        if answer.shape != (2,) or not np.isfinite(answer).all():
            raise ValueError(f"{FILE} holds models that cannot answer")
        auditor._panel, auditor._agreement = panel, agreement
        return auditor

    @property
    def training_rows(self) -> int:
        """How many distinct training rows it keeps: those that its models favour."""
        return len(self._fitted().critic.rows)

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

    @property
    def _threads(self) -> int:
        """Not more than there are cores: n_jobs may come from a file."""
        return min(joblib.effective_n_jobs(self.n_jobs), joblib.cpu_count())

    def _fitted(self) -> Panel:
        if self._panel is None:
            raise ValueError("the auditor is not fitted; call fit(rows, target01, seed=...) first")
        return self._panel

    def _features(self, rows: Rows) -> np.ndarray:
        """Float64 ``(B, E)``. Weights are left out: they say what a person minds, not what rows look like."""
        return self._cost.coordinates(rows, weighted=False).cpu().double().numpy()
