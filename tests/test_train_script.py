"""`train.py` as a command: what a run leaves behind, and how wrong input ends."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recourse_gen import RecourseGenerator, checkpoint, lock

ROOT = Path(__file__).resolve().parents[1]
TINY = ("training.steps=20", "evaluation.factuals=20", "evaluation.tradeoff.max_seconds=0")
SMALL = ("backbone.width=16", "backbone.heads=2", "backbone.encoder_layers=1", "backbone.decoder_layers=1")
MEASURES = {
    "cost",
    "validity",
    "validity_judge",
    "plausibility",
    "score",
    "lead",
    "n_changed",
    "n_factuals",
    "found",
} | {
    "constraint_violations",
    "rows_per_second",
    "seconds",
}


def train(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run from the repository's root, on one thread."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "train.py", "threads=1", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run on the moons."""
    folder = tmp_path_factory.mktemp("runs") / "moons"
    return folder, train("data=moons", "data.n_rows=600", "seed=3", f"run={folder}", *TINY, *SMALL)


def test_a_run_succeeds_and_says_where_it_is(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = done
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout
    assert "nearest" in result.stdout
    assert "fidelity to Q on 20 held-out people" in result.stdout
    assert sum(line.startswith("Applicant ") and "→" in line for line in result.stdout.splitlines()) == 3
    assert "Traceback" not in result.stderr
    assert not (ROOT / "outputs").exists(), "Hydra must not make folders of its own"


def test_the_run_folder_is_complete(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "schema.json", "transform.json", "model.safetensors", "metrics.json", "auditor.skops"),
        *("examples.csv", "tradeoff.png", "metrics.jsonl", "classifier.skops"),
    }
    assert (folder / "tradeoff.png").read_bytes()[1:4] == b"PNG"
    people = pd.read_csv(folder / "examples.csv")
    assert {"person", "feature", "before", "after"} <= set(people.columns)
    assert people["person"].nunique() >= 3
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["backbone"] == "ar"
    assert config["seed"] == config["run"]["seed"] == 3
    assert config["run"]["training"]["steps"] == config["training"]["steps"] == 20
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [20]


def test_metrics_hold_every_measure_and_the_nearest_partner(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    metrics = json.loads((done[0] / "metrics.json").read_text(), parse_constant=refuse)
    assert MEASURES <= set(metrics)
    assert MEASURES - {"seconds"} <= set(metrics["nearest"])
    assert metrics["lead"] == pytest.approx(metrics["score"] - metrics["nearest"]["score"])
    assert metrics["score"] == pytest.approx(metrics["validity_judge"] + metrics["plausibility"] - metrics["cost"] / 2)
    assert metrics["n_factuals"] == 20
    assert metrics["constraint_violations"] == 0
    assert {"data", "judge", "classifier", "pairs", "audit", "training", "evaluation"} <= set(metrics["seconds"])
    assert all(value >= 0 for value in metrics["seconds"].values())
    assert (metrics["data"], metrics["backbone"], metrics["seed"]) == ("moons", "ar", 3)
    assert [(row["cost_weight"], row["factuals"]) for row in metrics["fidelity"]] == [(5.0, 20), (10.0, 20)]
    assert all(row["skill"] < 1 and row["energy_distance_uniform"] > 0 for row in metrics["fidelity"])


def test_the_run_folder_is_a_saved_generator(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    generator = RecourseGenerator.load(done[0], classifier=lambda frame: 1 / (1 + np.exp(frame["x2"] * 9 - 2)))
    person = pd.DataFrame({"x1": [0.0], "x2": [0.9]}, index=["Ada"])
    found = generator.generate(person)
    assert found.report.loc[("Ada", 0), "status"] == "ok"
    assert found.to_frame().loc[("Ada", 0), "x2"] < 0.9
    assert RecourseGenerator.load(done[0]).classifier.probability(person).shape == (1,), "its own classifier"


def test_a_finished_run_is_not_overwritten_unasked(
    done: tuple[Path, subprocess.CompletedProcess[str]], here: Callable[..., Any]
) -> None:
    folder, _ = done
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = here("data=moons", f"run={folder}")
    assert_refused(result, "already holds a finished run; pass overwrite=true")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_like_one_left_in_peace(
    tmp_path: Path, done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    options = ("data=moons", "data.n_rows=600", "seed=3", f"run={tmp_path / 'run'}", *TINY, *SMALL, "resume=true")
    options += ("training.checkpoint_every=0",)
    command = [sys.executable, "train.py", "threads=1", *options]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "run" / checkpoint.STATE).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the run ended by itself: {running.communicate(timeout=0.05)}")
        running.kill()
    assert not checkpoint.is_finished(tmp_path / "run")
    result = train(*options)
    assert result.returncode == 0, result.stderr
    assert "nothing to resume" not in result.stderr
    for name in ("model.safetensors", "examples.csv"):
        same = (tmp_path / "run" / name).read_bytes() == (done[0] / name).read_bytes()
        assert same, f"{name} differs"  # pytest would take minutes to tell where
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in done[0].iterdir()}


@pytest.mark.slow
def test_overwrite_replaces_the_run_and_its_log(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = done
    result = train(
        "data=moons", "data.n_rows=600", "seed=3", f"run={folder}", *TINY, *SMALL, "overwrite=true", "training.steps=21"
    )
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [21]


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """A non-zero exit and, notes apart, one sentence on stderr that holds all parts."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("note: ")]
    lines = [line for line in lines if not line.startswith("\rtraining: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """train.py as a module."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Any]]:
    """`train`, in this process: the same without the seconds that a start takes."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            script.launch()
        written = capfd.readouterr()
        return subprocess.CompletedProcess(list(arguments), ended.value.code, written.out, written.err)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


WRONG: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "backbone": (("backbone=vae",), ("backbone/vae", "ar")),
    "name of a backbone of another package": (("backbone=plugin",), ("backbone.name=NAME",)),
    "data set": (("data=mars",), ("data/mars", "heloc", "csv", "moons")),
    "option": (("training.epochs=3",), ("'training.epochs'", "known are: steps, minutes")),
    "option of the chosen data set": (("data=csv", "data.file=a.csv"), ("'data.file'", "path", "target_class")),
    "node": (("trainig.steps=3",), ("'trainig.steps'", "known are: data, backbone")),
    "value": (("training.steps=many",), ("training.steps must be a whole number", "'many'")),
    "value that only the end needs": (
        ("generate.select=luck",),
        ("'luck'", "cheapest, confident, diverse, pareto, score"),
    ),
    "resume": (("resume=perhaps",), ("resume must be true or false, got 'perhaps'",)),
    "threads": (("threads=0",), ("threads must be a whole number of at least 1",)),
    "number of people": (("evaluation.factuals=0",), ("evaluation.factuals must be",)),
    "option of the distance to Q": (
        ("evaluation.fidelity.samples=1",),
        ("samples must be a whole number of at least 2",),
    ),
    "option behind a plus": (("+backbone.depth=3",), ("backbone.depth", "width")),
    "constraint": (("constraints.immutable=[height]",), ("'height'", "x1, x2")),
    "mapping": (("constraints.monotone={x1:increase}",), ("'constraints.monotone' is a mapping", "+constraints.mono")),
    "list": (("constraints.monotone=[x1]",), ("constraints.monotone must be a mapping", "[x1]")),
    "syntax": (("training.steps=[",), ("'['",)),
    "path": (("data=csv",), ("data.path=",)),
    "file": (("data=csv", "data.path=/nowhere/a.csv", "data.target=y"), ("there is no file /nowhere/a.csv",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_end_in_one_sentence(case: str, tmp_path: Path, here: Callable[..., Any]) -> None:
    arguments, parts = WRONG[case]
    data = () if any(argument.startswith("data=") for argument in arguments) else ("data=moons", "data.n_rows=200")
    assert_refused(here(*data, f"run={tmp_path / 'run'}", *TINY, *arguments), *parts)
    assert not (tmp_path / "run").exists()


def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"income": rng.normal(50, 9, 120).round(), "job": rng.choice(["a", "b"], 120)})
    return frame.assign(approved=np.where(frame["income"] + 5 * (frame["job"] == "b") > 52, "yes", "no"))


TABLES: dict[str, tuple[Callable[[pd.DataFrame], Any], tuple[str, ...]]] = {
    "target missing": (lambda frame: frame.drop(columns="approved"), ("'approved'", "'income', 'job'")),
    "three targets": (lambda frame: frame.assign(approved=np.arange(120) % 3), ("two values", "3")),
    "constant column": (lambda frame: frame.assign(height=180), ("'height' is constant",)),
    "missing value": (
        lambda frame: frame.assign(income=frame["income"].where(frame.index > 3)),
        ("missing values", "'income'"),
    ),
    "one row": (lambda frame: frame.iloc[:1], ("too few rows (1)",)),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table_ends_in_one_sentence(case: str, tmp_path: Path, here: Callable[..., Any]) -> None:
    spoil, parts = TABLES[case]
    spoil(people()).to_csv(tmp_path / "people.csv", index=False)
    options = (f"data.path={tmp_path / 'people.csv'}", "data.target=approved", "data.target_class=yes")
    assert_refused(here("data=csv", *options, f"run={tmp_path / 'run'}", *TINY), *parts)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_which_another_run_is_at_work_is_refused(tmp_path: Path, here: Callable[..., Any]) -> None:
    with lock.alone(tmp_path / "run"):
        assert_refused(here("data=moons", f"run={tmp_path / 'run'}", *TINY), f"at work in {tmp_path / 'run'}")


def test_a_failure_after_the_start_leaves_no_half_written_folder(tmp_path: Path, here: Callable[..., Any]) -> None:
    """No learning rate like this one ends in finite numbers, which only training finds out."""
    people().to_csv(tmp_path / "people.csv", index=False)
    options = (f"data.path={tmp_path / 'people.csv'}", "data.target=approved", "data.target_class=yes")
    result = here("data=csv", *options, f"run={tmp_path / 'run'}", *TINY, *SMALL, "training.learning_rate=1e30")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: the training loss became ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("threads", "here_too", "used"), [(None, "1", 6), (None, "4", 1), (None, "9", 1), (3, "4", 3)])
def test_processes_share_the_cores(
    threads: int | None, here_too: str, used: int, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch` sets OMP_NUM_THREADS to 1 by itself; whoever sets another number is obeyed."""
    asked: list[int] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here_too)
    monkeypatch.setattr(script.joblib, "cpu_count", lambda: 6)
    monkeypatch.setattr(script.torch, "set_num_threads", asked.append)
    script.use_threads(threads)
    assert asked == [used]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    script.use_threads(threads)
    assert asked == ([used] if threads is None else [used, used])


@pytest.mark.slow
def test_a_wrong_command_ends_in_one_sentence(tmp_path: Path) -> None:
    """One of the wrong arguments in a process of its own, as everybody meets them."""
    assert_refused(train("data=moons", f"run={tmp_path / 'run'}", "training.epochs=3"), *WRONG["option"][1])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_table_of_ones_own_runs_through(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "people.csv", index=False)
    options = (f"data.path={tmp_path / 'people.csv'}", "data.target=approved", "data.target_class=yes")
    result = train("data=csv", *options, f"run={tmp_path / 'run'}", *TINY, *SMALL)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["validity"] == 1.0


def test_a_backbone_without_a_network_runs_through(tmp_path: Path) -> None:
    result = train("data=moons", "data.n_rows=600", "seed=3", "backbone=nearest", f"run={tmp_path / 'run'}", *TINY)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validity"] == 1.0
    assert metrics["training"] == {"steps": 0, "seconds": 0.0, "best_loss": None, "best_step": 0}
    assert RecourseGenerator.load(tmp_path / "run", classifier=lambda frame: np.ones(len(frame))).model is not None
