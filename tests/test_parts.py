"""Answers for big files: by row groups, by several processes, after any interruption, the same as in one go."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recourse_gen import RecourseGenerator, checkpoint, cli, estimators, parts
from recourse_gen.classifier import fit_classifier
from recourse_gen.partition import recourse_of
from recourse_gen.schema import Schema

Table = tuple[pd.DataFrame, np.ndarray]
FEW = ("--candidates", "8", "--n", "2")
LAUNCH = (
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
KILLED = """
import os, signal, sys
from recourse_gen import cli

put, left = os.replace, int(sys.argv[1])

def replace(draft, path):
    global left
    left -= 1
    if left < 0 and left % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    put(draft, path)
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

if left:
    os.replace = replace
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def run(table: Table, schema: Schema, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny network, with its classifier."""
    classifier = fit_classifier("logistic", *table, schema=schema, seed=0)
    generator = RecourseGenerator(**{**small, "training": {"steps": 20, "batch_size": 32, "validation_pairs": 32}})
    generator.fit(*table, classifier=classifier)
    return generator.save(tmp_path_factory.mktemp("runs") / "run", classifier=classifier)


@pytest.fixture
def here(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 90 people in groups of 13, one group of favoured ones only, whole and in one group."""
    frame, granted = table
    people = pd.concat([frame[granted == 1].head(13), frame.head(77)]).assign(person=[f"p{i}" for i in range(90)])
    people.to_parquet(tmp_path / "big.parquet", index=False, row_group_size=13)
    people.to_parquet(tmp_path / "one.parquet", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: Any) -> int:
    return cli.main(["generate", *map(str, arguments)])


def asked(run: Path, source: str, name: str) -> list[str]:
    outputs = ("--output", f"{name}.parquet", "--report", f"{name}-report.parquet")
    return [str(run), "--input", source, *outputs, "--id", "person", *FEW]


def same(name: str) -> None:
    for kind in ("", "-report"):
        pd.testing.assert_frame_equal(pd.read_parquet(f"{name}{kind}.parquet"), pd.read_parquet(f"due{kind}.parquet"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_nobody_is_answered_with_empty_tables(run: Path, here: Path, kind: str) -> None:
    nobody, source = pd.read_parquet("one.parquet").iloc[:0], f"nobody.{kind}"
    nobody.to_csv(source, index=False) if kind == "csv" else nobody.to_parquet(source, index=False)
    assert command(*asked(run, source, "found")) == 0
    found, report = pd.read_parquet("found.parquet"), pd.read_parquet("found-report.parquet")
    assert len(found) == len(report) == 0
    assert set(found.columns) == set(nobody.columns) - {"person"} | {"factual", "rank"}


def test_groups_give_the_rows_of_one_table(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*asked(run, "one.parquet", "due")) == 0
    due = capsys.readouterr().err
    assert command(*asked(run, "big.parquet", "found")) == 0
    assert capsys.readouterr().err.split(";")[0] == due.split(";")[0]
    same("found")
    assert len(pd.read_parquet("found-report.parquet")) == 180
    assert not list(here.glob("*.parts"))
    ignored = [str(run), "--input", "big.parquet", "--output", "rows.parquet", "--ignore", "person", *FEW]
    assert command(*ignored) == 0
    rows, found = pd.read_parquet("rows.parquet"), pd.read_parquet("found.parquet")
    assert ("p" + rows["factual"].astype(str)).tolist() == found["factual"].tolist(), "rows are numbered from 0"


def test_finished_groups_are_not_answered_again(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*asked(run, "one.parquet", "due")) == 0
    write, seen = parts.Parts.write, []

    def stop(self: parts.Parts, group: int, *frames: pd.DataFrame) -> None:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(group)
        write(self, group, *frames)

    monkeypatch.setattr(parts.Parts, "write", stop)
    assert command(*asked(run, "big.parquet", "found")) == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on from found.parquet.parts\n")
    assert not Path("found.parquet").exists()
    seen.append(-1)
    assert command(*asked(run, "big.parquet", "found")) == 0
    assert seen == [0, 1, 2, -1, 3, 4, 5, 6]
    same("found")


def test_parts_of_another_call_are_not_mixed_in(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts.Parts, "join", lambda *_: [])
    assert command(*asked(run, "big.parquet", "found")) == 0
    capsys.readouterr()
    for change in (["--seed", "5"], ["--no-audit"], ["--change-price", "5"]):
        assert command(*asked(run, "big.parquet", "found"), *change) == 1
        assert "holds parts of another call (other people, run or options)" in capsys.readouterr().err
    os.utime("big.parquet", ns=(1, 1))
    assert command(*asked(run, "big.parquet", "found")) == 1


def test_parts_of_another_classifier_are_not_mixed_in(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / checkpoint.CLASSIFIER, "model.skops")
    monkeypatch.setattr(parts.Parts, "join", lambda *_: [])
    call = [*asked(run, "big.parquet", "found"), "--classifier", "model.skops"]
    assert command(*call) == 0 and command(*call) == 0
    model = estimators.load_classifier(Path("model.skops"))
    model[-1].coef_ *= 2
    estimators.save(model, Path("model.skops"))
    capsys.readouterr()
    assert command(*call) == 1
    assert "holds parts of another call" in capsys.readouterr().err


def test_a_call_that_another_has_overtaken_ends(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write = parts.Parts.write

    def overtaken(self: parts.Parts, group: int, *frames: pd.DataFrame) -> None:
        if group == 3:
            with pytest.MonkeyPatch.context() as undone:
                undone.setattr(parts.Parts, "write", write)
                assert command(*asked(run, "big.parquet", "found")) == 0
        write(self, group, *frames)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts.Parts, "write", overtaken)
        assert command(*asked(run, "big.parquet", "found")) == 1
    assert "the same call, given twice, has joined these parts into found.parquet" in capsys.readouterr().err
    assert command(*asked(run, "one.parquet", "due")) == 0
    same("found")


def test_the_index_of_a_parquet_file_may_name_people(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*asked(run, "one.parquet", "due")) == 0
    indexed = pd.read_parquet("one.parquet").set_index("person")
    for rows in (13, 90):  # in parts and as a whole
        indexed.to_parquet("indexed.parquet", row_group_size=rows)
        assert command(*asked(run, "indexed.parquet", "found")) == 0
        same("found")
    Path("broken.parquet").write_bytes(b"PAR1")
    assert command(*asked(run, "broken.parquet", "none")) == 1
    assert "broken.parquet cannot be read as .parquet" in capsys.readouterr().err


def test_a_call_that_was_wrong_may_be_put_right(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, told in ((["--confidence", "2"], "confidence must be"), (["--ignore", "nope"], "no column 'nope'")):
        assert command(*asked(run, "big.parquet", "found"), *wrong) == 1
        assert told in capsys.readouterr().err
    assert command(*asked(run, "big.parquet", "found")) == 0


@pytest.mark.parametrize("names", [["p1"] * 90, [None, *range(89)]])
def test_names_count_over_all_groups(
    run: Path, here: Path, names: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_parquet("one.parquet").assign(person=names).to_parquet("big.parquet", row_group_size=13)
    assert command(*asked(run, "big.parquet", "found")) == 1
    assert "must name everybody, and nobody twice" in capsys.readouterr().err
    assert not list(here.glob("found*"))


def test_a_time_budget_is_for_the_whole_table(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.Parts, "open", None)
    for source, name in (("one.parquet", "due"), ("big.parquet", "found")):
        assert command(*asked(run, source, name), "--time-budget", "600") == 0
    same("found")


def test_several_processes_need_parquet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have to end in .parquet"):
        parts.wanted(tmp_path / "people.csv", 2, tmp_path / "found.parquet", None)
    assert not parts.wanted(tmp_path / "people.csv", 1, tmp_path / "found.csv", None)


@pytest.mark.slow
def test_two_processes_that_are_killed_again_and_again_end_with_the_same_rows(run: Path, here: Path) -> None:
    assert command(*asked(run, "one.parquet", "due")) == 0
    Path("killed.py").write_text(KILLED)
    launch = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "killed.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    finished = []
    for left in (1, 4, 5, 0):
        done = subprocess.run(
            [*launch, str(left), "generate", *asked(run, "big.parquet", "found")],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
        assert (done.returncode == 0) == (left == 0), done.stderr[-3000:]
        finished.append(len(list(here.glob("found.parquet.parts/*-found.parquet"))))
        assert Path("found.parquet").exists() == (left == 0)
    assert 0 < finished[1] <= finished[2], "some groups outlived their process"
    assert "people have an answer" in done.stderr and done.stderr.count("people have an answer") == 1
    same("found")
    assert not list(here.glob("*.parts"))


def test_dask_gives_the_answers_of_one_table(run: Path, table: Table) -> None:
    frames = pytest.importorskip("dask.dataframe")
    people = table[0].head(60)
    recourse = recourse_of(run, n=2, candidates=8)
    due = RecourseGenerator.load(run).generate(people, n=2, candidates=8).to_frame().reset_index()
    split = frames.from_pandas(people, npartitions=4)
    found = split.map_partitions(recourse, meta=recourse(people.head(0)))
    assert found.dtypes.equals(due.dtypes)
    pd.testing.assert_frame_equal(found.compute(scheduler="processes", num_workers=2).reset_index(drop=True), due)
    pd.testing.assert_frame_equal(found.compute(scheduler="threads").reset_index(drop=True), due)
    assert len(due) > 0


def test_a_function_of_frames_takes_names_and_maps_over_iterators(run: Path, here: Path) -> None:
    people = pd.read_parquet("one.parquet")
    recourse = recourse_of(run, id="person", candidates=8)
    whole = recourse(people)
    parts_ = list(map(recourse, [people.head(30), people.iloc[30:30], people.tail(60)]))
    pd.testing.assert_frame_equal(pd.concat(parts_, ignore_index=True), whole)
    assert parts_[1].columns.tolist() == whole.columns.tolist()
    with pytest.raises(ValueError, match="the table has no column 'name'"):
        recourse_of(run, id="name")(people)
    with pytest.raises(ValueError, match="'person' is not known"):
        recourse_of(run)(people)
