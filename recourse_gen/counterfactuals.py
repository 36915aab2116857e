"""What `RecourseGenerator.generate` returns."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from recourse_gen.constraints import changed_cells

STATUSES = ("ok", "already_favourable", "infeasible", "not_found")
REPORT = ("status", "reason", "probability", "cost", "n_changed", "plausibility", "consensus", "audited", "candidates")


@dataclass(frozen=True)
class Counterfactuals:
    """Recommended changes for a frame of factuals.

    factuals: the frame that was asked about, in training column order. report: one row per requested (factual, rank),
    with ``status`` (`STATUSES`), ``reason`` (empty if ok and audited), ``probability`` (the classifier's, on exactly
    the returned row; the factual's own where nothing is returned), ``cost``, ``n_changed``, ``plausibility`` and
    ``consensus`` (the auditor's; NaN without one), ``audited`` (an auditor was asked and accepts it) and
    ``candidates`` (how many were tried).
    """

    factuals: pd.DataFrame
    report: pd.DataFrame
    _answers: pd.DataFrame

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
        return pd.DataFrame(rows, columns=["factual", "rank", "feature", "from", "to"])

    def best(self) -> pd.DataFrame:
        """The best-ranked answer of each factual: the factuals' own index, missing values where there is none."""
        person = self._answers.index.get_level_values(0)
        return self._answers.set_axis(person)[~person.duplicated()].reindex(self.factuals.index)

    def _before(self) -> pd.DataFrame:
        position = pd.Index(self.factuals.index).get_indexer(self._answers.index.get_level_values(0))
        return self.factuals.iloc[position]
