"""The throughput of one run as a Markdown page with a picture.

python -m bench.report bench/results/throughput-cpu.json --page docs/throughput.md
python -m bench.report bench/results/throughput-cpu.json --short  # README's table
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
from matplotlib.lines import Line2D

from recourse_gen import files

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
    "kept": ("of the sampler's rate ↑", "{:.0%}"),
    "megabytes": ("memory, MB ↓", "{:,.0f}"),
}
STYLES: dict[Any, Any] = {1: "-", 10: "--", 100: ":"}  # of a line, by candidates
QUESTION = ["batch", "candidates"]

WORDS = """# Throughput

Made by `bench/report.py` from what `pytest --benchmark` wrote; do not edit. The table is Adult, on {machine}.
Compare ratios, not seconds.

- *reference*: the published procedure with the published network, 16 + 16 layers of width 32: every prefix is encoded
  anew for every column, one candidate after the other (`bench/reference_sampler.py`). *published*: the library's
  sampler with the same network and weights.
- *share of the floor*: the seconds that the network's matrix products would take at the rate of a large one, over the
  seconds spent in the network.
- *generate*: the whole call, from the frame of people to the report, with a gradient-boosting classifier and the audit;
  *sparse*: with `sparsify`, the default. *of the sampler's rate*: people per second, over those of sampling alone.
- *building pairs*: distances from everybody turned down to all partners, block by block; *dense*: all at once.
  *memory*: the most that tensors of the call held at one time, the result included. *K*: `pairs.top_k`.

{table}

![people answered per second against people in one call]({picture})
"""


def results(run: dict[str, Any]) -> pd.DataFrame:
    """One row per timing of a run, with its speed over others of the same question (`QUESTION`).

    speedup: rows per second over the reference's; missing where the reference was not asked that, or where something
    else than sampling was timed. kept: of `generate`, the seconds of sampling alone, timed beside it (in earlier runs:
    in another test), over those of the whole call.
    """
    wanted = [*COLUMNS, "rows", "seconds", "p99", "top_k", "peak_bytes", "sampling_seconds"]
    frame = pd.DataFrame(run["results"]).reindex(columns=wanted)
    frame["milliseconds"], frame["p99_milliseconds"] = 1e3 * frame["seconds"], 1e3 * frame["p99"]
    frame["megabytes"] = frame["peak_bytes"] / 1e6
    reference = frame[frame["what"] == "reference"].set_index(QUESTION)["rows_per_second"]
    alone = frame[frame["what"] == "sampling"].set_index(["backbone", *QUESTION])["seconds"]
    compared, whole = frame["what"].isin(["sampling", "reference"]), frame["what"].str.startswith("generate")
    frame["speedup"] = (frame["rows_per_second"] / _of(reference, frame[QUESTION])).where(compared)
    beside = frame["sampling_seconds"].fillna(pd.Series(_of(alone, frame[["backbone", *QUESTION]]), frame.index))
    frame["kept"] = (beside / frame["seconds"]).where(whole)
    frame["what"] += frame["top_k"].map(lambda k: "" if pd.isna(k) else f", K = {k:.0f}")
    return frame


def _of(rates: pd.Series, asked: pd.DataFrame) -> Any:
    return rates.reindex(pd.MultiIndex.from_frame(asked)).to_numpy()


def short(frame: pd.DataFrame) -> str:
    """README's table: ten candidates for one person, and for as many people as the reference was asked about."""
    people = int(frame.loc[frame["what"] == "reference", "batch"].max())
    asked = frame[frame["batch"].isin([1, people]) & (frame["candidates"] == 10)]
    asked = asked.assign(sampler=asked["backbone"].where(asked["what"] != "reference", "reference"))
    draws = asked[asked["what"].isin(["sampling", "reference"])]
    cells = pd.DataFrame(index=draws["sampler"].unique())
    for heading, timings, key, form in (
        ("draws", draws, "milliseconds", "{:,.1f} ms"),
        ("× reference", draws, "speedup", "{:,.0f}"),
        ("whole `generate`", asked[asked["what"] == "generate, sparse"], "milliseconds", "{:,.1f} ms"),
    ):
        for batch in (1, people):
            values = timings[timings["batch"] == batch].set_index("sampler")[key]
            cells[f"{heading}, {batch:,}"] = values.map(form.format).reindex(cells.index, fill_value="")
    lines = ["| " + " | ".join(["", *cells.columns]) + " |", "|" + "---|" * (1 + len(cells.columns))]
    return "\n".join([*lines, *("| " + " | ".join([f"`{row[0]}`", *row[1:]]) + " |" for row in cells.itertuples())])


def table(frame: pd.DataFrame) -> str:
    """Markdown; what was not measured stays empty."""
    lines = ["| " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    for row in frame[list(COLUMNS)].to_dict("records"):
        shown = ["" if pd.isna(row[key]) else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def picture(frame: pd.DataFrame, path: Path) -> None:
    """Rows per second against the number of people: a colour per sampler, a style per number of candidates, as PNG."""
    sampling = frame[frame["what"].isin(["sampling", "reference"])]
    sampler = sampling["backbone"].where(sampling["what"] == "sampling", "reference")
    colours = {name: f"C{i}" for i, name in enumerate(sampler.unique())}
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, candidates), line in sampling.groupby([sampler, "candidates"]):
        x, y = line.sort_values("batch")[["batch", "rows_per_second"]].to_numpy().T
        axes.plot(x, y, color=colours[name], linestyle=STYLES[candidates], marker="o", markersize=3)
    axes.set(xscale="log", yscale="log", xlabel="people in one call", ylabel="people answered per second")
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], color="0.3", linestyle=style, label=f"{k} candidates") for k, style in STYLES.items()]
    axes.legend(handles=handles, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__, formatter_class=form)
    parser.add_argument("run", type=Path, help="what `pytest --benchmark` wrote")
    parser.add_argument("--page", type=Path, help="write all here, with a picture beside it, instead of printing it")
    parser.add_argument("--short", action="store_true", help="print ten candidates for one person and for many only")
    arguments = parser.parse_args(argv)
    run = json.loads(arguments.run.read_text())
    machine, frame = run["machine"], results(run)
    about = (
        f"{machine['device']}, {machine['threads']} threads: {machine['flops'] / 1e9:.0f} GFLOP/s in a matrix product"
    )
    about += f", {machine['copied'] / 1e9:.0f} GB/s in a copy"
    about += f". {run['note'].rstrip('.')}" if "note" in run else ""
    if arguments.page is None:
        print(f"{about}\n\n{short(frame) if arguments.short else table(frame)}")
        return
    drawn = arguments.page.with_suffix(".png")
    picture(frame, drawn)
    text = WORDS.format(machine=about, table=table(frame), picture=drawn.name)
    files.replace_file(arguments.page, lambda draft: draft.write_text(text))


if __name__ == "__main__":
    main()
