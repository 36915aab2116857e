"""Recommendations in words: what a person would read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recourse_gen.constraints import changed_cells


class Value(NamedTuple):
    """One column of one recommendation, in words."""

    feature: str
    before: str
    after: str
    changed: bool


def side_by_side(before: pd.DataFrame, after: pd.DataFrame) -> list[list[Value]]:
    """The columns of each row of two frames ``(A, D)`` that are row-aligned and have the same dtypes."""
    columns = [
        [
            Value(text(name), *words(old, new), differs)
            for old, new, differs in zip(before[name].tolist(), after[name].tolist(), changed.tolist(), strict=True)
        ]
        for name, changed in zip(before.columns, changed_cells(before, after).T, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def named(factual: Any, rank: int = 0, n: int = 1) -> str:
    """How one of `n` answers for a factual is called: ``Applicant 17``, or ``Applicant 17, option 1`` for rank 0."""
    return f"Applicant {text(factual)}, option {rank + 1}" if n > 1 else f"Applicant {text(factual)}"


def sentence(who: str, entry: Mapping[Any, Any], values: Sequence[Value] = ()) -> str:
    """One recommendation, or why there is none.

    who: its first words. entry: its row of the report. values: its columns, where there is a recommendation. For
    instance ``Applicant 17: NumInqLast6M 4 → 2, NetFractionRevolvingBurden 71 → 54; approval 0.31 → 0.68``. Names and
    values with letters that run from right to left stand between U+2068 and U+2069, which keep the sentence in order.
    """
    told = enumerate(pieces(who, entry, values))
    return "".join(f"\u2068{piece}\u2069" if at % 2 and right_to_left(piece) else piece for at, piece in told)


def pieces(who: str, entry: Mapping[Any, Any], values: Sequence[Value] = ()) -> list[str]:
    """A `sentence` in parts, of which the second, the fourth and so on are names and values."""
    (before, after), reason = approval(entry), entry["reason"]
    if entry["status"] != "ok":
        advice = "no change is needed" if entry["status"] == "already_favourable" else "no recommendation"
        return ["", who, f": {advice} ({entry['status'].replace('_', ' ')}: {reason}); approval {before}"]
    end = f"; approval {before} → {after}" + (f" ({reason})" if reason else "")
    told = ["", who, ": "]
    for value in (value for value in values if value.changed):
        told += [value.feature, " ", value.before, " → ", value.after, ", "]
    return [*told[:-1], end] if len(told) > 3 else ["", who, f": no change{end}"]


def right_to_left(words: str) -> bool:
    """Whether a text would, among words from left to right, also turn round the arrow beside it."""
    return any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in words)


def text(value: Any) -> str:
    """Text that can be written and drawn: half of a surrogate pair, which no file may hold, as ``\\ud800``."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def approval(entry: Mapping[Any, Any]) -> tuple[str, str]:
    """The classifier's probability before and after, of a row of the report."""
    return words(entry["probability_before"], entry["probability"], decimals=2)


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


def _word(value: Any, extra: int, decimals: int | None) -> str:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return text(value)
    if decimals is not None:
        return f"{value:.{decimals + extra}f}"
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return str(int(value))
    whole = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    return np.format_float_positional(number, max(3, whole) + extra, fractional=False, trim="-")
