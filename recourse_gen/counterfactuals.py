"""What `RecourseGenerator.generate` returns."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd

from recourse_gen import groups as grouping
from recourse_gen import metrics, page
from recourse_gen.checkpoint import write_text
from recourse_gen.constraints import changed_cells
from recourse_gen.options import as_path, check_whole
from recourse_gen.schema import Schema
from recourse_gen.sentences import named, sentence, side_by_side

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATUSES = ("ok", "already_favourable", "infeasible", "not_found")
REPORT = (
    "status",
    "reason",
    "probability_before",
    "probability",
    "cost",
    "n_changed",
    "log_likelihood",
    "plausibility",
    "consensus",
    "audited",
    "candidates",
    "acceptance",
    "forced",
)


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Recommended changes for a frame of factuals.

    factuals: the frame that was asked about, in training column order. report: one row per requested (factual, rank);
    rank 0 is the best answer (with ``pareto``, the cheapest). schema: the columns of the training frame.

    The report's columns:

    status: ``ok``, ``already_favourable``, ``infeasible`` (the constraints leave nothing) or ``not_found``. reason: why
        there is no answer, or why the auditor does not accept it; else empty.
    probability_before, probability: of the favourable class, by the classifier, for the factual and for exactly the
        returned row; both the factual's own where nothing is returned.
    cost: the recourse cost, in columns. n_changed: how many columns change. NaN without an answer, like the next three.
    log_likelihood: log R(x⁺ | x) of the answer under the backbone, in nats, for the λ of the call, at temperature 1 and
        under the constraints if its ``log_prob`` takes them. NaN if it has none; −inf for an answer that the law
        excludes, as an answer that `sparsify` changed may be under ``exact``.
    plausibility, consensus: the auditor's opinions, NaN without one. audited: an auditor was asked and accepts it.
    candidates: how many were drawn for the factual. acceptance: the share of them, 0 to 1, that keep the constraints
        and are approved with the confidence asked for; NaN where none was drawn.
    forced: what the constraints do not let stay as it is today, so that every answer changes it: columns, and ordered
        pairs, as ``income, used ≤ limit``; empty if nothing.
    """

    factuals: pd.DataFrame
    report: pd.DataFrame
    schema: Schema = field(repr=False)
    _answers: pd.DataFrame

    def __eq__(self, other: object) -> bool:
        """Whether factuals, reports, schemas and answers are equal, NaN to NaN."""
        if not isinstance(other, Counterfactuals):
            return NotImplemented
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("factuals", "report", "_answers"))
        return self.schema == other.schema and all(mine.equals(theirs) for mine, theirs in pairs)

    def __len__(self) -> int:
        return len(self._answers)

    def to_frame(self) -> pd.DataFrame:
        """Valid counterfactuals only: index (factual, rank), columns and dtypes of the training frame."""
        return self._answers.copy()

    def changes(self) -> pd.DataFrame:
        """One row per changed cell: ``factual``, ``rank``, ``feature``, ``from``, ``to``."""
        before = self._before()
        cells = changed_cells(before, self._answers)
        keys = list(self._answers.index)
        rows = [
            (*keys[i], name, before[name].iloc[i], self._answers[name].iloc[i])
            for i, changed in enumerate(cells)
            for name, differs in zip(before.columns, changed, strict=True)
            if differs
        ]
        names = ("factual", "rank", "feature", "from", "to")
        return pd.DataFrame({name: _inferred([row[k] for row in rows]) for k, name in enumerate(names)})

    def best(self) -> pd.DataFrame:
        """The best-ranked answer of each factual: the factuals' own index, missing values where there is none."""
        person = self._person()
        first = ~pd.Index(person).duplicated()
        return self._answers[first].set_axis(self.factuals.index[person[first]]).reindex(self.factuals.index)

    def diversity(self) -> pd.Series:
        """Mean cost between two answers of each factual, in columns: the factuals' index, NaN for fewer than two."""
        return metrics.diversity(self._answers, self.schema).reindex(self.factuals.index)

    def by_group(self, groups: Any) -> pd.DataFrame:
        """Recourse by group, one row each, for instance ``found.by_group(frame["sex"])``.

        groups: a Series that holds at least the factuals' labels, or an array, index or list in their order; tuples
        may name groups. A missing value is a group of its own, for people of whom nothing is recorded are not to vanish
        from an audit.

        Columns: ``people``; ``denied``, those of them who ask because the classifier is not yet in favour; ``found``,
        those of the denied who have an answer; ``share_found`` (of the denied: 0 to 1, higher is better, NaN if there
        are none); and means over the best answer of each, NaN without any: ``cost`` (columns, lower is better),
        ``n_changed`` (columns, lower is better) and ``probability`` (0 to 1).

        Raises ValueError where groups do not match the factuals.
        """
        return grouping.by_group(self.report, self.factuals.index, groups)

    def describe(self, factual: Hashable) -> str:
        """In words, one line per answer: what the person at an index label of the factuals would have to change.

        For instance ``Applicant 17: NumInqLast6M 4 → 2; approval 0.31 → 0.68``. Where several answers were asked for,
        they are called option 1 (rank 0), option 2, ...; those that were not found are left out. For a person without
        any, one line says so and why. Raises ValueError for a label that is not among the factuals.
        """
        rows = self._rows_of(factual)
        entries = self.report.iloc[rows].to_dict("records")
        found = [rank for rank, entry in enumerate(entries) if entry["status"] == "ok"]
        if not found:
            return sentence(named(factual), entries[0])
        told = side_by_side(*self._pair(rows[found]))
        return "\n".join(
            sentence(named(factual, rank, len(rows)), entries[rank], values)
            for rank, values in zip(found, told, strict=True)
        )

    def plot(self, factual: Hashable, rank: int = 0) -> Figure:
        """One answer beside its factual: where each number lies in the range that its column has in the training rows
        (`Feature.bounds`), before and after, and the levels of categories as text; changed columns first.

        factual: an index label of the factuals. rank: which of the answers, 0 for the best.

        The figure is made without pyplot: it needs no display, nothing has to be closed, ``savefig`` writes it, and a
        notebook shows it when it is the last expression of a cell.

        Raises ValueError if there is no such factual, rank or answer.
        """
        from recourse_gen import figures  # matplotlib takes a while to import

        rows = self._rows_of(factual)
        check_whole("rank", rank, 0)
        if rank >= len(rows):
            raise ValueError(f"rank must be below {len(rows)}, as many answers as were asked for, got {rank}")
        entry, who = self.report.iloc[rows[rank]].to_dict(), named(factual, rank, len(rows))
        if entry["status"] != "ok":
            raise ValueError(f"there is nothing to draw at rank {rank}: {sentence(who, entry)}")
        return figures.draw_change(*self._pair(rows[[rank]]), self.schema, entry, who)

    def plot_tradeoff(self, factual: Hashable | None = None) -> Figure:
        """Cost of the answers against the classifier's probability: of all factuals, or of the one at an index label,
        together with where that person stands today. The figure is like that of `plot`.

        Raises ValueError if there is no such factual, or no answer to draw.
        """
        from recourse_gen import figures

        report = self.report if factual is None else self.report.iloc[self._rows_of(factual)]
        if not (report["status"] == "ok").any():
            raise ValueError("there is no answer to draw" + ("" if factual is None else f": {self.describe(factual)}"))
        return figures.draw_answers(report, None if factual is None else named(factual))

    @overload
    def to_html(self, path: None = None) -> str: ...
    @overload
    def to_html(self, path: str | Path) -> None: ...
    def to_html(self, path: str | Path | None = None) -> str | None:
        """All recommendations as one page for whoever has to explain them: a summary, and for every person the
        sentence of `describe`, what changes and what stays, the probability before and after and the audit's verdict.

        The page is self-contained (no scripts, nothing loaded) and fit for printing. It is returned as text, or
        written where a path is given: whole or not at all. Raises ValueError if the path's folder does not exist.
        """
        ok = np.flatnonzero(self.report["status"] == "ok")
        told = dict(zip(ok.tolist(), side_by_side(*self._pair(ok)), strict=True))
        text = page.render(self.factuals, self.report, told)
        if path is None:
            return text
        if not as_path("path", path).parent.is_dir():
            raise ValueError(f"path={str(path)!r} lies in a folder that does not exist")
        write_text(Path(path), text)
        return None

    def _rows_of(self, factual: Hashable) -> np.ndarray:
        """The rows of the report of the factual with that label."""
        index = self.factuals.index
        try:
            place = index.get_loc(factual)
        except (KeyError, TypeError, pd.errors.InvalidIndexError):
            place = None
        if not isinstance(place, (int, np.integer)):
            some = ", ".join(map(repr, index[:5].tolist())) + (", ..." if len(index) > 5 else "")
            raise ValueError(f"{factual!r} is not an index label of the factuals, which are {some or 'none'}")
        n = len(self.report) // len(index)
        return np.arange(place * n, (place + 1) * n)

    def _pair(self, rows: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The factuals and the answers ``(A, D)`` of those rows of the report, which have one."""
        at = (self.report["status"] == "ok").to_numpy().cumsum()[rows] - 1
        return self._before().iloc[at], self._answers.iloc[at]

    def _before(self) -> pd.DataFrame:
        return self.factuals.iloc[self._person()]

    def _person(self) -> np.ndarray:
        """Int64 ``(A,)``: the position of the factual of each answer."""
        labels = self._answers.index.get_level_values(0)
        position = self.factuals.index.get_indexer(labels)
        if (position < 0).any():
            raise ValueError(f"there is an answer for {labels[position < 0].tolist()[0]!r}, which is not a factual")
        return position


def _inferred(values: list[Any]) -> pd.Series:
    """A column of the dtype that pandas takes them for; text that is not fit for a column of text stays objects."""
    column = pd.Series(values, dtype=object)
    try:
        return column.infer_objects()
    except UnicodeEncodeError:
        return column
