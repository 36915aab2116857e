"""Whether recourse outlives the classifier that it was made for, and small slips of the person who follows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import resample

from recourse_gen import metrics
from recourse_gen.alignment import check_columns, restored
from recourse_gen.classifier import CLASSIFIERS, Classifier, as_classifier, check_target, fit_classifier
from recourse_gen.dtypes import column_dtype
from recourse_gen.options import check_number, check_whole
from recourse_gen.schema import Feature, Schema


def retrained(
    frame: pd.DataFrame,
    target: Any,
    schema: Schema | None = None,
    *,
    families: Sequence[Any] = tuple(CLASSIFIERS),
    seeds: int = 1,
    bootstraps: int = 3,
    seed: int = 0,
    target_class: Any = None,
    balanced: bool = True,
) -> list[Classifier]:
    """Classifiers that might have been deployed instead, for `metrics.robustness`.

    Validity under retraining with other random states (Black et al., ICLR 2022), on other draws of the rows, and under
    other models that fit as well (Pawelczyk et al., UAI 2020).

    frame: ``(B, D)`` training rows in raw units. target: ``(B,)`` outcomes, 0 and 1, or values among which
    `target_class` is the favourable one. schema: needed by named families only; None infers it from the frame.
    families: names in `CLASSIFIERS`, or scikit-learn estimators, fitted or not, of which clones are fitted to 0 and 1.
    seeds: how many per family on the rows as they are, each with another random state. bootstraps: how many on rows
    drawn again with replacement, as many of each outcome as there were. seed: fixes all of this; the random states that
    it gives are large numbers, which a deployed model is unlikely to have. balanced: weigh both outcomes equally, in
    named families.

    Returns ``seeds + bootstraps`` classifiers for the first family, then those of the next.
    Raises ValueError for wrong options and for outcomes that are not two.
    """
    for name, count in (("seeds", seeds), ("bootstraps", bootstraps), ("seed", seed)):
        check_whole(name, count, 0)
    if isinstance(families, str) or not isinstance(families, Sequence) or not len(families):
        raise ValueError(f"families must be a list of names or estimators, got {families!r}")
    if not seeds + bootstraps:
        raise ValueError("seeds and bootstraps are both 0, so there is nothing to retrain")
    outcomes = pd.Series(np.asarray(target))
    if target_class is not None and not (outcomes == target_class).any():
        raise ValueError(f"the target never holds the favourable class {target_class!r}")
    target01 = check_target(outcomes if target_class is None else outcomes == target_class, len(frame))
    if schema is None and any(isinstance(family, str) for family in families):
        schema = Schema.infer(frame)
    columns = list(frame.columns) if schema is None else list(schema.names)
    check_columns("frame", frame, columns)
    states = np.random.default_rng(seed).integers(2**16, 2**31, seeds + bootstraps).tolist()
    rows = [np.arange(len(frame))] * seeds
    rows += [resample(np.arange(len(frame)), stratify=target01, random_state=state) for state in states[seeds:]]
    models: list[Classifier] = []
    for family in families:
        for state, at in zip(states, rows, strict=True):
            some, labels = frame[columns].iloc[at], target01[at]
            if isinstance(family, str):
                assert schema is not None
                fitted: Any = fit_classifier(family, some, labels, schema=schema, seed=state, balanced=balanced)
            else:
                fitted = _unfitted(family, state).fit(some, labels)
            models.append(as_classifier(fitted, columns=columns))
    return models


def noise_validity(
    counterfactuals: pd.DataFrame,
    classifier: Any,
    schema: Schema,
    *,
    factuals: pd.DataFrame | None = None,
    scale: float = 0.01,
    draws: int = 100,
    seed: int = 0,
    target_class: Any = None,
) -> np.ndarray:
    """Float64 ``(B,)`` in 0 to 1, higher is better, 0 without an answer: share of noisy versions of each answer that
    the classifier favours.

    One minus the recourse invalidation rate of Pawelczyk et al. (ICLR 2023), who add N(0, σ²) to all columns of the
    implemented recourse. Here numbers alone are moved, σ being `scale` times the column's range, and end where a person
    could be: whole numbers are rounded, and none leaves the column's range, or goes further out than an answer that is
    outside. So whole numbers of a narrow range seldom move at small scales.

    counterfactuals: row per answer, any row with a missing value being none. classifier, target_class: see
    `as_classifier`. factuals: row-aligned; where given, only numbers that differ from theirs are moved, for what a
    person need not do cannot be done inexactly. schema: the columns and their ranges, the unit of `scale`. draws: noisy
    versions of each answer. seed: of the noise.
    """
    check_number("scale", scale, 0, math.inf)
    check_whole("draws", draws)
    check_whole("seed", seed, 0)
    names = list(schema.names)
    check_columns("counterfactuals", counterfactuals, names)
    found = metrics.answered(counterfactuals[names])
    answers = counterfactuals.loc[found, names].set_flags(allows_duplicate_labels=True)
    moves = None
    if factuals is not None:
        check_columns("factuals", factuals, names)
        moves = metrics.changed(factuals[names], counterfactuals[names])[found]
    rng = np.random.default_rng(seed)
    columns = {}
    for d, feature in enumerate(schema.features):
        column = answers[feature.name].infer_objects()
        if feature.dtype != "category":
            column = restored(column, column_dtype(feature.dtype))
        repeated = column.iloc[np.tile(np.arange(len(answers)), draws)].reset_index(drop=True)
        if feature.kind != "categorical":
            values = column.to_numpy(dtype=np.float64)
            noisy = _moved(values, feature, scale * rng.standard_normal((draws, len(values))))
            if moves is not None:
                noisy = np.where(moves[:, d], noisy, values)
            repeated = restored(pd.Series(noisy.ravel()), column.dtype)
        columns[feature.name] = repeated
    valid = metrics.validity(pd.DataFrame(columns), as_classifier(classifier, target_class=target_class, columns=names))
    share = np.zeros(len(counterfactuals))
    share[found] = valid.reshape(draws, len(answers)).mean(0)
    return share


def _moved(values: np.ndarray, feature: Feature, noise: np.ndarray) -> np.ndarray:
    """``(S, B)``: values ``(B,)`` moved by noise ``(S, B)`` in shares of the column's range, to where values can be."""
    assert feature.bounds is not None
    low, high = feature.bounds
    moved = np.clip(values + (high - low) * noise, np.minimum(low, values), np.maximum(high, values))
    whole = feature.storage.kind in "iu" or (feature.is_token and all(float(x).is_integer() for x in feature.levels))
    return np.rint(moved) if whole else moved


def _unfitted(estimator: Any, state: int) -> Any:
    """A clone in which every random state is `state`."""
    try:
        fresh = clone(estimator)
    except TypeError as error:
        known = ", ".join(CLASSIFIERS)
        raise ValueError(f"families takes {known} and scikit-learn estimators, got {estimator!r}") from error
    random = [name for name in fresh.get_params() if name.rpartition("__")[2] == "random_state"]
    return fresh.set_params(**dict.fromkeys(random, state))
