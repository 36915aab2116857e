"""What recourse is judged by: pure functions on plain frames that never see the method.

A *factual* frame and a *counterfactual* frame are row-aligned: same length and columns, row i answers row i. A factual
without an answer is a row with missing values. Such a row is a failure wherever a metric is a yes or no (validity,
plausibility, robustness are False or 0) and missing (NaN) wherever it is a quantity (cost, number of changes).

All distances use the raw float64 values of the frames, scaled by `Feature.bounds`, and ignore cost weights: a weight is
what one person prefers, the metric compares methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import LocalOutlierFactor

from recourse_gen.alignment import align, check_columns, check_rows, check_spelling, common_schema, restored
from recourse_gen.classifier import Classifier, as_classifier
from recourse_gen.constraints import Constraints, changed_cells
from recourse_gen.personal import Rules, rules_for
from recourse_gen.schema import Schema


@dataclass(frozen=True, eq=False)
class Measures:
    """What `evaluate` finds.

    rows: one row per answer, and one for each factual without any; index ``(factual, rank)``, in the factuals' order.
    summary: the mean of each column of rows, over the answers of a factual first and then over factuals, so that
        everybody counts once. Shares (of the bool columns) are of all factuals, and one without an answer counts as not
        found, not valid and not plausible; other means are over factuals with an answer, NaN if there are none. Beside
        them ``n_factuals`` and ``n_answers`` (counts), ``diversity`` (columns, higher is more diverse: mean of
        `diversity` over factuals with several answers, NaN if there are none) and ``score`` (see `score`; NaN without a
        reference).
    answers: what was measured, ``(A, D)``: the complete rows, read into the factuals' columns, values and dtypes.

    The columns of rows:

    found: bool, it is an answer; higher is better, as with the next three.
    validity: bool, the classifier's probability exceeds 0.5.
    plausibility: bool, inlier among the reference rows; NaN where none were given.
    probability: 0 to 1, the classifier's, of the favourable class; NaN without an answer.
    cost: the size of the change, in columns, see `cost`; NaN without an answer. Lower is better, as with the rest.
    n_changed: the number of columns that change; NaN without an answer.
    violation: bool, breaks a constraint.
    misfit: bool, see `misfits`.
    """

    rows: pd.DataFrame
    summary: pd.Series
    answers: pd.DataFrame


def evaluate(
    factuals: pd.DataFrame,
    counterfactuals: pd.DataFrame,
    *,
    classifier: Any,
    reference: pd.DataFrame | None = None,
    constraints: Constraints | Mapping[Any, Constraints] | pd.Series | None = None,
    schema: Schema | None = None,
    target_class: Any = None,
) -> Measures:
    """Measure answers that any method gave, in plain frames.

    factuals: the people who asked, each with a label of their own in the index; all of them count, so leave out those
        whom the classifier favours already. Values, like the reference's, are the schema's (`alignment.check_rows`).
    counterfactuals: the answers, read by `recourse_gen.alignment.align`: of `Counterfactuals`, ``best()`` or
        ``to_frame()``; of the benchmark suites, a frame with the factuals' index and NaN rows for failures; of DiCE,
        ``final_cfs_df`` of one person, or ``pd.concat(frames, keys=factuals.index)`` of several.
    classifier, target_class: see `as_classifier`.
    reference: rows that count as the plausible population, for instance training rows with a favourable outcome.
    constraints: which answers may not break, for all or one for each person, as in `RecourseGenerator.generate`.
    schema: the columns and their ranges, which are the unit of cost. None infers it from the reference and the
        factuals, never from the answers: the same unit for all methods that are asked about the same people. Of other
        people it is another, and so is that of a report; there, give the generator's schema.

    Raises ValueError for what cannot be evaluated, naming the column or the option.
    """
    if schema is None:
        schema = common_schema(factuals, reference)
    if not isinstance(schema, Schema):
        raise ValueError(f"schema must be a Schema, got {type(schema).__name__}")
    names = list(schema.names)
    if reference is not None:
        check_rows("reference", reference, schema)
    keys, person, found, answers = align(factuals, counterfactuals, schema)
    before = factuals[names].set_flags(allows_duplicate_labels=True).iloc[person[found]]
    rules = None if constraints is None else rules_for(constraints, schema, factuals.index)
    model = as_classifier(classifier, target_class=target_class, columns=names)
    probability = _probability(answers, model)

    def of_rows(values: np.ndarray, failed: Any) -> np.ndarray:
        column = np.full(len(found), failed, dtype=values.dtype)
        column[found] = values
        return column

    columns = {
        "found": found,
        "validity": of_rows(probability > 0.5, False),
        "plausibility": np.nan if reference is None else of_rows(plausibility(answers, reference, schema), False),
        "probability": of_rows(probability, np.nan),
        "cost": of_rows(cost(before, answers, schema), np.nan),
        "n_changed": of_rows(sparsity(before, answers), np.nan),
        "violation": of_rows(violations(before, answers, rules), False),
        "misfit": of_rows(misfits(before, answers, schema), False),
    }
    rows = pd.DataFrame(columns, index=keys)
    summary = rows.astype(np.float64).groupby(person).mean().mean()
    summary["diversity"] = diversity(answers, schema).mean()
    paid = summary["cost"] if found.any() else 0.0
    summary["score"] = score(summary["validity"], summary["plausibility"], paid, len(names))
    summary["n_factuals"], summary["n_answers"] = len(factuals), found.sum()
    return Measures(rows, summary, answers)


def answered(counterfactuals: pd.DataFrame) -> np.ndarray:
    """Bool ``(B,)``: the rows that hold an answer, that is no missing value."""
    return counterfactuals.notna().all(axis=1).to_numpy(dtype=bool)


def validity(
    counterfactuals: pd.DataFrame, classifier: Any, threshold: float = 0.5, target_class: Any = None
) -> np.ndarray:
    """Bool ``(B,)``, higher is better: the probability of the favourable class exceeds `threshold` (0 to 1).
    classifier, target_class: see `as_classifier`."""
    return _probability(counterfactuals, as_classifier(classifier, target_class=target_class)) > threshold


def cost(factuals: pd.DataFrame, counterfactuals: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Float64 ``(B,)``, lower is better, NaN without an answer: the size of the change, in columns (0 to about D).

    L1 over numeric columns scaled to their training range plus the number of categorical columns that differ.
    """
    differs = changed(factuals, counterfactuals)
    check_columns("factuals", factuals, list(schema.names))
    total = np.zeros(len(factuals))
    for feature in schema.features:
        before, after = factuals[feature.name], counterfactuals[feature.name]
        if feature.kind == "categorical":
            total += differs[:, factuals.columns.get_loc(feature.name)]
        else:
            total += np.abs(feature.scaled(_numbers(before)) - feature.scaled(_numbers(after)))
    return np.where(answered(counterfactuals), total, np.nan)


def sparsity(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
    """Float64 ``(B,)``, lower is better, NaN without an answer: the number of columns that change (0 to D)."""
    return np.where(answered(counterfactuals), changed(factuals, counterfactuals).sum(axis=1), np.nan)


def changed(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> np.ndarray:
    """Bool ``(B, D)``, columns in the factuals' order: which values differ. A row without an answer changes nothing.

    Raises ValueError where one frame holds the text of what the other holds, "1" and 1; `evaluate` reads it.
    """
    found, before, after = _paired(factuals, counterfactuals)
    differs = np.zeros(factuals.shape, dtype=bool)
    differs[found] = changed_cells(before, after)
    return differs


def plausibility(
    counterfactuals: pd.DataFrame, reference: pd.DataFrame, schema: Schema, n_neighbors: int = 5
) -> np.ndarray:
    """Bool ``(B,)``, higher is better: the row is an inlier among the `reference` rows.

    Local outlier factor (Breunig et al., 2000; novelty detection over `n_neighbors`) on `coordinates`. To judge many
    frames against one reference, fit `outlier_detector` once and call `inlier`.
    """
    return inlier(counterfactuals, outlier_detector(reference, schema, n_neighbors), schema)


def outlier_detector(reference: pd.DataFrame, schema: Schema, n_neighbors: int = 5) -> LocalOutlierFactor:
    """Local outlier factor fitted on the reference rows. Raises ValueError for fewer than two of them."""
    if len(reference) < 2:
        raise ValueError(f"plausibility needs at least two reference rows, got {len(reference)}")
    neighbors = min(n_neighbors, len(reference) - 1)
    return LocalOutlierFactor(n_neighbors=neighbors, novelty=True, n_jobs=-1).fit(coordinates(reference, schema))


def inlier(counterfactuals: pd.DataFrame, detector: LocalOutlierFactor, schema: Schema) -> np.ndarray:
    """Bool ``(B,)``: the detector calls the row an inlier; False without an answer."""
    found = answered(counterfactuals)
    flags = np.zeros(len(counterfactuals), dtype=bool)
    if found.any():
        flags[found] = detector.predict(coordinates(counterfactuals[found], schema)) == 1
    return flags


def violations(
    factuals: pd.DataFrame,
    counterfactuals: pd.DataFrame,
    constraints: Rules | Mapping[Any, Constraints] | pd.Series | None,
) -> np.ndarray:
    """Bool ``(B,)``, lower is better: the answer breaks a constraint, of all or, by the factuals' labels, of each
    person. A row without an answer breaks none."""
    found, before, after = _paired(factuals, counterfactuals)
    broken = np.zeros(len(factuals), dtype=bool)
    if isinstance(constraints, (Mapping, pd.Series)):
        constraints = rules_for(constraints, None, factuals.index.unique())
    if constraints is not None and found.any():
        broken[found] = np.asarray(constraints.violations(before, after), dtype=bool)
    return broken


def misfits(factuals: pd.DataFrame, counterfactuals: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Bool ``(B,)``, lower is better: a change ends where its column has no values, at a fraction among whole numbers
    or at a category that the schema lacks. A row without an answer does not."""
    differs, wrong = changed(factuals, counterfactuals), np.zeros(len(factuals), dtype=bool)
    check_columns("factuals", factuals, list(schema.names))
    for feature in schema.features:
        column, moved = counterfactuals[feature.name], differs[:, factuals.columns.get_loc(feature.name)]
        if feature.kind == "categorical":
            wrong |= moved & (level_codes(column, feature.levels) < 0)
        elif feature.storage.kind in "iu":
            wrong |= moved & (_numbers(column) % 1 != 0)
    return wrong


def diversity(counterfactuals: pd.DataFrame, schema: Schema) -> pd.Series:
    """Float64 per factual, higher is more diverse, in columns as `cost`: mean cost between two of its answers.

    counterfactuals: complete rows whose first index level is the factual, several rows each.
    A factual with a single answer has no pair and gets NaN.
    """
    codes, factuals = pd.factorize(counterfactuals.index.get_level_values(0), use_na_sentinel=False)
    points = coordinates(counterfactuals, schema)
    sizes = np.bincount(codes, minlength=len(factuals))
    rank = counterfactuals.groupby(codes).cumcount().to_numpy()
    padded = np.full((len(factuals), sizes.max(initial=0), points.shape[1]), np.nan)
    padded[codes, rank] = points
    # Of n sorted values the i-th is subtracted n-1-i times and added i times over all pairs; padding sorts last.
    times = 2 * np.arange(padded.shape[1]) - sizes[:, None] + 1
    total = np.nansum(np.sort(padded, axis=1) * times[:, :, None], axis=(1, 2))
    pairs = sizes * (sizes - 1) / 2
    return pd.Series(np.divide(total, pairs, out=np.full(len(factuals), np.nan), where=pairs > 0), index=factuals)


def robustness(
    counterfactuals: pd.DataFrame, classifiers: Sequence[Any], threshold: float = 0.5, target_class: Any = None
) -> np.ndarray:
    """Float64 ``(B,)`` in 0 to 1, higher is better: share for whom `validity` holds; 0 without an answer."""
    if not classifiers:
        raise ValueError("robustness needs at least one classifier, got none")
    return np.mean([validity(counterfactuals, one, threshold, target_class) for one in classifiers], axis=0)


def score(validity: float, plausibility: float, cost: float, d: int) -> float:
    """Validity + plausibility − cost / d (GenRe, Garg et al., ICLR 2025), higher is better, at most 2.

    validity, plausibility: shares of all factuals, 0 to 1. cost: mean over the answers. d: number of columns.
    """
    return validity + plausibility - cost / d


def coordinates(frame: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Float64 ``(B, E)``: L1 between two rows is their `cost`.

    Numbers min-max scaled, two-level categories 0 or 1, larger categories half their one-hot vector. A category that
    the schema lacks is 0.5 of two levels and all zeros of more: equally far from every known level.
    """
    columns: list[np.ndarray] = []
    for feature in schema.features:
        if feature.kind != "categorical":
            columns.append(feature.scaled(_numbers(frame[feature.name]))[:, None])
            continue
        codes = level_codes(frame[feature.name], feature.levels)
        if len(feature.levels) <= 2:
            columns.append(np.where(codes < 0, 0.5, codes)[:, None])
        else:
            columns.append((codes[:, None] == np.arange(len(feature.levels))) / 2)
    return np.concatenate(columns, axis=1)


def level_codes(column: pd.Series, levels: Sequence[Any]) -> np.ndarray:
    """Int64 ``(B,)``: the place of each value among the levels, −1 for a value that is not among them."""
    return pd.Index(levels, dtype=object).get_indexer(pd.Index(column.astype(object), dtype=object)).astype(np.int64)


def restore_dtypes(counterfactuals: pd.DataFrame, factuals: pd.DataFrame) -> pd.DataFrame:
    """Complete rows in the factuals' columns and, wherever no value changes by it, dtypes.

    A frame that also holds rows without an answer has floats for integers and objects for booleans. A value that does
    not fit (4.5 among integers, a new category) keeps its column as it is: rounding it would flatter the method.
    """
    columns = {name: restored(counterfactuals[name], factuals[name].dtype) for name in factuals.columns}
    return pd.DataFrame(columns, index=counterfactuals.index)


def _probability(counterfactuals: pd.DataFrame, classifier: Classifier) -> np.ndarray:
    """Float64 ``(B,)``: probability of the favourable class, 0 without an answer."""
    found = answered(counterfactuals)
    probability = np.zeros(len(counterfactuals))
    if found.any():
        rows = counterfactuals if found.all() else counterfactuals[found].infer_objects()
        probability[found] = np.asarray(classifier.probability(rows), dtype=np.float64)
    return probability


def _numbers(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _paired(factuals: pd.DataFrame, counterfactuals: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Bool ``(B,)``, which rows hold an answer; and these rows of both frames, in the same columns and dtypes."""
    if len(factuals) != len(counterfactuals):
        raise ValueError(f"{len(factuals)} factuals but {len(counterfactuals)} counterfactuals: rows must correspond")
    missing = [name for name in factuals.columns if name not in counterfactuals.columns]
    if missing:
        raise ValueError(f"the counterfactuals lack column {missing[0]!r} of the factuals")
    found = answered(counterfactuals)
    before, after = factuals[found], restore_dtypes(counterfactuals[found], factuals)
    check_spelling(before, after)
    return found, before, after
