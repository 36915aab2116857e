"""Train a recourse generator on a table, recommend changes to held-out people, and judge them.

accelerate launch train.py backbone=ar data=heloc
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from accelerate import PartialState
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from recourse_gen import Constraints, RecourseGenerator, Schema, checkpoint, data, evaluation
from recourse_gen.classifier import as_classifier, fit_classifier
from recourse_gen.judge import GoldJudge


class Stopwatch:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


def build(config: dict[str, Any], watch: Stopwatch) -> tuple[RecourseGenerator, GoldJudge, pd.DataFrame]:
    """Data, judge, classifier and a fitted generator, with the factuals to evaluate it on."""
    seed, table = config["seed"], dict(config["data"])
    relabel, balanced = table.pop("relabel"), table.pop("balanced")
    with watch("data"):
        dataset = data.load(**table, seed=seed)
        kinds = {**dataset.kinds, **config["schema"].get("kinds", {})}
        schema = Schema.infer(dataset.train, **{**config["schema"], "kinds": kinds})
    with watch("judge"):
        everybody = pd.concat([dataset.train, dataset.test])
        judge = GoldJudge(schema, seed=seed).fit(everybody, np.concatenate([dataset.y_train, dataset.y_test]))
        # The paper's protocol: the judge's law draws the labels, so what it says is the truth behind the data.
        y_train = judge.draw_labels(dataset.train, seed) if relabel else dataset.y_train
    with watch("classifier"):
        options = {**config["classifier"], "balanced": config["classifier"]["balanced"] and balanced}
        classifier = fit_classifier(frame=dataset.train, target01=y_train, schema=schema, seed=seed, **options)
        denied = evaluation.select_factuals(
            dataset.test, as_classifier(classifier), config["evaluation"]["factuals"], seed=seed
        )
    limits = dict(config["constraints"])
    limits["immutable"] = [*dataset.immutable, *limits.get("immutable", ())]
    backbone = dict(config["backbone"])
    generator = RecourseGenerator(
        backbone.pop("name"),
        seed=seed,
        backbone_options=backbone,
        pairs=config["pairs"],
        training=config["training"],
        audit=config["audit"],
        schema=schema,
    )
    folder = Path(config["run"])
    if checkpoint.is_finished(folder) and not config["overwrite"]:
        raise ValueError(f"{folder} already holds a finished run; pass overwrite=true or another run=PATH")
    generator.fit(dataset.train, y_train, classifier=classifier, constraints=Constraints(**limits), folder=folder)
    watch.seconds.update(generator.summary["seconds"])
    return generator, judge, denied


def report(
    generator: RecourseGenerator, judge: GoldJudge, denied: pd.DataFrame, config: dict[str, Any], watch: Stopwatch
) -> None:
    """Evaluate, print and write the run folder."""
    folder, options, name = Path(config["run"]), config["generate"], config["backbone"]["name"]
    with watch("evaluation"):
        result = evaluation.run(generator, denied, judge=judge, **options)
    with watch("tradeoff"):
        settings = config["evaluation"]["tradeoff"]
        points = evaluation.sweep(generator, denied, judge=judge, options=options, **settings)
    generator.save(folder, overwrite=True, run=config)
    context = {"data": config["data"]["name"], "backbone": name, "seed": config["seed"]}
    context |= {key: value for key, value in generator.summary.items() if key != "seconds"}
    evaluation.write_run(
        folder,
        result,
        classifier=generator.classifier,
        judge=judge,
        points=points,
        seconds=watch.seconds,
        context=context,
    )
    console = Console(width=max(Console().width, 132))
    console.print(evaluation.table({name: result.ours, "nearest partner": result.nearest}))
    for sentence in evaluation.describe(result.found, generator.classifier, n=3):
        console.print(sentence, highlight=False, soft_wrap=True)
    total = sum(watch.seconds.values())
    console.print(f"Run folder: {folder} ({total:.0f} s)", highlight=False, soft_wrap=True)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(composed: DictConfig) -> None:
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"note: {message}\n"
    watch = Stopwatch()
    try:
        config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
        generator, judge, denied = build(config, watch)
        if PartialState().is_main_process:
            report(generator, judge, denied, config, watch)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
