"""The frontier of cost, validity and plausibility: one picture per data set, one line or point per method."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

PANELS = {
    "validity_judge": "valid (judge)",
    "plausibility": "plausible (local outlier factor)",
    "retrained": "valid under retrained classifiers",
}
JUDGED = ("cost", "validity_judge", "plausibility")
ENOUGH = 0.95  # the share who must have an answer: a mean over answers says little of a method that answers few
MARKS = "osD^v<>Ph*X8"


def points(cells: pd.DataFrame) -> pd.DataFrame:
    """The frontier of every cell, means over seeds: one row per ``method`` and ``confidence`` (NaN without the dial).

    Beside the measures' means, ``<measure>_sd`` their standard deviations over seeds, and ``best``: no other point is
    at least as good in cost, judged validity and plausibility and better in one. cells: with ``method`` and
    ``frontier``. Left out are confidences beyond a method's first at which fewer than `ENOUGH` of the people have an
    answer, for a mean over few is no end of a line, and points at which nobody, for some seed, has one.
    """
    listed = [
        {"method": method, "confidence": np.nan, **point}
        for method, frontier in zip(cells["method"], cells["frontier"], strict=True)
        for point in (frontier if isinstance(frontier, list) else ())
    ]
    frame = pd.DataFrame(listed, columns=["method", "confidence", "cost", "found", *PANELS]).astype({"cost": float})
    grouped = frame.groupby(["method", "confidence"], sort=False, dropna=False)
    means = grouped.agg("mean").join(grouped.agg("std").add_suffix("_sd")).reset_index()
    answered = grouped["cost"].agg("count").eq(grouped.size()).to_numpy()
    means = means[answered & ((means["found"] >= ENOUGH) | ~means["method"].duplicated())]
    judged = means[list(JUDGED)].to_numpy() * [-1.0, 1.0, 1.0]
    as_good, better = judged[:, None] >= judged, judged[:, None] > judged
    beaten = (as_good.all(2) & better.any(2)).any(0)
    return means.assign(best=np.asarray(~beaten))


def draw(path: Path, cells: pd.DataFrame, ours: Collection[str], title: str) -> None:
    """Cost against validity, plausibility and retrained validity, as PNG.

    Lines follow the confidence that is asked for; filled marks are ours, bars are standard deviations over seeds, and
    rings mark the points that no other beats (`points`).
    """
    frame = points(cells)
    figure, panels = plt.subplots(1, len(PANELS), figsize=(15, 5.2), layout="constrained")
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for i, method in enumerate(frame["method"].unique()):
        line = frame[frame["method"] == method].sort_values("confidence")
        colour, fill = colours[i % len(colours)], None if method in ours else "white"
        for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
            style = {"color": colour, "markerfacecolor": fill or colour, "marker": MARKS[i % len(MARKS)]}
            errors = {"xerr": line["cost_sd"].fillna(0), "yerr": line[f"{key}_sd"].fillna(0), "elinewidth": 0.6}
            axes.errorbar(line["cost"], line[key], **errors, **style, ms=5, lw=1, label=method)
            axes.set(xlabel="cost, in columns (left is better)", ylabel=label)
    for axes, key in zip(panels, PANELS, strict=True):
        best = frame[frame["best"]]
        axes.scatter(best["cost"], best[key], s=130, facecolors="none", edgecolors="black", linewidths=0.8)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
