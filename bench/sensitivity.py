"""How much the choice of λ, of the number of candidates and of the temperature matters, for one backbone.

python -m bench.sensitivity --data heloc compas --backbone ar

The backbone is fitted once per data set and seed and asked with one dial turned at a time, the others at their
defaults. One line of JSON per point in --out; points that the file already holds are not computed again. --page is made
anew of all points of the file, with a picture per data set.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

import train
from bench.cells import add_options, append, command, configure, fit, read, table
from bench.page import about_world, picture_names
from bench.protocol import DATA, Trial, settings, split

DIALS: dict[str, tuple[float, ...]] = {
    "cost_weight": (2, 3, 5, 10, 20),
    "candidates": (1, 4, 16, 64, 256),
    "temperature": (0.25, 0.5, 1, 1.5, 2, 3),
}
HEADINGS = {"cost_weight": "λ", "candidates": "k, candidates in all", "temperature": "temperature"}
MEASURES = {
    "score": "{:.3f}",
    "lead": "{:+.3f}",
    "cost": "{:.3f}",
    "validity_judge": "{:.3f}",
    "plausibility": "{:.3f}",
    "found": "{:.3f}",
}
BASE = ("data", "split", "backbone", "factuals", "settings")
KEY = (*BASE, "seed", "dial", "value")


def identity(cell: dict[str, Any], keys: Sequence[str] = KEY) -> str:
    return json.dumps([cell[key] for key in keys])


def turned(dial: str, value: float) -> dict[str, Any]:
    """The options of `generate` for one point: exactly k candidates are tried where k is the dial."""
    return {"candidates": int(value), "max_candidates": int(value)} if dial == "candidates" else {dial: value}


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The missing points, one fitted backbone at a time."""
    done = {identity(cell) for cell in read(arguments.out)}
    for data in arguments.data:
        for seed in arguments.seeds:
            about = {
                "data": data,
                "seed": seed,
                "split": split(data, arguments.folder),
                "backbone": arguments.backbone,
                "factuals": arguments.factuals,
                "settings": list(arguments.set),
            }
            points = [{**about, "dial": dial, "value": value} for dial, values in DIALS.items() for value in values]
            missing = [point for point in points if identity(point) not in done]
            if not missing:
                continue
            world = settings(data, seed, factuals=arguments.factuals, folder=arguments.folder)
            config = configure([*world, f"backbone={arguments.backbone}", *arguments.set])
            train.use_threads(config["threads"])
            trial = Trial.of(config)
            generator = fit(config, trial.given)
            for point in missing:
                options = {**config["generate"], **turned(point["dial"], point["value"])}
                row = trial.score(generator.generate(trial.given.denied, n=1, **options).best())
                d = len(trial.given.schema.features)
                yield {
                    **point,
                    "d": d,
                    **row,
                    "lead": row["score"] - trial.nearest_score,
                    "nearest": trial.nearest_score,
                }


def draw(path: Path, rows: pd.DataFrame) -> None:
    """Score against each dial, mean and standard deviation over seeds, the nearest partner's dotted, as PNG."""
    figure, panels = plt.subplots(1, len(DIALS), figsize=(13, 4), sharey=True, layout="constrained")
    for axes, dial in zip(panels, DIALS, strict=True):
        by_value = rows[rows["dial"] == dial].groupby("value")["score"]
        mean, spread = by_value.mean(), by_value.std().fillna(0)
        axes.errorbar(mean.index, mean, yerr=spread, marker="o", ms=4, capsize=2)
        axes.axhline(rows["nearest"].mean(), linestyle=":", color="0.4", label="nearest partner")
        axes.set(xscale="log", xlabel=HEADINGS[dial])
        axes.set_xticks(list(mean.index), [f"{value:g}" for value in mean.index])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("score (higher is better)")
    panels[0].legend(fontsize=8)
    figure.suptitle(_title(rows), fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(path: Path, cells: Sequence[dict[str, Any]]) -> None:
    """Make the page and its pictures from the points of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Sensitivity\n\nMade by `bench/sensitivity.py`; do not edit. One dial is turned, the others stay at their "
        "defaults. The measures are those of [the paper's comparison](paper.md); means over seeds ± standard "
        "deviation of the score.\n"
    ]
    frame = pd.DataFrame(cells)
    groups = [rows for _, rows in frame.groupby([identity(cell, BASE) for cell in cells], sort=False)] if cells else []
    for rows, picture in zip(groups, picture_names(path, groups), strict=True):
        draw(path.with_name(picture), rows)
        commands = "\n".join(rows["command"].drop_duplicates())
        parts.append(f"## {_title(rows)}\n\n```bash\n{commands}\n```\n\n![score against each dial]({picture})\n")
        parts += [f"{_table(rows[rows['dial'] == dial], dial)}\n" for dial in DIALS if (rows["dial"] == dial).any()]
    path.write_text("\n".join(parts))


def _table(rows: pd.DataFrame, dial: str) -> str:
    lines = []
    for value, points in rows.groupby("value"):
        means = points[list(MEASURES)].astype(float).mean()
        shown = {key: "" if pd.isna(means[key]) else form.format(means[key]) for key, form in MEASURES.items()}
        if len(points) > 1:
            shown["score"] += f" ± {points['score'].std():.3f}"
        lines.append([f"{value:g}", *shown.values()])
    headings = [key.replace("validity_judge", "valid, judge").replace("plausibility", "plausible") for key in MEASURES]
    return table(lines, [HEADINGS[dial], *headings])


def _title(rows: pd.DataFrame) -> str:
    return f"{rows['backbone'].iloc[0]} on {about_world(rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.sensitivity", description=__doc__, formatter_class=form)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["compas"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--backbone", default="ar")
    parser.add_argument("--factuals", type=int, default=200)
    add_options(parser, "sensitivity.jsonl")
    parser.add_argument("--page", type=Path, default=Path("docs/sensitivity.md"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    for cell in cells(arguments):
        append(arguments.out, {**cell, "command": command("bench.sensitivity", argv)})
        said = f"{cell['dial']} {cell['value']:g}: score {cell['score']:.3f}"
        print(f"{cell['data']} {cell['seed']} {said}", file=sys.stderr, flush=True)
    write(arguments.page, read(arguments.out))


if __name__ == "__main__":
    main()
