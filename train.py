"""Train a recourse generator on a table, recommend changes to held-out people, and judge them.

accelerate launch train.py backbone=ar data=heloc
accelerate launch train.py backbone=ar data=heloc resume=true
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from recourse_gen import Constraints, RecourseGenerator, Schema, checkpoint, data, evaluation, fidelity, lock, training
from recourse_gen.classifier import as_classifier, fit_classifier
from recourse_gen.estimators import ForeignTypesError
from recourse_gen.judge import GoldJudge
from recourse_gen.options import check_flag, check_names, check_number, check_seed, check_whole, construct
from recourse_gen.processes import first_to_fail
from recourse_gen.search import SearchOptions

CONFIGS = Path(__file__).resolve().parent / "configs"
GROUPS = (  # settings that are mappings
    *("data", "backbone", "classifier", "schema", "constraints", "pairs", "generate"),
    *("evaluation", "evaluation.tradeoff", "evaluation.fidelity"),
)


class Stopwatch:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


def _check_shape(config: dict[str, Any]) -> None:
    """Raise ValueError for an option that nothing reads, and a value in the place of a mapping, a list or a flag."""
    usual = OmegaConf.load(CONFIGS / "train.yaml")
    top = [str(name) for name in usual if name not in ("defaults", "hydra")]
    for prefix, group, known in (
        ("", config, [*top, *(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())]),
        ("evaluation.", config["evaluation"], [*map(str, usual.evaluation)]),
    ):
        for name in group if isinstance(group, dict) else ():
            if name not in known:
                raise ValueError(f"unknown option {prefix}{name}; known are: {', '.join(known)}")
    for name in GROUPS:
        if not isinstance(value := OmegaConf.select(OmegaConf.create(config), name), DictConfig):
            raise ValueError(f"{name} must map options to values, got {value!r}")
    for name in ("schema.kinds", "data.kinds", "data.monotone", "constraints.monotone"):
        group, option = name.split(".")
        if not isinstance(value := config[group].get(option, {}), dict):
            raise ValueError(f"{name} must map columns to values, got {value!r}")
    for name in ("overwrite", "resume", "data.relabel", "data.balanced", "classifier.balanced"):
        check_flag(name, OmegaConf.select(OmegaConf.create(config), name))
    if not isinstance(config["run"], str) or not config["run"]:
        raise ValueError(f"run must be the path of a folder, got {config['run']!r}")
    folder = Path(config["run"])
    if any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise ValueError(f"run must be the path of a folder, but {folder} is a file, or lies below one")
    immutable = config["constraints"].get("immutable", [])
    if not isinstance(immutable, list):
        raise ValueError(f"constraints.immutable must list columns, got {immutable!r}")
    if "n" in config["generate"]:
        raise ValueError("generate.n is no setting: one answer for each person is evaluated")


def check(config: dict[str, Any]) -> None:
    """Raise ValueError for what would otherwise fail only after the training."""
    _check_shape(config)
    check_seed(config["seed"])
    folder, evaluated = Path(config["run"]), config["evaluation"]
    if checkpoint.is_finished(folder) and not config["overwrite"]:
        raise ValueError(f"{folder} already holds a finished run; pass overwrite=true or another run=PATH")
    if config["threads"] is not None:
        check_whole("threads", config["threads"])
    check_whole("evaluation.factuals", evaluated["factuals"])
    tradeoff = evaluated["tradeoff"]
    check_names(evaluation.sweep, "evaluation.tradeoff", tradeoff, skip=3)
    for name in ("candidates", "cost_weights"):
        if not isinstance(tradeoff[name], list):
            raise ValueError(f"evaluation.tradeoff.{name} must be a list, got {tradeoff[name]!r}")
    check_whole("evaluation.tradeoff.limit", tradeoff["limit"])
    check_number("evaluation.tradeoff.max_seconds", tradeoff["max_seconds"], 0, math.inf)
    check_names(fidelity.check, "evaluation.fidelity", evaluated["fidelity"])
    fidelity.check(**evaluated["fidelity"])
    settings: list[dict[str, Any]] = [{"cost_weight": value} for value in tradeoff["cost_weights"]]
    settings += [{"candidates": k, "max_candidates": k} for k in tradeoff["candidates"]]
    for setting in [{}, *settings]:
        given = {"n": 1, "seed": config["seed"], **config["generate"], **setting}
        given["cost_weight"] = 1.0 if given["cost_weight"] is None else given["cost_weight"]
        construct(SearchOptions, "generate", given)


def use_threads(threads: int | None) -> None:
    """Let torch compute on that many threads; None shares the CPUs among this machine's processes.

    None obeys OMP_NUM_THREADS, unless it is 1: launchers set that where it is not set, and all CPUs but one idle.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, joblib.cpu_count() // here))


@dataclass(frozen=True)
class World:
    """What a run is about, whoever generates: the table, the judge, the classifier and the people to help."""

    train: pd.DataFrame
    y_train: np.ndarray
    schema: Schema
    constraints: Constraints
    judge: GoldJudge
    classifier: Any
    denied: pd.DataFrame


def world(config: dict[str, Any], watch: Stopwatch) -> World:
    """Read the data and fit the judge and the classifier."""
    seed, table = config["seed"], dict(config["data"])
    relabel, balanced = table.pop("relabel"), table.pop("balanced")
    with watch("data"):
        dataset = data.load(**table, seed=seed)
        kinds = {**dataset.kinds, **config["schema"].get("kinds", {})}
        schema = construct(Schema.infer, "schema", {**config["schema"], "kinds": kinds}, dataset.train)
    with watch("judge"):
        everybody = pd.concat([dataset.train, dataset.test])
        judge = GoldJudge(schema, seed=seed).fit(everybody, np.concatenate([dataset.y_train, dataset.y_test]))
        # The paper's protocol: the judge's law draws the labels, so what it says is the truth behind the data.
        y_train = judge.draw_labels(dataset.train, seed) if relabel else dataset.y_train
    with watch("classifier"):
        options = {**config["classifier"], "balanced": config["classifier"]["balanced"] and balanced}
        classifier = fit_classifier(frame=dataset.train, target01=y_train, schema=schema, seed=seed, **options)
        approves = as_classifier(classifier, columns=dataset.train.dtypes)
        denied = evaluation.select_factuals(dataset.test, approves, config["evaluation"]["factuals"], seed=seed)
    limits = dict(config["constraints"])
    limits["immutable"] = [*dataset.immutable, *limits.get("immutable", ())]
    limits["monotone"] = {**dataset.monotone, **limits.get("monotone", {})}
    rules = construct(Constraints, "constraints", limits)
    return World(dataset.train, y_train, schema, rules, judge, classifier, denied)


def fit(config: dict[str, Any], given: World, watch: Stopwatch) -> RecourseGenerator:
    """The configured generator, fitted."""
    backbone = dict(config["backbone"])
    generator = RecourseGenerator(
        backbone.pop("name"),
        seed=config["seed"],
        backbone_options=backbone,
        pairs=config["pairs"],
        training=config["training"],
        audit=config["audit"],
        schema=given.schema,
    )
    generator.fit(
        given.train,
        given.y_train,
        classifier=given.classifier,
        constraints=given.constraints,
        folder=config["run"],
        resume=config["resume"],
    )
    watch.seconds.update(generator.summary["seconds"])
    return generator


def report(generator: RecourseGenerator, given: World, config: dict[str, Any], watch: Stopwatch) -> None:
    """Evaluate, print and write the run folder."""
    judge, denied = given.judge, given.denied
    folder, options, name = Path(config["run"]), config["generate"], config["backbone"]["name"]
    with watch("evaluation"):
        result = evaluation.run(generator, denied, judge=judge, **options)
    with watch("tradeoff"):
        settings = config["evaluation"]["tradeoff"]
        points = evaluation.sweep(generator, denied, judge=judge, options=options, **settings)
    with watch("fidelity"):
        distance = fidelity.measure(generator, denied, **config["evaluation"]["fidelity"])
    evaluation.write_pictures(folder, result, points=points, name=name)
    context = {"data": config["data"]["name"], "backbone": name, "seed": config["seed"], "fidelity": distance}
    generator.summary |= evaluation.record(result, judge=judge, points=points, seconds=watch.seconds, context=context)
    try:
        generator.save(folder, overwrite=True, run=config, classifier=given.classifier)
    except ForeignTypesError as error:
        warnings.warn(str(error), stacklevel=2)
        generator.save(folder, overwrite=True, run=config)
    console = Console(width=max(Console().width, 132))
    console.print(evaluation.table({name: result.ours, "nearest partner": result.nearest}))
    console.print(fidelity.table(distance))
    for person in result.found.to_frame().index.unique("factual")[:3]:
        console.print(result.found.describe(person), highlight=False, soft_wrap=True)
    total = sum(watch.seconds.values())
    console.print(f"Run folder: {folder} ({total:.0f} s)", highlight=False, soft_wrap=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The run folder, for this run alone. One made here is removed if the run fails before anything was trained."""
    made_here = not folder.exists()
    with lock.alone(folder):
        try:
            yield
        except Exception:
            # What was trained outlives a failed evaluation.
            if made_here and not any((folder / name).exists() for name in (checkpoint.WEIGHTS, checkpoint.STATE)):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def run(config: dict[str, Any]) -> None:
    """All of it, once `check` has passed."""
    watch, processes = Stopwatch(), training.processes()
    given = world(config, watch)
    generator = fit(config, given, watch)
    training.meet()
    processes.destroy_process_group()  # the others need not wait for the evaluation
    if processes.is_main_process:
        report(generator, given, config, watch)


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(composed: DictConfig) -> None:
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"note: {message}\n"
    processes = training.processes()
    if not processes.is_main_process:
        warnings.simplefilter("ignore")  # the main process says the same
    if isinstance(chosen := composed.backbone, DictConfig) and OmegaConf.is_missing(chosen, "name"):
        refuse("backbone=plugin needs the name of an installed backbone: backbone.name=NAME")
    config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    try:
        check(config)
        use_threads(config["threads"])
        with claimed(Path(config["run"])) if processes.is_main_process else nullcontext():
            run(config)
    except Exception as error:
        if isinstance(error, (ValueError, ArithmeticError, OSError)):
            refuse(str(error))
        if processes.num_processes == 1:
            raise
        leave(1, traceback.format_exc() if first_to_fail() else "")
    except training.Terminated as stop:
        if processes.is_main_process:
            print(f"note: {stop}", file=sys.stderr, flush=True)
        training.meet()  # or the launcher would end the main process before it has said so
        leave(128 + signal.SIGTERM)


def refuse(sentence: str) -> None:
    """End this process, and with it the run, with one sentence."""
    leave(2, f"error: {' '.join(sentence.split())}" if first_to_fail() else "")


def leave(code: int, words: str = "") -> None:
    """End this process with a code and, on stderr, words."""
    if words:
        print(words, file=sys.stderr, flush=True)
    if training.processes().num_processes > 1:
        sys.stdout.flush()
        os._exit(code)  # an orderly end would wait for processes that may never answer
    sys.exit(code)


def wrong_option(error: Exception) -> str:
    """What Hydra found wrong with the command line, and the options that exist beside a misspelt one."""
    message = str(error).partition("Config search path:")[0]
    listed_as = re.match(r"Error merging override (.+?)=(.+)", message)
    if listed_as and "ListConfig" in str(error.__cause__):
        return f"{listed_as[1]} must be a mapping, {{name: value}}, got the list {listed_as[2]}"
    misspelt = re.match(r"Could not override '(.+)'", message)
    if not misspelt:
        return message
    groups = [group.name for group in CONFIGS.iterdir() if group.is_dir()]
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", chosen)
    if OmegaConf.is_dict(OmegaConf.select(config, misspelt[1])):
        return f"{misspelt[1]!r} is a mapping; write +{misspelt[1]}={{...}} to add to it"
    node = misspelt[1].rpartition(".")[0]
    known = found if OmegaConf.is_dict(found := OmegaConf.select(config, node) if node else config) else config
    return f"unknown option {misspelt[1]!r}; known are: {', '.join(map(str, known))}"


def launch() -> None:
    """`main` on the command line's arguments, with Hydra's errors put in one sentence too."""
    # Without this, Hydra prints them in its own way and exits.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        refuse(wrong_option(error))


if __name__ == "__main__":
    launch()
