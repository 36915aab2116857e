"""Score against the time of training, for the default and the paper's configuration of `ar`.

python -m bench.wall_clock --data adult --minutes 0.25 0.5 1 2

Every point is a training of its own, since the learning rate follows the budget. One line of JSON per point in --out;
points that the file already holds are not computed again. The picture is made anew of all points of the file.
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
from bench.cells import add_options, append, command, configure, fit, read
from bench.page import about_world
from bench.protocol import DATA, Trial, settings, split

CONFIGURATIONS = {"default": "backbone=ar", "as published": "experiment=paper"}
BASE = ("data", "split", "factuals", "settings")
KEY = (*BASE, "seed", "configuration", "minutes")


def identity(cell: dict[str, Any], keys: Sequence[str] = KEY) -> str:
    return json.dumps([cell[key] for key in keys])


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The missing points, one world at a time."""
    done = {identity(cell) for cell in read(arguments.out)}
    for seed in arguments.seeds:
        about = {
            "data": arguments.data,
            "seed": seed,
            "split": split(arguments.data, arguments.folder),
            "factuals": arguments.factuals,
            "settings": list(arguments.set),
        }
        points = [{**about, "configuration": name, "minutes": m} for name in CONFIGURATIONS for m in arguments.minutes]
        missing = [point for point in points if identity(point) not in done]
        if not missing:
            continue
        world = settings(arguments.data, seed, factuals=arguments.factuals, folder=arguments.folder)
        config = configure([*world, *arguments.set])
        train.use_threads(config["threads"])
        trial = Trial.of(config)
        for point in missing:
            chosen = CONFIGURATIONS[point["configuration"]]
            config = configure([*world, *arguments.set, chosen, f"training.minutes={point['minutes']}"])
            generator = fit(config, trial.world(config["schema"]))
            row = trial.score(generator.generate(trial.given.denied, n=1, **config["generate"]).best())
            training = generator.summary["training"]
            lead = {"lead": row["score"] - trial.nearest_score, "nearest": trial.nearest_score}
            d = len(trial.given.schema.features)
            yield {**point, "d": d, **row, **lead, "training_seconds": training["seconds"], "steps": training["steps"]}


def draw(path: Path, rows: pd.DataFrame) -> None:
    """Score against seconds of training, means over seeds, the nearest partner's dotted, as PNG."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, points in rows.groupby("configuration", sort=False):
        means = points.groupby("minutes")[["training_seconds", "score"]].mean()
        axes.plot(means["training_seconds"], means["score"], marker="o", ms=4, label=f"ar, {name}")
    axes.axhline(rows["nearest"].mean(), linestyle=":", color="0.4", label="nearest partner")
    axes.set(xscale="log", xlabel="seconds of training", ylabel="score (higher is better)", title=about_world(rows))
    budgets = [60 * minutes for minutes in sorted(rows["minutes"].unique())]
    axes.set_xticks(budgets, [f"{seconds:g}" for seconds in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.wall_clock", description=__doc__, formatter_class=form)
    parser.add_argument("--data", choices=DATA, default="adult")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", nargs="+", type=float, default=[0.25, 0.5, 1.0, 2.0])
    parser.add_argument("--factuals", type=int, default=200)
    add_options(parser, "wall-clock.jsonl")
    parser.add_argument("--picture", type=Path, default=Path("docs/wall-clock.png"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    for cell in cells(arguments):
        append(arguments.out, {**cell, "command": command("bench.wall_clock", argv)})
        said = f"{cell['configuration']}, {cell['minutes']:g} minutes: score {cell['score']:.3f}"
        print(f"{cell['data']} {cell['seed']} {said}", file=sys.stderr, flush=True)
    where = {"data": arguments.data, "split": split(arguments.data, arguments.folder)}
    asked = identity({**where, "factuals": arguments.factuals, "settings": list(arguments.set)}, BASE)
    draw(arguments.picture, pd.DataFrame([row for row in read(arguments.out) if identity(row, BASE) == asked]))


if __name__ == "__main__":
    main()
