"""Generators side by side in the same worlds (data, judge, classifier): leads, fidelity to Q, speed.

python -m bench.compare --data compas heloc --seeds 0 1 2 --variants ar flow diffusion --out bench/results/leads.jsonl

One line of JSON per (data, seed, variant); cells that the file already holds are not computed again. The table of
means over seeds is printed as Markdown, and written with --markdown FILE under the command that made it.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import train
from bench.cells import add_options, append, command, configure, fit, read, table, world_settings
from recourse_gen import evaluation, fidelity

# The cheapest candidate that the classifier accepts.
CHEAPEST = ("generate.select=cheapest", "generate.audit=false", "generate.sparsify=false")
# Partners drawn without regard to the person, immutable columns apart: what is near is left to the search.
UNCONDITIONAL = (
    "backbone=ar",
    "backbone.cost_prior=false",
    "pairs.method=pooled",
    "pairs.pool=16",
    "pairs.cost_weight=1e-6",
    "generate.temperature=1",
)
VARIANTS = {  # name: settings of train.py
    "ar": ["backbone=ar"],
    "flow": ["backbone=flow"],
    "diffusion": ["backbone=diffusion"],
    "exact": ["backbone=exact"],
    "nearest": ["backbone=nearest"],
    "ar, as published": ["experiment=paper"],
    "ar, cheapest": ["backbone=ar", "generate.select=cheapest"],
    "ar, no audit": ["backbone=ar", "generate.audit=false"],
    "ar, temperature 1": ["backbone=ar", "generate.temperature=1"],
    "ar, no cost prior": ["backbone=ar", "backbone.cost_prior=false"],
    "flow, no cost prior": ["backbone=flow", "backbone.cost_prior=false"],
    "flow from masks": ["backbone=flow", "backbone.source=mask"],
    "flow from noise": ["backbone=flow", "backbone.source=noise"],
    "flow, transformer": ["backbone=flow", "backbone.body=transformer"],
    "diffusion, transformer": ["backbone=diffusion", "backbone.body=transformer"],
    "ar, no corruption": ["backbone=ar", "backbone.corruption=0"],
    "flow, no corruption": ["backbone=flow", "backbone.corruption=0"],
    "diffusion, no corruption": ["backbone=diffusion", "backbone.corruption=0"],
    "flow, Rao-Blackwell": ["backbone=flow", "backbone.corruption=0", "backbone.rao_blackwell=true"],
    "diffusion, Rao-Blackwell": ["backbone=diffusion", "backbone.corruption=0", "backbone.rao_blackwell=true"],
    "ar, transformer encoder": ["backbone=ar", "backbone.encoder=transformer"],
    "ar, two decoder layers": ["backbone=ar", "backbone.decoder_layers=2"],
    "ar, no tokens": ["backbone=ar", "schema.tokenize=none"],
    "flow, no tokens": ["backbone=flow", "schema.tokenize=none"],
    "diffusion, no tokens": ["backbone=diffusion", "schema.tokenize=none"],
    "nearest, cheapest": ["backbone=nearest", *CHEAPEST],
    "nearest, not sparse": ["backbone=nearest", "generate.sparsify=false"],
    "ar, not sparse": ["backbone=ar", "generate.sparsify=false"],
    "unconditional": [*UNCONDITIONAL],
    "unconditional, 1024 candidates": [*UNCONDITIONAL, "generate.candidates=1024"],
    "unconditional, cheapest of 1024": [*UNCONDITIONAL, *CHEAPEST, "generate.candidates=1024"],
}
KEY = ("data", "seed", "variant", "settings", "folder")
COLUMNS = {  # key of a cell: (heading, format)
    "cost": ("cost ↓", "{:.3f}"),
    "validity_judge": ("valid, judge ↑", "{:.3f}"),
    "plausibility": ("plausible ↑", "{:.3f}"),
    "lead": ("lead ↑", "{:+.3f}"),
    "n_changed": ("changes ↓", "{:.1f}"),
    "found": ("found ↑", "{:.3f}"),
    "skill_5": ("skill, λ=5 ↑", "{:.3f}"),
    "skill_10": ("skill, λ=10 ↑", "{:.3f}"),
    "joint_skill_5": ("joint skill, λ=5 ↑", "{:.3f}"),
    "joint_skill_10": ("joint skill, λ=10 ↑", "{:.3f}"),
    "rows_per_second": ("rows/s ↑", "{:.0f}"),
    "training_seconds": ("training, s", "{:.0f}"),
    "steps": ("steps", "{:.0f}"),
}


def cell(config: dict[str, Any], given: train.World) -> dict[str, Any]:
    """Fit one generator and measure it."""
    generator = fit(config, given)
    result = evaluation.run(generator, given.denied, judge=given.judge, **config["generate"])
    laws = fidelity.measure(generator, given.denied, **config["evaluation"]["fidelity"])
    measures = {f"{name}_{row['cost_weight']:g}": row[name] for row in laws for name in ("skill", "joint_skill", "kl")}
    return {
        **result.ours,
        "nearest": result.nearest,
        **measures,
        "threads": torch.get_num_threads(),
        "training_seconds": generator.summary["seconds"]["training"],
        "steps": generator.summary["training"]["steps"],
        "best_loss": generator.summary["training"]["best_loss"],
    }


def cells(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The missing cells, one world at a time."""
    done = {identity(row) for row in read(arguments.out)}
    for data in arguments.data:
        for seed in arguments.seeds:
            worlds: dict[str, train.World] = {}
            for variant in arguments.variants:
                asked = {"data": data, "seed": seed, "variant": variant, **common(arguments)}
                if identity(asked) in done:
                    continue
                config = configure([*world_settings(data, seed, arguments.folder), *VARIANTS[variant], *arguments.set])
                # The schema, the classifier and the people belong to the world; what generates does not.
                name = json.dumps([config[part] for part in ("data", "schema", "classifier", "constraints")])
                train.use_threads(config["threads"])
                if name not in worlds:
                    worlds[name] = train.world(config, train.Stopwatch())
                yield {**asked, **cell(config, worlds[name])}


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all cells of one command share: also that the paper's splits were used, but not where they lie."""
    return {"settings": list(arguments.set), "folder": arguments.folder and "DIR"}


def identity(row: dict[str, Any]) -> str:
    """What makes two cells the same cell."""
    return json.dumps([row[key] for key in KEY])


def wanted(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that this command asks for, out of a file that may hold others."""
    asked = {
        identity({"data": data, "seed": seed, "variant": variant, **common(arguments)})
        for data in arguments.data
        for seed in arguments.seeds
        for variant in arguments.variants
    }
    return [row for row in rows if identity(row) in asked]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table per data set: mean over seeds, with the standard deviation of the lead where there are several."""
    frame = pd.DataFrame(rows)
    parts = []
    for data, some in frame.groupby("data", sort=False):
        seeds = sorted(some["seed"].unique())
        lines = []
        for variant, group in some.groupby("variant", sort=False):
            shown = []
            for key, (_, form) in COLUMNS.items():
                values = pd.to_numeric(group[key], errors="coerce").dropna() if key in group else pd.Series(dtype=float)
                spread = f" ± {values.std():.3f}" if key == "lead" and len(values) > 1 else ""
                shown.append(form.format(values.mean()) + spread if len(values) else "")
            count = "" if len(group) == len(seeds) else f" ({len(group)} of {len(seeds)} seeds)"
            lines.append([f"{variant}{count}", *shown])
        header = ["", *(heading for heading, _ in COLUMNS.values())]
        parts.append(f"### {data}, seeds {', '.join(map(str, seeds))}\n\n{table(lines, header)}\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["compas"], help="data sets of train.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--variants", nargs="+", default=["ar", "flow", "diffusion"], choices=VARIANTS)
    add_options(parser, "compare.jsonl")
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    for row in cells(arguments):
        append(arguments.out, row)
        print(f"{row['data']} {row['seed']} {row['variant']}: lead {row['lead']:+.3f}", file=sys.stderr, flush=True)
    text = markdown(wanted(read(arguments.out), arguments))
    print(text)
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(f"```bash\n{command('bench.compare', argv or sys.argv[1:])}\n```\n\n{text}")


if __name__ == "__main__":
    main()
