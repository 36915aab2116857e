"""Memory and time of pair supervision against the number of rows, and how far from Q the cheaper ways draw.

python -m bench.scale --out bench/results/scale.jsonl --picture docs/scale.png

Every point is a fresh process: N people, N partners, 20 columns. A point that would take longer than --limit seconds is
recorded as such, and larger ones of its method are left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen import Constraints, Schema, fidelity
from recourse_gen.backbone import Backbone
from recourse_gen.pairs import METHODS, PairOptions, PairSupervision
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

SIZES = (1_000, 10_000, 100_000, 1_000_000)
POOLS = (64, 256, 1024, 4096, 16384)
RULES = Constraints(immutable=["sex", "region"])
STEPS, BATCH = 20, 256


def people(count: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """2·`count` rows of 20 columns that share four causes, and a classifier's probability: half of them are denied."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(2 * count, 4))
    mixed = causes @ random.normal(size=(4, 18)) + random.normal(size=(2 * count, 18))
    columns: dict[str, Any] = {f"amount{i}": np.exp(mixed[:, i] / 4).round(3) for i in range(8)}
    columns |= {f"count{i}": np.clip(mixed[:, 8 + i] * 2 + 6, 0, 20).astype(np.int32) for i in range(6)}
    for i, levels in enumerate((3, 4, 6, 10)):
        cut = np.quantile(mixed[:1000, 14 + i], np.linspace(0, 1, levels + 1)[1:-1])
        names = pd.Index([f"kind{j}" for j in range(levels)])
        columns[f"group{i}"] = pd.Categorical.from_codes(np.digitize(mixed[:, 14 + i], cut), names)
    columns["sex"] = random.choice(["f", "m"], 2 * count)
    columns["region"] = random.choice(list("abcdefgh"), 2 * count)
    score = causes.sum(1) + random.normal(size=2 * count)
    probability = np.full(2 * count, 0.2, dtype=np.float32)
    probability[np.argpartition(score, count)[count:]] = 0.9
    return pd.DataFrame(columns), probability


def supervise(count: int, **options: Any) -> tuple[pd.DataFrame, PairSupervision, dict[str, float]]:
    """Pairs between `count` people and as many partners, the table, and the seconds that both took."""
    frame, probability = people(count)
    started = time.perf_counter()
    transform = TableTransform(Schema.infer(frame)).fit(frame)
    prepared = time.perf_counter()
    pairs = PairSupervision.from_training(
        frame, probability, probability > 0.5, transform=transform, constraints=RULES, options=PairOptions(**options)
    )
    return frame, pairs, {"schema": prepared - started, "pairs": time.perf_counter() - prepared}


def measure(method: str, count: int, top_k: int) -> dict[str, Any]:
    """Of this process, which should do nothing else."""
    _, pairs, seconds = supervise(count, method=method, top_k=top_k)
    stream = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(STEPS):
        at, started = torch.randint(len(pairs), (BATCH,), generator=stream), time.perf_counter()
        pairs.draw(at, pairs.draw_cost_weight(BATCH, stream), stream)
        steps.append(time.perf_counter() - started)
    return {
        "method": method,
        "rows": count,
        "top_k": None if method == "pooled" else top_k,
        "seconds_schema": seconds["schema"],
        "seconds_start": seconds["pairs"],
        "milliseconds_step": 1000 * min(steps),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "recall": pairs.recall,
        "threads": torch.get_num_threads(),
    }


def sweep(sizes: Sequence[int], methods: Sequence[str], top_k: int, limit: float) -> list[dict[str, Any]]:
    """`measure` in a process of its own for each point."""
    records = []
    for method in methods:
        for count in sizes:
            command = [sys.executable, "-m", "bench.scale", "--one", method, str(count), "--top-k", str(top_k)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
                records.append(json.loads(done.stdout.splitlines()[-1]))
            except subprocess.TimeoutExpired:
                records.append({"method": method, "rows": count, "top_k": top_k, "over_limit": limit})
                break
            finally:
                print(json.dumps(records[-1:]), flush=True)
    return records


class Drawn(Backbone):
    """Draws from pairs as if it were a generator, so that `fidelity` can measure them."""

    def __init__(self, schema: Schema, pairs: PairSupervision) -> None:
        super().__init__(schema)
        self.pairs = pairs

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, factual: Rows, *, num_samples: int, cost_weight: Tensor, noise: Any, **_: Any) -> Rows:
        at, stream = self.pairs.locate(factual), torch.Generator().manual_seed(0)
        assert (at >= 0).all()
        return self.pairs.draw(at, cost_weight, stream, num_samples)


def bias(count: int, top_k: int, factuals: int, weights: Sequence[float]) -> list[dict[str, Any]]:
    """Energy-distance skill of draws against Q over the `top_k` nearest of `count` partners, without rules, by way of
    drawing and size of pool; of a few people only, so that an exact search takes no time."""
    frame, probability = people(count)
    transform = TableTransform(Schema.infer(frame)).fit(frame)
    denied, partners = frame[probability <= 0.5].iloc[:factuals], transform.encode(frame[probability > 0.5])
    variants: list[dict[str, Any]] = [{"method": "exact"}, {"method": "index"}]
    variants += [{"method": "pooled", "pool": size} for size in POOLS if size < count]
    records = []
    for variant in variants:
        pairs = PairSupervision(
            denied,
            partners,
            transform=transform,
            constraints=Constraints(),
            options=PairOptions(top_k=top_k, **variant),
        )
        given: Any = SimpleNamespace(
            model=Drawn(transform.schema, pairs), pairs=pairs, transform=transform, constraints=Constraints(), seed=0
        )
        for row in fidelity.measure(given, denied, cost_weights=weights, limit=factuals):
            kept = ("cost_weight", "skill", "skill_se", "joint_skill", "effective_cost_weight", "cost", "cost_q")
            told = {name: row[name] for name in kept}
            records.append({"bias": variant, "rows": count, "top_k": top_k, "recall": pairs.recall, **told})
            print(json.dumps(records[-1]), flush=True)
    return records


def picture(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds to the first pair, peak memory, and seconds of a step's draws, against rows."""
    shown = {
        "seconds_start": "seconds to start",
        "peak_gb": "peak memory of the process, GB",
        "milliseconds_step": "ms per step of 256 pairs",
    }
    figure, panels = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.4))
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in records:
        if "seconds_start" in row:
            name = row["method"] if row["top_k"] is None else f"{row['method']}, K = {row['top_k']}"
            lines.setdefault(name, []).append(row)
    for axes, (key, title) in zip(panels, shown.items(), strict=True):
        for name, rows in lines.items():
            points = sorted((row["rows"], row[key]) for row in rows)
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="factuals = partners", title=title)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/scale.jsonl"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--top-k", type=int, default=1000, help="K of the tables")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a point, the table included")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "ROWS"), help="one point, in this process")
    parser.add_argument(
        "--bias", nargs=3, type=int, metavar=("ROWS", "K", "FACTUALS"), help="the distance to Q instead"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[2.0, 5.0, 10.0, 20.0], help="λ of --bias")
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]), given.top_k)))
        return
    old = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    if given.bias:
        count, top_k, factuals = given.bias
        records = [row for row in old if (row.get("bias") is None) or (row["rows"], row["top_k"]) != (count, top_k)]
        records += bias(count, top_k, factuals, given.weights)
    else:
        new = sweep(given.sizes, given.methods, given.top_k, given.limit)
        made = {(row["method"], row["rows"], row["top_k"]) for row in new}
        records = [row for row in old if (row.get("method"), row["rows"], row.get("top_k")) not in made] + new
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("".join(json.dumps(row) + "\n" for row in records))
    if given.picture:
        picture(records, given.picture)


if __name__ == "__main__":
    main()
