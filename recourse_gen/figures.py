"""Pictures of an evaluation, and of what one call of `generate` found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recourse_gen.schema import Feature, Schema
from recourse_gen.sentences import Value, approval, side_by_side, words

PANELS = {"validity_judge": "validity (judge)", "plausibility": "plausibility (judge)"}
SWEEPS = {"candidates": ("o", "#1f77b4", "k = {:g}"), "cost_weight": ("s", "#d95f02", "λ = {:g}")}
BEFORE, AFTER, STILL = "#d95f02", "#1f77b4", "#808080"


class NotebookFigure(Figure):
    """A figure made without pyplot that notebooks show all the same, by their own protocol of rich display."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw_change(
    before: pd.DataFrame, after: pd.DataFrame, schema: Schema, entry: Mapping[Any, Any], who: str
) -> NotebookFigure:
    """One answer beside its factual, both frames ``(1, D)``, a row per column, changed ones first.

    Numbers lie on the range of their column (`Feature.bounds`), and at its end where they are beyond it; categories are
    written out. entry: the answer's row of the report. who: the title's first words.
    """
    (values,) = side_by_side(before, after)
    rows = sorted(zip(schema.features, values, strict=True), key=lambda row: not row[1].changed)
    figure = NotebookFigure(figsize=(9.5, 1.3 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (feature, value) in enumerate(rows):
        _draw_row(axes, y, feature, value, before[feature.name].iloc[0], after[feature.name].iloc[0])
    axes.set_xlim(-0.12, 1.32)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    names = [_short(value.feature, 40) for _, value in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    for label, (_, value) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color="black" if value.changed else STILL, fontweight="bold" if value.changed else "normal")
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    old, new = approval(entry)
    axes.set_title(f"{_short(who, 60)}: approval {old} → {new}", loc="left", parse_math=False)
    for name, color, fill in (("today", BEFORE, "white"), ("recommended", AFTER, AFTER), ("unchanged", STILL, STILL)):
        axes.plot([], [], "o", label=name, color=color, markerfacecolor=fill)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_answers(report: pd.DataFrame, who: str | None) -> NotebookFigure:
    """Cost against the classifier's probability of the answers in rows of a report, which has one at least.

    who: the title's first words, if all rows belong to one person. That person's answers are numbered, and today's
    probability is drawn at cost 0.
    """
    found = report[report["status"] == "ok"]
    cost, probability = found["cost"].to_numpy(), found["probability"].to_numpy()
    figure = NotebookFigure(figsize=(6.5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0.5, color=STILL, linewidth=1, linestyle="--", zorder=1)
    if who is not None:
        today = found["probability_before"].iloc[0]
        axes.plot([0], [today], "o", color=BEFORE, markerfacecolor="white", label="today", zorder=3)
        for rank, x, y in zip(found.index.get_level_values(1), cost, probability, strict=True):
            axes.plot([0, x], [today, y], color="#dddddd", linewidth=1, zorder=1)
            axes.annotate(f"{rank + 1}", (x, y), (5, 5), textcoords="offset points", fontsize=9)
    audited, opinion = found["audited"].to_numpy(dtype=bool), found["plausibility"].notna().to_numpy()
    for which, label, color, fill in (
        (audited, "the auditor accepts", AFTER, AFTER),
        (opinion & ~audited, "the auditor does not accept", AFTER, "white"),
        (~opinion, "no auditor was asked", STILL, STILL),
    ):
        style: dict[str, Any] = {"label": label, "color": color, "markerfacecolor": fill}
        if which.any():
            axes.plot(cost[which], probability[which], "o", alpha=0.8, zorder=2, **style)
    people = report.index.get_level_values(0)
    whole = f"Answers: {len(found)}, for {found.index.get_level_values(0).nunique()} of {people.nunique()} people"
    title = whole if who is None else f"{_short(who, 60)}: approval and its cost"
    axes.set_title(title, loc="left", parse_math=False)
    axes.set_xlabel("cost (columns; left is better)")
    axes.set_ylabel("probability of approval (higher is better)")
    axes.set_xlim(left=0 if who is None else None)
    axes.set_ylim(top=1.05)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_tradeoff(path: Path | str, points: Sequence[Mapping[str, Any]], nearest: Mapping[str, Any], name: str) -> None:
    """Cost against judged validity and plausibility, one panel each, written to `path` as PNG.

    points: one mapping per setting with ``sweep`` (``candidates`` or ``cost_weight``), ``value`` (the k or λ),
    ``cost`` (columns), ``validity_judge`` and ``plausibility`` (shares of the factuals). nearest: the same measures of
    the nearest partner. name: the method, for the legend. Settings that found no answer have no cost and are left out.
    """
    # A Figure with its own canvas leaves pyplot's global state, and the caller's backend, alone.
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for sweep, (marker, color, text) in SWEEPS.items():
            drawn = [point for point in points if point["sweep"] == sweep and point["cost"] is not None]
            drawn.sort(key=lambda point: point["value"])
            costs, shares = [point["cost"] for point in drawn], [point[key] for point in drawn]
            label = f"{name}, {'candidates k' if sweep == 'candidates' else 'cost weight λ'} varied"
            axes.plot(costs, shares, marker=marker, color=color, linewidth=1, alpha=0.8, label=label)
            # Labels of one sweep go above the points, of the other below, so crossing lines stay legible.
            offset = (5, 6) if sweep == "candidates" else (5, -13)
            for point in drawn:
                where, style = (point["cost"], point[key]), {"fontsize": 8, "color": color}
                axes.annotate(text.format(point["value"]), where, offset, textcoords="offset points", **style)
        if nearest["cost"] is not None:
            star = {"marker": "*", "markersize": 13, "color": "black", "linestyle": "none"}
            axes.plot([nearest["cost"]], [nearest[key]], label="nearest partner", **star)
        axes.set_title(title)
        axes.set_xlabel("cost (mean L1 over scaled columns; left is better)")
        axes.margins(x=0.12, y=0.15)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of factuals (higher is better)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    canvas.print_png(str(path))


def _draw_row(axes: Axes, y: int, feature: Feature, value: Value, before: Any, after: Any) -> None:
    """One column: its range with a mark per value and what it says on the right, or its levels as text."""
    style: dict[str, Any] = {"va": "center", "fontsize": 9, "parse_math": False}
    color = "black" if value.changed else STILL
    shown = (value.before, value.after) if value.changed else (value.before,)
    if feature.bounds is None:
        said = " → ".join(_short(text, 70 // len(shown)) for text in shown)
        axes.text(0, y, said, color=color, **style)
        return
    ends = [_short(text, 10) for text in words(*feature.bounds)]
    axes.plot([0, 1], [y, y], color="#dddddd", linewidth=3, solid_capstyle="round", zorder=1)
    axes.text(-0.02, y, ends[0], color=STILL, ha="right", **{**style, "fontsize": 8})
    axes.text(1.02, y, ends[1], color=STILL, ha="left", **{**style, "fontsize": 8})
    old, new = feature.scaled([before, after]).clip(0.0, 1.0)
    if value.changed:
        arrow = {"arrowstyle": "-|>", "color": AFTER, "linewidth": 1.5, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", (new, y), (old, y), arrowprops=arrow, zorder=2)
        axes.plot([old], [y], "o", color=BEFORE, markerfacecolor="white", markersize=7, zorder=3)
    axes.plot([new], [y], "o", color=AFTER if value.changed else STILL, markersize=7 if value.changed else 5, zorder=4)
    axes.text(1.32, y, " → ".join(shown), color=color, ha="right", **style)


def _short(text: str, length: int) -> str:
    """One line of at most that many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
