"""Pictures of what each backbone learned on the two-column tables: its samples over Q, for one person.

python -m bench.pictures --data moons circles corr --out docs
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

import train
from bench.cells import configure, fit, world_settings
from bench.compare import VARIANTS
from recourse_gen import RecourseGenerator, fidelity
from recourse_gen.noise import Noise

COST_WEIGHTS = (5.0, 20.0)
SAMPLES = 500


def draw(axes: Axes, generator: RecourseGenerator, given: train.World, cost_weight: float) -> None:
    """One panel: training rows grey, Q's partners as discs of their probability, the model's samples as dots."""
    assert generator.pairs is not None
    assert generator.model is not None
    person, device = given.denied.iloc[:1], generator.pairs.device
    pairs, weight = generator.pairs.of(person), torch.tensor([cost_weight], device=device)
    index, law = pairs.index[0].long(), pairs.log_weights(torch.tensor([0], device=device), weight)[0].exp().cpu()
    partners = generator.transform.decode(pairs.partners.take(index))
    rows = generator.transform.encode(person)
    feasible = given.constraints.compile(given.schema, person, rows).to(device)
    rows = rows.to(device)
    drawn = generator.model.sample(
        rows, num_samples=SAMPLES, cost_weight=weight, feasible=feasible, noise=Noise.of(rows, generator.seed)
    )
    samples = generator.transform.decode(drawn.flatten())
    x, y = given.train.columns
    axes.scatter(given.train[x], given.train[y], s=1, color="0.85")
    axes.scatter(
        partners[x], partners[y], s=3000 * (law * law.max()).sqrt().numpy(), color="tab:orange", alpha=0.3, lw=0
    )
    axes.scatter(samples[x], samples[y], s=2, color="tab:blue")
    axes.scatter(person[x], person[y], marker="x", color="black")
    axes.set_xticks([])
    axes.set_yticks([])


def picture(data: str, variants: Sequence[str], seed: int, settings: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Draw one table's picture; returns the fidelity of each backbone."""
    configs = {variant: configure([*world_settings(data, seed), *VARIANTS[variant], *settings]) for variant in variants}
    given = train.world(next(iter(configs.values())), train.Stopwatch())
    figure, panels = plt.subplots(len(COST_WEIGHTS), len(variants), figsize=(3 * len(variants), 6), squeeze=False)
    laws = []
    for column, (variant, config) in enumerate(configs.items()):
        generator = fit(config, given)
        measured = fidelity.measure(generator, given.denied, cost_weights=COST_WEIGHTS)
        for row, law in enumerate(measured):
            axes = panels[row, column]
            draw(axes, generator, given, law["cost_weight"])
            axes.set_title(f"{variant}, λ = {law['cost_weight']:g}, skill {law['skill']:.3f}", fontsize=9)
            laws.append({"data": data, "variant": variant, **law})
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return laws


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["moons", "circles", "corr"])
    parser.add_argument("--variants", nargs="+", default=["exact", "ar", "flow", "diffusion"], choices=VARIANTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], help="further settings of train.py, e.g. training.minutes=1")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for data in arguments.data:
        path = arguments.out / f"{data}.png"
        for law in picture(data, arguments.variants, arguments.seed, arguments.set, path):
            print(
                "{data} {variant} λ={cost_weight:g} skill {skill:.3f} joint {joint_skill:.3f}".format(**law), flush=True
            )


if __name__ == "__main__":
    main()
