"""Several processes train one network, go on together, and leave together when one of them fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import everything
from launched import LONG, TOTAL
from safetensors.torch import load_file
from trainings import TINY, small_pairs, train

from recourse_gen import RecourseGenerator, processes
from recourse_gen.resumption import FILE, LOG

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
}
OPTIONS = ("data=moons", "data.n_rows=600", "seed=3", "threads=1", "backbone.width=16", "backbone.encoder_layers=1")
OPTIONS += ("backbone.decoder_layers=1", "evaluation.factuals=20", "evaluation.tradeoff.max_seconds=0")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what tests/launched.py does."""
    folder = tmp_path_factory.mktemp("launched")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "launched.py", folder], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Of the first two processes."""
    return [load_file(folder / f"weights{process}.safetensors") for process in (0, 1)]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def own(folder: Path) -> list[dict[str, Any]]:
    """What the first two processes noted."""
    return [json.loads((folder / f"process{process}.json").read_text()) for process in (0, 1)]


@pytest.mark.parametrize("name", TINY)
def test_two_processes_learn_as_one_does_with_twice_the_rows(name: str, launched: Path) -> None:
    one, two = own(launched / name)
    assert one["best_loss"] == two["best_loss"]
    before = train(name, small_pairs(), **{**LONG, "steps": 1})[1].best_loss
    alone = train(name, small_pairs(), **LONG, batch_size=TOTAL)[1].best_loss
    assert before is not None and alone is not None
    assert alone < before - 0.15
    assert one["best_loss"] == pytest.approx(alone, abs=0.1)


@pytest.mark.parametrize("name", [*TINY, "straight"])
def test_every_process_ends_with_the_same_weights(name: str, launched: Path) -> None:
    assert equal(*weights(launched / name))


@pytest.mark.parametrize("name", TINY)
def test_the_logged_loss_is_the_mean_over_processes_that_draw_their_own_pairs(name: str, launched: Path) -> None:
    one, two = (record["losses"] for record in own(launched / name))
    assert len(one) == len(two) == LONG["steps"]
    assert all(a != b for a, b in zip(one, two, strict=True))
    for line in (launched / name / LOG).read_text().splitlines():
        record = json.loads(line)
        assert record["loss"] == pytest.approx((one[record["step"] - 1] + two[record["step"] - 1]) / 2)


def test_three_processes_go_on_as_if_none_had_been_killed(launched: Path) -> None:
    """Of three, because the sum of two gradients does not depend on their order."""
    for straight, killed in zip(weights(launched / "straight"), weights(launched / "killed"), strict=True):
        assert equal(straight, killed)
    (record, tensors), (ended, found) = everything(launched / "straight"), everything(launched / "killed")
    assert ended == record
    assert equal(tensors, found)
    assert [len(record["losses"]) for record in own(launched / "killed")] == [30 - 12] * 2


def test_another_number_of_processes_is_refused(launched: Path) -> None:
    assert "another number of processes (3, here 1)" in (launched / "killed" / "refusal0.txt").read_text()
    assert "another seed (0, here 1)" in (launched / "killed" / "refusal1.txt").read_text()


def launch(script: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Two processes on the CPU, as docs/training.md has them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    return subprocess.Popen(
        [*command, *OPTIONS, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_the_launcher_and_resuming_finishes(how: signal.Signals, tmp_path: Path) -> None:
    """Sent to the launcher alone, once the first line is in the log; another run finishes what this one began."""
    folder = tmp_path / "run"
    running = launch(ROOT / "train.py", f"run={folder}", "training.steps=1000000", "training.validate_every=5")
    while not (folder / LOG).exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the run ended by itself, with code {running.wait(timeout=0.2)}")
    running.send_signal(how)
    told = time.monotonic()
    out, err = running.communicate(timeout=60)  # to the end of what its processes say, whoever is their parent
    assert time.monotonic() - told < 30
    assert running.returncode != 0
    assert err.count("note: SIGTERM ended the training after step ") == 1
    assert "Run folder" not in out
    assert (folder / FILE).exists()
    steps = [json.loads(line)["step"] for line in (folder / LOG).read_text().splitlines()]
    resumed = launch(ROOT / "train.py", f"run={folder}", f"training.steps={steps[-1] + 9}", "resume=true")
    out, err = resumed.communicate(timeout=180)
    assert resumed.returncode == 0, err[-3000:]
    assert out.count("Run folder: ") == 1
    assert err.count("partners are fewer than") == 1, "a note is told once"
    assert "Traceback" not in err
    assert not (folder / FILE).exists()
    assert RecourseGenerator.load(folder).summary["training"]["steps"] == steps[-1] + 9


FAILURES = {
    "RuntimeError": "RuntimeError: the second process has had enough",
    "ValueError": "error: the second process has had enough",
}


@pytest.mark.parametrize("error", FAILURES)
def test_all_leave_when_one_fails_and_its_error_is_told_once(error: str, tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        f"""
import os, train
from recourse_gen import training
update, steps = training._update, []
def failing(*given):
    steps.append(1)
    if os.environ["RANK"] == "1" and len(steps) == 5:
        print("fails now", flush=True)
        raise {error}("the second process " + "has had enough")
    return update(*given)
training._update = failing
train.launch()
"""
    )
    running = launch(script, f"run={tmp_path / 'run'}", "training.steps=1000000")
    assert running.stdout is not None
    while running.poll() is None and running.stdout.readline() != "fails now\n":
        pass
    failed = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - failed < 30
    assert running.returncode != 0
    assert err.count("the second process has had enough") == 1
    assert err.count(FAILURES[error]) == 1
    assert "closed by peer" not in err
    assert not (tmp_path / "run").exists()


def test_one_process_agrees_with_itself() -> None:
    assert processes.total(1.5, True) == [1.5, True]
    assert processes.from_main(lambda: 2.5) == 2.5
    assert processes.first_to_fail()
