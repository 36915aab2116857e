"""The throughput of one run as a Markdown table and a picture.

python -m bench.report bench/results/throughput-cpu.json --picture docs/throughput.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

COLUMNS = {  # key: (heading, format)
    "what": ("", "{}"),
    "backbone": ("backbone", "{}"),
    "batch": ("people", "{:.0f}"),
    "candidates": ("candidates", "{:.0f}"),
    "rows_per_second": ("rows/s ↑", "{:,.0f}"),
    "milliseconds": ("median, ms ↓", "{:,.1f}"),
    "p99_milliseconds": ("p99, ms ↓", "{:,.1f}"),
    "speedup": ("× reference ↑", "{:,.0f}"),
    "floor_share": ("share of the floor ↑", "{:.0%}"),
}


def results(run: dict[str, Any]) -> pd.DataFrame:
    """One row per timing of a run, with its speed over that of the reference sampler on the same question.

    speedup: rows per second over the reference's at the same number of people and candidates; missing where the
    reference was not asked that, or where something else than sampling was timed.
    """
    frame = pd.DataFrame(run["results"]).reindex(columns=[*COLUMNS, "rows", "seconds", "p99"])
    frame["milliseconds"], frame["p99_milliseconds"] = 1e3 * frame["seconds"], 1e3 * frame["p99"]
    reference = frame[frame["what"] == "reference"].set_index(["batch", "candidates"])["rows_per_second"]
    asked = pd.MultiIndex.from_frame(frame[["batch", "candidates"]])
    compared = frame["what"].isin(["sampling", "reference"])
    frame["speedup"] = (frame["rows_per_second"] / reference.reindex(asked).to_numpy()).where(compared)
    return frame


def table(frame: pd.DataFrame) -> str:
    """Markdown; what was not measured stays empty."""
    lines = ["| " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    for row in frame[list(COLUMNS)].to_dict("records"):
        shown = ["" if pd.isna(row[key]) else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def picture(frame: pd.DataFrame, path: Path) -> None:
    """Rows per second against the number of people, one line per backbone and number of candidates."""
    sampling = frame[frame["what"].isin(["sampling", "reference"])]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (backbone, candidates, what), line in sampling.groupby(["backbone", "candidates", "what"]):
        if len(line) > 1:
            line = line.sort_values("batch")
            style = "--" if what == "reference" else "-"
            name = "reference procedure" if what == "reference" else backbone
            axes.plot(
                line["batch"], line["rows_per_second"], style, marker="o", ms=3, label=f"{name}, k = {candidates:g}"
            )
    axes.set(xscale="log", yscale="log", xlabel="people in one call", ylabel="people answered per second")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="what `pytest --benchmark` wrote")
    parser.add_argument("--picture", type=Path, help="draw rows per second against the number of people here")
    arguments = parser.parse_args(argv)
    run = json.loads(arguments.run.read_text())
    machine, frame = run["machine"], results(run)
    print(
        f"{machine['device']}, {machine['threads']} threads: {machine['flops'] / 1e9:.0f} GFLOP/s in a matrix product, "
        f"{machine['copied'] / 1e9:.0f} GB/s in a copy\n"
    )
    print(table(frame))
    if arguments.picture:
        picture(frame, arguments.picture)


if __name__ == "__main__":
    main()
