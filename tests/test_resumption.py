"""A training that is cut short goes on as if it had never stopped, or says in one sentence why it does not."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from killing import everything
from sklearn.pipeline import Pipeline
from trainings import TINY, same, small_pairs, train

from recourse_gen import Constraints, RecourseGenerator, checkpoint, files, resumption
from recourse_gen.pairs import PairSupervision
from recourse_gen.resumption import FILE, LOG, Terminated


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs that are compared to the bit need as many threads as one another; other tests change their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs() -> PairSupervision:
    return small_pairs()


class Cut(Exception):
    """The end of a run that was cut short."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run fail instead of writing its state after that step, once."""
    write = resumption.TrainingState.write

    def fail(state: resumption.TrainingState, *args: Any) -> None:
        if state.step == step:
            monkeypatch.setattr(resumption.TrainingState, "write", write)
            raise Cut
        write(state, *args)

    monkeypatch.setattr(resumption.TrainingState, "write", fail)


def cut_short(
    name: str, pairs: PairSupervision, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int = 12, **given: Any
) -> None:
    cut_at(step, monkeypatch)
    with pytest.raises(Cut):
        train(name, pairs, folder, **given)


def log(folder: Path) -> list[dict[str, Any]]:
    """The log but for its clock."""
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("name", TINY)
def test_a_resumed_run_ends_like_one_that_never_stopped(
    name: str, pairs: PairSupervision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at a validation, whose line is in the log but not in the state, and later between two."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    model, trained = train(name, pairs, straight)
    cut_short(name, pairs, broken, monkeypatch, 14)
    torch.rand(3)  # another process would be elsewhere in its random numbers
    cut_short(name, pairs, broken, monkeypatch, 24, resume=True)
    resumed, again = train(name, pairs, broken, resume=True)
    assert same(model, resumed)
    (record, tensors), (ended, found) = everything(straight), everything(broken)
    assert ended == record
    assert tensors.keys() == found.keys()
    assert all(torch.equal(tensors[part], found[part]) for part in tensors), "to the last moment and random number"
    assert replace(again, seconds=trained.seconds) == trained
    assert log(broken) == log(straight)
    assert [record["step"] for record in log(broken)] == [7, 14, 21, 28, 30]


def test_a_state_is_written_seldom_and_at_the_end(pairs: PairSupervision, tmp_path: Path) -> None:
    written: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        write = resumption.TrainingState.write
        patch.setattr(
            resumption.TrainingState, "write", lambda state, *args: (written.append(state.step), write(state, *args))
        )
        train("ar", pairs, tmp_path, checkpoint_every=3600.0)
        train("ar", pairs, tmp_path / ".", checkpoint_every=0.0, steps=3)
        train("ar", pairs, None, steps=3)
    assert written == [30, 1, 2, 3]


def test_training_that_has_ended_is_not_done_again(pairs: PairSupervision, tmp_path: Path) -> None:
    model, trained = train("ar", pairs, tmp_path, seed=4)
    again, same_again = train("ar", pairs, tmp_path, seed=4, resume=True)
    assert same(model, again)
    assert same_again == trained


def test_a_longer_budget_goes_on_from_the_state(pairs: PairSupervision, tmp_path: Path) -> None:
    train("ar", pairs, tmp_path, steps=10)
    _, trained = train("ar", pairs, tmp_path, steps=16, validate_every=4, resume=True)
    assert trained.steps == 16
    assert [record["step"] for record in log(tmp_path)] == [7, 10, 12, 16]


def test_the_clock_goes_on_too(pairs: PairSupervision, tmp_path: Path) -> None:
    _, first = train("ar", pairs, tmp_path, steps=10**9, minutes=0.3 / 60)
    _, then = train("ar", pairs, tmp_path, steps=10**9, minutes=0.6 / 60, resume=True)
    assert then.steps > first.steps
    assert 0.6 <= then.seconds < 0.3 + 0.6


def test_nothing_to_resume_is_a_start_with_a_warning(pairs: PairSupervision, tmp_path: Path) -> None:
    """What a run that was cut before its first state has left does not count."""
    (tmp_path / LOG).write_text('{"step": 7}\n{"st')
    with pytest.warns(UserWarning, match="nothing to resume"):
        model, _ = train("ar", pairs, tmp_path, resume=True)
    assert same(model, train("ar", pairs)[0])
    assert [record["step"] for record in log(tmp_path)] == [7, 14, 21, 28, 30]


def test_sigterm_writes_the_state_and_ends_the_run(pairs: PairSupervision, tmp_path: Path) -> None:
    def terminate(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated, match=r"SIGTERM ended the training after step 8; resume=true goes on") as ended:
        train("ar", pairs, tmp_path, save=terminate, checkpoint_every=3600.0)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert same(train("ar", pairs, tmp_path, resume=True)[0], train("ar", pairs)[0])


def test_somebody_elses_handler_of_sigterm_stays(pairs: PairSupervision, tmp_path: Path) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        _, trained = train("ar", pairs, tmp_path, save=lambda _: os.kill(os.getpid(), signal.SIGTERM), steps=7)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert seen == [signal.SIGTERM]
    assert trained.steps == 7


def fails(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("validate_every", [3, 100])
@pytest.mark.parametrize("point", ["write", "fsync", "replace", "folder"])
def test_a_full_disk_is_told_in_a_sentence_and_the_last_state_stays(
    point: str, validate_every: int, pairs: PairSupervision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short("ar", pairs, tmp_path, monkeypatch, 12)
    before = (tmp_path / FILE).read_bytes()
    with monkeypatch.context() as patch:
        where = {"write": (Path, "write_bytes"), "folder": (files.tempfile, "TemporaryDirectory")}
        patch.setattr(*where.get(point, (os, point)), fails)
        with pytest.raises(OSError, match=rf"^{tmp_path}/.* cannot be written: No space left on device$"):
            train("ar", pairs, tmp_path, resume=True, validate_every=validate_every)
    assert (tmp_path / FILE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {FILE, LOG}
    assert same(train("ar", pairs, tmp_path, resume=True)[0], train("ar", pairs)[0])


def test_a_folder_that_is_gone_is_told_in_a_sentence(pairs: PairSupervision, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone/.* cannot be written: No such file or directory$"):
        train("ar", pairs, tmp_path / "gone", validate_every=100)


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, r"another seed \(0, here 1\)$"),
    "an option of training": ({"batch_size": 17}, r"another training.batch_size \(16, here 17\)$"),
    "what the caller says": ({"settings": {"backbone": "flow"}}, r"another backbone \(\"ar\", here \"flow\"\)$"),
    "what the caller does not say": ({"settings": {}}, r"another backbone \(\"ar\", here none\)$"),
    "data": ({"pairs": 1}, "another data$"),
    "two things": ({"seed": 2, "ema": 0.5}, r"another seed \(0, here 2\), training.ema \(0.99, here 0.5\)$"),
}


@pytest.mark.parametrize("case", OTHER)
def test_the_state_of_another_run_is_refused(
    case: str, pairs: PairSupervision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sentence = OTHER[case]
    cut_short("ar", pairs, tmp_path, monkeypatch, settings={"backbone": "ar"})
    before = (tmp_path / FILE).read_bytes(), (tmp_path / LOG).read_bytes()
    others = small_pairs(given["pairs"]) if "pairs" in given else pairs
    given = {"settings": {"backbone": "ar"}, **{key: value for key, value in given.items() if key != "pairs"}}
    with pytest.raises(ValueError, match=sentence):
        train("ar", others, tmp_path, resume=True, **given)
    assert ((tmp_path / FILE).read_bytes(), (tmp_path / LOG).read_bytes()) == before


def flip(data: bytes) -> bytes:
    """One bit of the last tensor."""
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-100],
    "a bit": flip,
    "a step": lambda data: data.replace(rb"\"step\": 11", rb"\"step\": 10"),
    "a version": lambda data: data.replace(rb"\"version\": 1", rb"\"version\": 2"),
    "a huge header": lambda data: b"\xff" * 8 + data[8:],
    "other tensors": lambda data: data.replace(b"model/", b"madel/"),
    "no safetensors": lambda data: b"\x80\x04" + data,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_state_is_refused(
    case: str, pairs: PairSupervision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short("ar", pairs, tmp_path, monkeypatch)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(DAMAGE[case](whole))
    assert (tmp_path / FILE).read_bytes() != whole
    with pytest.raises(ValueError, match=f"{FILE} is damaged: "):
        train("ar", pairs, tmp_path, resume=True)


@pytest.mark.parametrize("part", ["model/", "average/", "best/", "optimizer/", "generator/"])
def test_a_forged_state_does_not_fit(
    part: str, pairs: PairSupervision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed anew, but with a tensor of another shape."""
    cut_short("ar", pairs, tmp_path, monkeypatch)
    data = (tmp_path / FILE).read_bytes()
    tensors = files.tensors(tmp_path / FILE, data)
    name = next(name for name in sorted(tensors) if name.startswith(part) and tensors[name].dim())
    tensors[name] = tensors[name][..., :-1].clone()
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["state"]
    forged = {"state": text, "sha256": resumption._digest(text, tensors)}
    (tmp_path / FILE).write_bytes(resumption.safetensors.torch.save(tensors, forged))
    with pytest.raises(ValueError, match="does not fit its own settings"):
        train("ar", pairs, tmp_path, resume=True)


def test_a_generator_resumes_and_saving_removes_the_state(
    table: tuple[pd.DataFrame, np.ndarray],
    classifier: Pipeline,
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted = RecourseGenerator(**small).fit(*table, classifier=classifier)  # on as many threads as what follows
    small = {**small, "training": {**small["training"], "checkpoint_every": 0.0}}
    (tmp_path / ".writing-left").mkdir()
    cut_at(33, monkeypatch)
    with pytest.raises(Cut):
        RecourseGenerator(**small).fit(*table, classifier=classifier, folder=tmp_path)
    others = {
        "backbone_options.width (16, here 32)": {"backbone_options": {**small["backbone_options"], "width": 32}},
        "schema": {"schema": {**small["schema"], "tokenize": "none"}},
        "pairs.gamma (0.7, here 0.6)": {"pairs": {"top_k": 50, "gamma": 0.6}},
        "backbone ": {"backbone": "flow", "backbone_options": {}},
    }
    for named, changed in others.items():
        with pytest.raises(ValueError, match="cannot be resumed: it is of a run with another ") as refusal:
            RecourseGenerator(**{**small, **changed}).fit(*table, classifier=classifier, folder=tmp_path, resume=True)
        assert named in str(refusal.value)
    with pytest.raises(ValueError, match="constraints.immutable"):
        RecourseGenerator(**small).fit(
            *table, classifier=classifier, constraints=Constraints(immutable=["age"]), folder=tmp_path, resume=True
        )
    resumed = RecourseGenerator(**small).fit(*table, classifier=classifier, folder=tmp_path, resume=True)
    assert same(resumed.model, fitted.model)
    assert (tmp_path / FILE).exists(), "a run that is killed before it is saved need not train again"
    assert not (tmp_path / ".writing-left").exists()
    resumed.save(tmp_path)
    assert not (tmp_path / FILE).exists()
    assert checkpoint.is_finished(tmp_path)


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_as_if_left_in_peace(tmp_path: Path) -> None:
    """As many times as RECOURSE_KILLS says, by SIGKILL, at random moments and in the middle of writing."""
    kills, tests = int(os.environ.get("RECOURSE_KILLS", "6")), Path(__file__).parent
    path = os.pathsep.join(map(str, (tests.parent, tests)))
    done = subprocess.run(
        [sys.executable, tests / "killing.py", tmp_path, str(kills), "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count = json.loads(done.stdout)
    assert count["kills"] == kills
    assert count["equal"] == count["runs"] > 0
    assert count["states_read"] > 0
    assert count["while_writing"] == kills // 2


def test_a_run_that_is_not_resumed_forgets_the_one_before(tmp_path: Path) -> None:
    for name in (FILE, LOG):
        (tmp_path / name).write_text("old")
    checkpoint.reopen(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_resuming_takes_a_folder(table: tuple[pd.DataFrame, np.ndarray], classifier: Pipeline) -> None:
    with pytest.raises(ValueError, match="resume needs the folder"):
        RecourseGenerator("ar").fit(*table, classifier=classifier, resume=True)
