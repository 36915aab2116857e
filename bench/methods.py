"""Every method of the comparison, asked for one answer per person: ours through train.py, and bench.baselines."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from bench import baselines, ceiling
from bench.cells import fit
from bench.compare import VARIANTS
from bench.protocol import Trial
from recourse_gen import fidelity

PARTNER = "nearest partner"
PAPER = "ar, as published"
CEILING = "the judge's choice"  # not a method: it asks the judge
OURS = ("ar", "flow", "diffusion", "exact", "nearest", PAPER)
QUICK = {  # training steps that fit all methods into minutes; those of the published network take far longer
    "ar": 400,
    "flow": 400,
    "diffusion": 400,
    PAPER: 30,
}
QUICK_OPTIONS: dict[str, dict[str, Any]] = {"dice": {"iterations": 50}}  # of baselines; by default 500, for each person
CONFIDENCES = (0.6, 0.7, 0.8, 0.9)  # least probabilities of the classifier, beside the default: the frontier
POINT = ("cost", "validity_judge", "plausibility", "score", "found", "retrained", "second_critic")
SEVERAL = 3  # answers per person, whose diversity is measured
FEWEST = {"change_price": 0.8}  # options of `generate` for the fewest changes, beside the default: cost for columns


def names() -> list[str]:
    """All methods: ours, the nearest partner, and the baselines."""
    return [*OURS, PARTNER, *baselines.names()]


def settings(method: str, *, quick: bool) -> list[str]:
    """Settings of train.py for one method, none for a baseline. quick: a training of few steps, which any clock is
    enough for, so that it gives the same in every run."""
    steps = [f"training.steps={QUICK[method]}", "training.minutes=1000"] if quick and method in QUICK else []
    return [*VARIANTS.get(method, ()), *steps]


def cell(method: str, trial: Trial, config: dict[str, Any], *, quick: bool = False) -> dict[str, Any]:
    """Fit one method in one world and measure it. config: of train.py, for ours. quick: baselines with `QUICK_OPTIONS`.

    Beside what `Trial.measure` says: ``fit_seconds`` and ``seconds_per_factual`` (of answering), ``frontier`` (measures
    at several confidences, one without the dial), and for ours the fidelity to Q and ``diversity`` (mean cost between
    two answers of one person, in columns, of `SEVERAL` answers; None if nobody got two), and where answers are made
    sparse ``fewest``: the measures with the options `FEWEST`. A method that cannot work in this world is a cell with
    ``refused``, its sentence, and no measure; ``retry`` where only a package is missing.
    """
    if method == PARTNER:
        return _alone(trial.measure(trial.nearest))
    if method == CEILING:
        return _ceiling(trial)
    if method in OURS:
        return _ours(trial, config)
    return _baseline(method, trial, QUICK_OPTIONS.get(method, {}) if quick else {})


def _ours(trial: Trial, config: dict[str, Any]) -> dict[str, Any]:
    people, options = trial.given.denied, config["generate"]
    started = time.perf_counter()
    generator = fit(config, trial.world(config["schema"]))
    fitted = time.perf_counter()
    answers = generator.generate(people, n=1, **options).best()
    ended = time.perf_counter()
    diversity = generator.generate(people, n=SEVERAL, **options).diversity().mean()
    laws = fidelity.measure(generator, people, **config["evaluation"]["fidelity"])
    row = trial.measure(answers)

    def asked(**otherwise: Any) -> dict[str, Any]:
        return trial.measure(generator.generate(people, n=1, **{**options, **otherwise}).best())

    frontier = [{"confidence": options["confidence"], **{key: row[key] for key in POINT}}]
    # The most confident answer is the same whatever the confidence asked for: no frontier.
    for confidence in CONFIDENCES if options["select"] != "confident" else ():
        measured = asked(confidence=confidence)
        frontier.append({"confidence": confidence, **{key: measured[key] for key in POINT}})
    return {
        **row,
        **{f"{name}_{law['cost_weight']:g}": law[name] for law in laws for name in ("skill", "joint_skill", "kl")},
        "diversity": None if pd.isna(diversity) else float(diversity),
        "seconds_per_factual": (ended - fitted) / len(people),
        "fit_seconds": fitted - started,
        "steps": generator.summary["training"]["steps"],
        "frontier": frontier,
        "fewest": asked(**FEWEST) if options["sparsify"] else None,
    }


def _ceiling(trial: Trial) -> dict[str, Any]:
    try:
        return trial.measure(ceiling.best(trial.given))
    except ValueError as error:
        return {"refused": str(error), "retry": False}


def _baseline(name: str, trial: Trial, options: dict[str, Any]) -> dict[str, Any]:
    people = trial.given.denied
    started = time.perf_counter()
    try:
        method = baselines.load(name)(seed=trial.config["seed"], **options).fit(trial.given)
    except ValueError as error:
        return {"refused": str(error), "retry": isinstance(error.__cause__, ImportError)}
    fitted = time.perf_counter()
    answers = method.counterfactuals(people)
    ended = time.perf_counter()
    return {
        **_alone(trial.measure(answers)),
        "seconds_per_factual": (ended - fitted) / len(people),
        "fit_seconds": fitted - started,
    }


def _alone(row: dict[str, Any]) -> dict[str, Any]:
    """A method without a dial: its frontier is one point."""
    return {**row, "frontier": [{key: row[key] for key in POINT}]}
