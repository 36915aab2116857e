"""Evaluation by an independent judge: a frame of answers, whoever made it, to one row of a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table

from recourse_gen import metrics
from recourse_gen.checkpoint import replace_file
from recourse_gen.classifier import Classifier
from recourse_gen.figures import draw_tradeoff
from recourse_gen.judge import GoldJudge
from recourse_gen.schema import Schema
from recourse_gen.sentences import approval, side_by_side

if TYPE_CHECKING:
    from recourse_gen.recourse import Counterfactuals, RecourseGenerator

__all__ = [
    "Evaluation",
    "evaluate_frames",
    "examples",
    "nearest_partners",
    "record",
    "run",
    "select_factuals",
    "sweep",
    "table",
    "write_pictures",
]
COLUMNS = {  # metrics.json key: (table heading, format)
    "cost": ("cost ↓", "{:.3f}"),
    "validity": ("valid ↑", "{:.3f}"),
    "validity_judge": ("valid, judge ↑", "{:.3f}"),
    "plausibility": ("plausible ↑", "{:.3f}"),
    "score": ("score ↑", "{:.3f}"),
    "lead": ("lead ↑", "{:+.3f}"),
    "n_changed": ("changes ↓", "{:.1f}"),
    "found": ("found ↑", "{:.3f}"),
    "constraint_violations": ("violations ↓", "{:d}"),
    "rows_per_second": ("rows/s ↑", "{:.0f}"),
}


@dataclass(frozen=True)
class Evaluation:
    """Ours and the nearest partner on the same factuals under the same judge.

    ours, nearest: the measures of `evaluate_frames`, with ``lead`` (score minus the nearest partner's score) and
    ``rows_per_second`` (factuals answered per second of `generate`, or of the nearest-partner search).
    factuals: the people. counterfactuals: row-aligned answers, missing values where none. found: what `generate` gave.
    """

    ours: dict[str, Any]
    nearest: dict[str, Any]
    factuals: pd.DataFrame
    counterfactuals: pd.DataFrame
    found: Counterfactuals


def evaluate_frames(
    factuals: pd.DataFrame,
    counterfactuals: pd.DataFrame,
    *,
    classifier: Classifier,
    judge: GoldJudge,
    schema: Schema,
    constraints: Any = None,
) -> dict[str, Any]:
    """Measures of one frame of answers; missing values mark a factual without one.

    Shares of all factuals, a factual without an answer being a failure: ``validity`` (classifier > 0.5),
    ``validity_judge`` (judge > 0.5), ``plausibility`` (inlier for the judge), ``found`` (has an answer).
    Means over the answers, None if there are none: ``cost`` (columns), ``n_changed`` (columns).
    Counts: ``n_factuals``, ``constraint_violations``. ``score`` = validity_judge + plausibility − cost / d.

    Raises ValueError if the two frames differ in their index or there are no factuals.
    """
    if not factuals.index.equals(counterfactuals.index):
        raise ValueError("counterfactuals must have the index of the factuals: one answer, or a row of NaN, for each")
    measured = metrics.evaluate(
        factuals, counterfactuals, classifier=classifier, constraints=constraints, schema=schema
    )
    summary, after = measured.summary, measured.answers
    found = bool(summary["n_answers"])
    judged = float(metrics.validity(after, judge).sum() / len(factuals))
    inlier = float(judge.plausible(after).sum() / len(factuals))
    return {
        "cost": float(summary["cost"]) if found else None,
        "validity": float(summary["validity"]),
        "validity_judge": judged,
        "plausibility": inlier,
        "score": float(metrics.score(judged, inlier, summary["cost"] if found else 0.0, len(schema.features))),
        "n_changed": float(summary["n_changed"]) if found else None,
        "n_factuals": len(factuals),
        "found": float(summary["found"]),
        "constraint_violations": int(measured.rows["violation"].sum()),
    }


def select_factuals(frame: pd.DataFrame, classifier: Classifier, n: int = 200, *, seed: int) -> pd.DataFrame:
    """People to help: `n` rows that the classifier turns down (probability ≤ 0.5), drawn by `seed`; all if fewer.

    Raises ValueError if it turns nobody down.
    """
    order = np.random.default_rng(seed).permutation(len(frame))
    denied = np.asarray(classifier.probability(frame))[order] <= 0.5
    if not denied.any():
        raise ValueError(f"the classifier favours all {len(frame)} rows, so there is nobody to recommend a change to")
    return frame.iloc[order[denied][:n]]


def nearest_partners(generator: RecourseGenerator, factuals: pd.DataFrame) -> pd.DataFrame:
    """The cheapest admissible training partner of each factual: what a network has to beat.

    Factuals' index, missing values where there is no partner. Raises ValueError for a generator that has
    no training rows at hand.
    """
    if generator.pairs is None:
        raise ValueError("nearest partners need the training rows, which a loaded generator no longer holds")
    pairs = generator.pairs.of(factuals)
    frame = generator.transform.decode(pairs.nearest())
    return frame.set_axis(factuals.index[pairs.has_partner.cpu().numpy()]).reindex(factuals.index)


def run(generator: RecourseGenerator, factuals: pd.DataFrame, *, judge: GoldJudge, **options: Any) -> Evaluation:
    """Generate one answer per factual and evaluate it beside the nearest partner. options: passed to `generate`."""
    start = time.perf_counter()
    found = generator.generate(factuals, n=1, **options)
    middle = time.perf_counter()
    nearest = nearest_partners(generator, factuals)
    end = time.perf_counter()
    answers = found.best()
    rows = [_measure(generator, factuals, frame, judge, options) for frame in (answers, nearest)]
    for row, elapsed in zip(rows, (middle - start, end - middle), strict=True):
        row["lead"] = row["score"] - rows[1]["score"]
        row["rows_per_second"] = len(factuals) / max(elapsed, 1e-9)
    return Evaluation(rows[0], rows[1], factuals, answers, found)


def sweep(
    generator: RecourseGenerator,
    factuals: pd.DataFrame,
    *,
    judge: GoldJudge,
    candidates: Sequence[int] = (1, 4, 16, 64),
    cost_weights: Sequence[float] = (2, 5, 10, 20),
    limit: int = 100,
    max_seconds: float = 15.0,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Measures as λ, then k, vary, on the first `limit` factuals: the points of the trade-off picture.

    options: passed to `generate` at every point. Each point is an `evaluate_frames` row with ``sweep`` and ``value``;
    a point of the k sweep tries exactly k candidates. No new point after `max_seconds`.
    """
    options = dict(options or {})
    factuals, start, points = factuals.iloc[:limit], time.perf_counter(), []
    # Cheap settings first, so that running out of time costs the fewest points.
    settings: list[dict[str, Any]] = [{"cost_weight": value} for value in cost_weights]
    settings += [{"candidates": k, "max_candidates": k} for k in sorted(candidates)]
    for setting in settings:
        if time.perf_counter() - start > max_seconds:
            break
        name, value = next(iter(setting.items()))
        answers = generator.generate(factuals, n=1, **{**options, **setting}).best()
        row = _measure(generator, factuals, answers, judge, options)
        points.append({"sweep": name, "value": value, **row})
    return points


def table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Methods by measures, for ``rich.print``. rows: method name to its measures; missing ones stay empty."""
    drawn = Table()
    drawn.add_column("method")
    for heading, _ in COLUMNS.values():
        drawn.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = [(row.get(key), form) for key, (_, form) in COLUMNS.items()]
        drawn.add_row(name, *("" if value is None else form.format(value) for value, form in cells))
    return drawn


def record(
    evaluation: Evaluation,
    *,
    judge: GoldJudge,
    points: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """All measures of a run: what metrics.json holds.

    points: the trade-off, from `sweep`. seconds: wall time by stage. context: what the run was (``data``, ``backbone``,
    ``seed``, ...).
    """
    return {
        **context,
        **evaluation.ours,
        "seconds": dict(seconds),
        "nearest": evaluation.nearest,
        "judge": judge.description,
        "tradeoff": list(points),
    }


def examples(found: Counterfactuals, n: int = 5) -> pd.DataFrame:
    """The best answers of the first `n` answered people, one row per person and column, ``approval`` first.

    Columns: ``person``, ``feature``, ``before``, ``after``, ``changed`` ("yes" or empty).
    """
    answers = found.to_frame().groupby(level=0, sort=False, dropna=False).head(1).iloc[:n]
    people = answers.index.get_level_values(0)
    rows: list[tuple] = []
    entries = found.report.loc[answers.index].to_dict("records")
    for person, entry, values in zip(people, entries, side_by_side(found.factuals.loc[people], answers), strict=True):
        rows.append((person, "approval", *approval(entry), ""))
        rows.extend((person, v.feature, v.before, v.after, "yes" if v.changed else "") for v in values)
    return pd.DataFrame(rows, columns=["person", "feature", "before", "after", "changed"])


def write_pictures(
    folder: Path | str,
    evaluation: Evaluation,
    *,
    points: Sequence[Mapping[str, Any]],
    name: str,
) -> None:
    """Write examples.csv and tradeoff.png into a folder (created), each complete or not at all.

    points: the trade-off, from `sweep`. name: of the method, for the picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    people = examples(evaluation.found)
    replace_file(folder / "examples.csv", lambda path: people.to_csv(path, index=False))
    replace_file(folder / "tradeoff.png", lambda path: draw_tradeoff(path, points, evaluation.nearest, name))


def _measure(
    generator: RecourseGenerator,
    factuals: pd.DataFrame,
    answers: pd.DataFrame,
    judge: GoldJudge,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    given = options.get("constraints")
    constraints = generator.constraints if given is None else given
    parts: dict[str, Any] = {"classifier": generator.classifier, "schema": generator.schema, "constraints": constraints}
    return evaluate_frames(factuals, answers, judge=judge, **parts)
