"""GenRe's comparison (Garg et al., ICLR 2025): our generators and published methods under the paper's protocol.

python -m bench.paper --folder DIR                # everything: adult, compas, heloc, moons, circles, corr, german
python -m bench.paper --quick                     # COMPAS, one seed, 50 people, short trainings: minutes

One line of JSON per (data, seed, method) in --out. Cells that the file already holds are not computed again, so a run
that was stopped goes on where it was. --page is made anew of all cells of the file, with a picture per data set; of a
method that was trained in several ways (training.*, threads), it shows the cells that are like its last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import train
from bench import methods, page
from bench.cells import add_options, append, command, configure, read
from bench.protocol import DATA, Trial, settings, split

PACKAGES = ("torch", "numpy", "pandas", "scikit-learn")  # whose versions a cell notes
# What makes two cells the same cell; minutes: of training, where it was given more of them.
KEY = ("data", "seed", "method", "split", "factuals", "quick", "settings", "minutes")


def identity(cell: dict[str, Any]) -> str:
    return json.dumps([cell.get(key) for key in KEY])


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The missing cells, one world at a time."""
    done = {identity(cell) for cell in read(arguments.out) if not cell.get("retry")}
    for data in arguments.data:
        for seed in arguments.seeds:
            about = {
                "data": data,
                "seed": seed,
                "split": split(data, arguments.folder),
                "factuals": arguments.factuals,
                "quick": arguments.quick,
                "settings": list(arguments.set),
            }
            asked = [about | {"method": name} | more_minutes(name, arguments) for name in arguments.methods]
            missing = [cell for cell in asked if identity(cell) not in done]
            if missing:
                yield from of_world(about, missing, arguments)


def more_minutes(method: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Of the published network, which takes days of training: others need no more than they get."""
    return {"minutes": arguments.minutes} if method == methods.PAPER and arguments.minutes else {}


def of_world(
    about: dict[str, Any], missing: Sequence[dict[str, Any]], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The cells of one world. about: what they share; missing: that, and what is their own."""
    world = settings(about["data"], about["seed"], factuals=arguments.factuals, folder=arguments.folder)
    config = configure([*world, *arguments.set])
    train.use_threads(config["threads"])
    trial = Trial.of(config)
    for cell in missing:
        chosen = [*methods.settings(cell["method"], quick=arguments.quick), *arguments.set]
        if "minutes" in cell:
            chosen += [f"training.minutes={cell['minutes']}", "training.steps=1000000000"]
        measured = methods.cell(cell["method"], trial, configure([*world, *chosen]), quick=arguments.quick)
        shared = {"d": len(trial.given.schema.features), "threads": torch.get_num_threads()}
        yield {**cell, **shared, **measured}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=__doc__, formatter_class=form)
    parser.add_argument("--data", nargs="+", choices=DATA, help="default: all; of --quick: compas")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2; of --quick: 0")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=methods.names(),
        choices=[*methods.names(), methods.CEILING],
        help=f"default: all but {methods.CEILING!r}, which none can beat",
    )
    parser.add_argument("--factuals", type=int, help="people to help; default: 200, of --quick: 50")
    add_options(parser, "paper.jsonl")
    parser.add_argument("--minutes", type=float, help=f"of training, for {methods.PAPER!r} instead of the usual budget")
    parser.add_argument("--page", type=Path, default=Path("docs/paper.md"))
    parser.add_argument("--quick", action="store_true", help="few people and steps; the same figures in every run")
    arguments = parser.parse_args(argv)
    arguments.data = arguments.data or (["compas"] if arguments.quick else list(DATA))
    arguments.seeds = arguments.seeds or ([0] if arguments.quick else [0, 1, 2])
    arguments.factuals = arguments.factuals or (50 if arguments.quick else 200)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    warnings.simplefilter("ignore", UserWarning)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    for cell in cells(arguments):
        append(arguments.out, {**cell, "command": command("bench.paper", argv), "versions": versions})
        said = cell.get("refused") or f"score {cell['score']:.3f}, lead {cell['lead']:+.3f}"
        print(f"{cell['data']} {cell['seed']} {cell['method']}: {said}", file=sys.stderr, flush=True)
    page.write(arguments.page, read(arguments.out), arguments.out)


if __name__ == "__main__":
    main()
