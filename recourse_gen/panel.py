"""Second opinions that were fitted together, and how far such a panel's opinions reach beyond itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any, Self

import numpy as np
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight

from recourse_gen.options import random_state
from recourse_gen.outliers import OutlierFactor
from recourse_gen.votes import favourable
from recourse_gen.workers import alone, shared

FOLDS = 3
FAMILIES = (HistGradientBoostingClassifier, RandomForestClassifier, RandomForestClassifier)
LEAVES = (5, 2)  # least rows in a leaf of each forest
OTHERS, GROWTH = 5, 1 / 3  # critics beside the first, and the share of rows that each has seen more
_FARTHEST = -1.0  # of plausibilities: beyond that, how far off a row is says no more
_FEWEST = 30  # opinions from which a curve is drawn
_RARE = 0.01  # share of the opinions below which it is drawn otherwise


@dataclass(frozen=True)
class Panel:
    """Models of different families, and a critic of plausibility on the rows that they favour.

    Features are float64 ``(B, E)``, labels int64 ``(B,)`` with 1 for the favourable class.
    """

    models: tuple[Any, ...]
    critic: OutlierFactor
    others: tuple[OutlierFactor, ...]  # what the critic might be if it had seen more rows

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        target: np.ndarray,
        *,
        n_estimators: int,
        n_neighbors: int,
        n_jobs: int | None,
        seed: int,
    ) -> Panel:
        """Classes weigh the same, however rare one is; both must occur.

        n_estimators: trees of each forest, and twice the rounds of the boosting. n_neighbors: of the critic, capped to
        what few rows allow. n_jobs: processor cores for the forests.
        """
        weight = compute_sample_weight("balanced", target)
        state, *states = (random_state(seed + more) for more in (0, *LEAVES))
        # Forests that remember single rows, but not one that remembers each: it would agree with every label, also the
        # odd ones. What others say of a new row hangs on its nearest neighbours more than larger leaves can tell.
        models = (
            HistGradientBoostingClassifier(max_iter=-(-n_estimators // 2), early_stopping=False, random_state=state),
            *(
                RandomForestClassifier(n_estimators, min_samples_leaf=leaf, random_state=state, n_jobs=n_jobs)
                for leaf, state in zip(LEAVES, states, strict=True)
            ),
        )
        for model in models:
            alone(model.fit, features, target, sample_weight=weight)
        for forest in models[1:]:
            forest.n_jobs = None  # for answers, where starting threads takes longer than they save
        # What the models agree on rather than the labels: one favourable label may be noise in the middle of nowhere.
        agreed = shared(partial(_votes, models), features, 1) > 0.5
        favourable = features[agreed if agreed.sum() >= 2 else target == 1]
        k = min(n_neighbors, len(favourable) - 1)
        critic, *others = alone(OutlierFactor.crowd, favourable, k, OTHERS, GROWTH, seed=seed)
        return cls(models, critic, tuple(others))

    def consensus(self, features: np.ndarray, threads: int = 1) -> np.ndarray:
        """Float64 ``(B,)``: mean probability of the favourable class; 0 to 1, higher is better. threads: at most so
        many share the rows."""
        return shared(partial(_votes, self.models), features, threads)

    def plausibility(self, features: np.ndarray, threads: int = 1) -> np.ndarray:
        """Float64 ``(B,)``, at least −1: local outlier factors, negated and shifted so that inliers are at least 0;
        the mean over the critic and the others.

        Whether a row is an inlier hangs on how often its nearest neighbours occur, most of all in tables of whole
        numbers and categories; one critic knows that of its own sample only. threads: as above.
        """
        return shared(self._plausibility, features, threads)

    def _plausibility(self, features: np.ndarray) -> np.ndarray:
        pairs = self.critic.pairs(features)
        # 1.5 is where scikit-learn draws the border too.
        return np.mean([np.maximum(1.5 - one.factor(pairs), _FARTHEST) for one in (self.critic, *self.others)], axis=0)


@dataclass(frozen=True)
class Curve:
    """How likely somebody else shares an opinion: 1 / (1 + exp(−slope·opinion − intercept)), rising.

    Below `lowest`, where too few opinions were measured, the logarithm of the odds falls with the slope `below`.
    """

    slope: float
    intercept: float
    lowest: float = float(np.finfo(np.float64).min)
    below: float = 0.0

    def __call__(self, opinion: np.ndarray) -> np.ndarray:
        """Float64 in [0, 1], in the shape of `opinion`."""
        short = np.minimum(opinion - self.lowest, 0.0)
        return expit(self.slope * (opinion - short) + self.below * short + self.intercept)

    def reaches(self, probability: float) -> float:
        """The opinion at which it says `probability`, in (0, 1)."""
        due = float(logit(probability)) - self.intercept
        opinion = due / self.slope
        return opinion if opinion >= self.lowest else self.lowest + (due - self.slope * self.lowest) / self.below

    @classmethod
    def fit(cls, opinion: np.ndarray, shared: np.ndarray, default: Curve) -> Curve:
        """Logistic regression of ``shared`` (0 or 1) on opinions, both ``(B,)``.

        Where all outcomes are the same, or fall as opinions rise, the default's slope is kept, at the level measured;
        at least this slope, too, below all but a hundredth of the opinions: where rows hardly differ in what others say
        of them, the curve is flat, and says nothing of rows that are unlike all of them.
        """
        if len(np.unique(shared)) == 2:
            fitted = LogisticRegression(C=100.0).fit(opinion[:, None], shared)
            slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
            if slope > 0:
                return cls(slope, intercept, float(np.quantile(opinion, _RARE)), max(slope, default.slope))
        rate = (shared.sum() + 1.0) / (len(shared) + 2.0)  # Laplace's rule: never quite 0 or 1
        return cls(default.slope, float(logit(rate) - default.slope * opinion.mean()))


@dataclass(frozen=True)
class Agreement:
    """How far one panel's opinions reach: curves over the log-odds of a consensus, and over a plausibility.

    The defaults take a consensus at its word, and an inlier for one by some margin.
    """

    favoured: Curve = Curve(1.0, 0.0)
    inlier: Curve = Curve(10.0, 0.0)

    def expected(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        """Float64 in [0, 2], in the shape of the inputs: the sum of both probabilities."""
        return self.favoured(_log_odds(consensus)) + self.inlier(np.maximum(plausibility, _FARTHEST))

    def consensus(self, probability: float) -> float:
        """The consensus from which on somebody else's is favourable with that probability."""
        return float(expit(self.favoured.reaches(probability)))

    @classmethod
    def fit(cls, features: np.ndarray, target: np.ndarray, approved: np.ndarray, *, seed: int, **options: Any) -> Self:
        """One panel per third of the rows; each pair of them is asked about the third that neither has seen.

        There it is asked about the rows that are favourable and `approved` (bool ``(B,)``) by the classifier, as
        answers are. Labels that are noisy, or rows that are few, make the curves flatter. options: of `Panel.fit`.
        """
        if np.bincount(target, minlength=2).min() < 2 * FOLDS:
            return cls()
        thirds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state(seed))
        folds = [held for _, held in thirds.split(features, target)]
        panels = [Panel.fit(features[at], target[at], seed=seed, **options) for at in folds]
        # Favoured means more likely than not, both where the classes weigh the same and where they weigh as they occur.
        favoured_above = max(0.5, 1.0 - float(target.mean()))
        asked = []
        for one, other, unseen in permutations(range(FOLDS)):
            rows = features[folds[unseen]][(approved & (target == 1))[folds[unseen]]]
            mine, theirs = panels[one], panels[other]
            shared = (theirs.consensus(rows) > favoured_above, theirs.plausibility(rows) >= 0)
            asked.append(np.stack([_log_odds(mine.consensus(rows)), mine.plausibility(rows), *shared], 1))
        consensus, plausibility, favoured, inlier = np.concatenate(asked).T
        if len(consensus) < _FEWEST:
            return cls()
        return cls(Curve.fit(consensus, favoured, cls.favoured), Curve.fit(plausibility, inlier, cls.inlier))


def _log_odds(consensus: np.ndarray) -> np.ndarray:
    return logit(np.clip(consensus, 1e-3, 1 - 1e-3))


def _votes(models: tuple[Any, ...], features: np.ndarray) -> np.ndarray:
    votes = np.stack([favourable(model, features) for model in models])
    # Threads add up trees in any order; rounding drops the bits that this changes, so equal rows stay equal.
    return votes.mean(axis=0).round(9)
