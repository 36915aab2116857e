"""Recommendations in words: what a person would read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recourse_gen import metrics
from recourse_gen.classifier import Classifier

if TYPE_CHECKING:
    from recourse_gen.recourse import Counterfactuals


def describe(counterfactuals: Counterfactuals, classifier: Classifier, n: int = 3) -> list[str]:
    """Recommendations in words for the first `n` people who have one, for instance
    ``Applicant 17: NumInqLast6M 4 → 2, NetFractionRevolvingBurden 71 → 54; approval 0.31 → 0.68``."""
    sentences = []
    for person, approval, values in _in_words(counterfactuals, classifier, n):
        changes = ", ".join(f"{name} {old} → {new}" for name, old, new, changed in values if changed) or "no change"
        sentences.append(f"Applicant {person}: {changes}; approval {approval[0]} → {approval[1]}")
    return sentences


def examples(counterfactuals: Counterfactuals, classifier: Classifier, n: int = 5) -> pd.DataFrame:
    """The first `n` answered people before and after, one row per person and column, ``approval`` first.

    Columns: ``person``, ``feature``, ``before``, ``after``, ``changed`` ("yes" or empty).
    """
    rows: list[tuple] = []
    for person, approval, values in _in_words(counterfactuals, classifier, n):
        rows.append((person, "approval", *approval, ""))
        rows.extend((person, name, old, new, "yes" if changed else "") for name, old, new, changed in values)
    return pd.DataFrame(rows, columns=["person", "feature", "before", "after", "changed"])


def words(before: Any, after: Any, decimals: int | None = None) -> tuple[str, str]:
    """Two values as short text that differs whenever the values do.

    Whole numbers without a point, other numbers to three significant digits (or `decimals` places), more where the
    change would not show.
    """
    for extra in range(18):
        pair = _word(before, extra, decimals), _word(after, extra, decimals)
        if pair[0] != pair[1] or before == after:
            return pair
    return repr(before), repr(after)


def _in_words(found: Counterfactuals, classifier: Classifier, n: int) -> list[tuple[Any, tuple[str, str], list[tuple]]]:
    """The first `n` answered people: name, approval before and after, and per column (name, before, after, changed)."""
    answers = found.best()
    people = np.flatnonzero(metrics.answered(answers))[:n]
    before = found.factuals.iloc[people]
    after = metrics.restore_dtypes(answers.iloc[people], before)
    if before.empty:
        return []
    approval = np.stack([classifier.probability(before), classifier.probability(after)], axis=1).tolist()
    told = []
    for i, differs in enumerate(metrics.changed(before, after)):
        pairs = [(name, *words(before[name].iloc[i], after[name].iloc[i])) for name in before.columns]
        values = [(*pair, bool(differ)) for pair, differ in zip(pairs, differs, strict=True)]
        told.append((before.index[i], words(approval[i][0], approval[i][1], decimals=2), values))
    return told


def _word(value: Any, extra: int, decimals: int | None) -> str:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return str(value)
    if decimals is not None:
        return f"{value:.{decimals + extra}f}"
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return str(int(value))
    whole = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    return np.format_float_positional(number, max(3, whole) + extra, fractional=False, trim="-")
