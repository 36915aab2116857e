"""Is recourse still valid under classifiers trained anew, and when followed inexactly? With the auditor and without.

python -m bench.robustness data=heloc backbone=exact

The arguments are settings of train.py. One line of JSON per way of choosing, in --out; a cell that the file already
holds is not computed again. The table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import train
from bench.cells import append, configure, fit, read, table
from recourse_gen import evaluation, metrics
from recourse_gen.classifier import CLASSIFIERS, Classifier
from recourse_gen.robustness import noise_validity, retrained

CHOICES: dict[str, dict[str, Any]] = {  # name: options of `generate`
    "audit": {"audit": True},
    "audit, confidence 0.6": {"audit": True, "confidence": 0.6},
    "audit, confidence 0.7": {"audit": True, "confidence": 0.7},
    "no audit": {"audit": False},
    "no audit, confidence 0.6": {"audit": False, "confidence": 0.6},
    "no audit, confidence 0.7": {"audit": False, "confidence": 0.7},
    "no audit, most confident": {"audit": False, "select": "confident"},
}
REPEATS = 10  # per family, with other random states and on other draws of the rows
NOISE = (0.01, 0.05)  # standard deviation, in ranges of a column
COLUMNS = {  # key of a cell: (heading, format)
    "found": ("found ↑", "{:.3f}"),
    "cost": ("cost ↓", "{:.3f}"),
    "n_changed": ("changes ↓", "{:.1f}"),
    "validity_judge": ("valid, judge ↑", "{:.3f}"),
    "plausibility": ("plausible ↑", "{:.3f}"),
    "seeds": ("other seeds ↑", "{:.3f}"),
    "bootstraps": ("bootstraps ↑", "{:.3f}"),
    **{name: (f"{name} ↑".replace("_", " "), "{:.3f}") for name in CLASSIFIERS},
    **{f"noise_{scale:g}": (f"noise {scale:.0%} ↑", "{:.3f}") for scale in NOISE},
}


def rivals(config: dict[str, Any], given: train.World, repeats: int) -> dict[str, list[Classifier]]:
    """Classifiers that might have been deployed instead, fitted to the rows that the deployed one was fitted to.

    ``seeds`` and ``bootstraps`` of its own family and one entry for each other family, `repeats` of each.
    """
    balanced = config["classifier"]["balanced"] and config["data"]["balanced"]

    def others(family: Any, seeds: int, bootstraps: int) -> list[Classifier]:
        counts: dict[str, Any] = {"seeds": seeds, "bootstraps": bootstraps}
        data = (given.train, given.y_train, given.schema)
        return retrained(*data, families=[family], **counts, balanced=balanced, seed=config["seed"])

    own = config["classifier"]["name"]
    families = {name: others(name, 0, repeats) for name in CLASSIFIERS if name != own}
    return {"seeds": others(own, repeats, 0), "bootstraps": others(own, 0, repeats), **families}


def cells(config: dict[str, Any], wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each way of choosing gives in one world."""
    train.use_threads(config["threads"])
    given = train.world(config, train.Stopwatch())
    generator = fit(config, given)
    models = rivals(config, given, REPEATS)
    for choice in wanted:
        result = evaluation.run(generator, given.denied, judge=given.judge, **{**config["generate"], **CHOICES[choice]})
        answers, schema = result.counterfactuals, generator.schema
        shares = {name: metrics.robustness(answers, some) for name, some in models.items()}
        for scale in NOISE:
            noisy = {"factuals": given.denied, "scale": scale, "seed": config["seed"]}
            shares[f"noise_{scale:g}"] = noise_validity(answers, generator.classifier, schema, **noisy)
        measured = {**result.ours, **{name: float(np.mean(share)) for name, share in shares.items()}}
        yield {"choice": choice, **{name: measured[name] for name in ("validity", *COLUMNS) if name in measured}}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line per way of choosing, one column per measure that any of them has."""
    columns = {key: column for key, column in COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    lines = []
    for row in rows:
        shown = ["" if row.get(key) is None else form.format(row[key]) for key, (_, form) in columns.items()]
        lines.append([row["choice"], *shown])
    return table(lines, ["", *(heading for heading, _ in columns.values())])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="settings of train.py, for instance data=heloc backbone=exact")
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--out", type=Path, default=Path("bench/results/robustness.jsonl"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    config = configure(arguments.settings)
    asked = {"data": config["data"]["name"], "backbone": config["backbone"]["name"], "seed": config["seed"]}
    # That the paper's splits were used is part of the result; where they lie is not.
    asked["settings"] = ["data.folder=DIR" if s.startswith("data.folder=") else s for s in arguments.settings]
    done = {row["choice"] for row in read(arguments.out) if asked.items() <= row.items()}
    missing = [choice for choice in arguments.choices if choice not in done]
    for row in cells(config, missing) if missing else ():
        append(arguments.out, {**asked, **row})
        print(f"{asked['data']} {row['choice']}: {row['bootstraps']:.3f}", file=sys.stderr, flush=True)
    held = {row["choice"]: row for row in read(arguments.out) if asked.items() <= row.items()}
    print(markdown([held[choice] for choice in arguments.choices]))


if __name__ == "__main__":
    main()
