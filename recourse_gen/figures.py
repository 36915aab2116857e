"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {"validity_judge": "validity (judge)", "plausibility": "plausibility (judge)"}
SWEEPS = {"candidates": ("o", "#1f77b4", "k = {:g}"), "cost_weight": ("s", "#d95f02", "λ = {:g}")}


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
