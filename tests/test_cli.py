"""The command line: answers as files, one sentence for what is wrong, nothing half-written."""

import io
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io

import recourse_gen
from recourse_gen import Constraints, RecourseGenerator, cli, registry
from recourse_gen.classifier import fit_classifier
from recourse_gen.schema import Schema
from tests.conftest import KINDS
from tests.sealing import reseal
from tests.stubs import fit

Table = tuple[pd.DataFrame, np.ndarray]
FEW = ("--candidates", "16")


@pytest.fixture(scope="module")
def run(table: Table, schema: Schema, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its classifier."""
    classifier = fit_classifier("logistic", *table, schema=schema, seed=0)
    rules = Constraints(immutable=["age"])
    return fit(table, classifier, schema={"kinds": KINDS}, rules=rules).save(
        tmp_path_factory.mktemp("runs") / "run", classifier=classifier
    )


@pytest.fixture
def here(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are given in, with a table of 40 people."""
    people = table[0].head(40).reset_index(drop=True)
    people.to_csv(tmp_path / "people.csv", index=False)
    people.assign(name=[f"p{i}" for i in range(40)], label=1).to_csv(tmp_path / "named.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: Any) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_answers_are_those_of_the_library(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command(
        "generate", run, "--input", "people.csv", "--output", "found.csv", "--report", "r.csv", "--n", 2, *FEW
    )
    assert done == 0
    generator = RecourseGenerator.load(run)
    due = generator.generate(generator.transform.check(pd.read_csv("people.csv")), n=2, candidates=16)
    found = pd.read_csv("found.csv").set_index(["factual", "rank"])
    pd.testing.assert_frame_equal(generator.transform.check(found), due.to_frame())
    report = pd.read_csv("r.csv")
    assert report["status"].tolist() == due.report["status"].tolist()
    answered = due.report["status"].eq("ok").groupby(level=0).any().sum()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"{answered} of 40 people have an answer (")
    assert told.err.count("\n") == 1, "no progress where nobody watches"


def test_parquet_keeps_types_and_people_keep_their_names(run: Path, here: Path, table: Table) -> None:
    named = ("--input", "named.csv", "--id", "name", "--ignore", "label")
    assert command("generate", run, *named, "--output", "found.parquet", *FEW) == 0
    assert command("generate", run, *named, "--output", "found.csv", *FEW) == 0
    found = pd.read_parquet("found.parquet")
    assert set(found["factual"]) <= {f"p{i}" for i in range(40)}
    answers = found.drop(columns=["factual", "rank"])
    assert answers.columns.tolist() == table[0].columns.tolist()
    assert answers.drop(columns=["job", "region"]).dtypes.equals(table[0].drop(columns=["job", "region"]).dtypes)
    assert pd.read_csv("found.csv")["factual"].tolist() == found["factual"].tolist()


@pytest.mark.parametrize("names", [["007", "08", "1e3", "12345678901234567890", "NA"], ["3", "0", "-5", "12", "99"]])
def test_names_come_back_letter_for_letter(
    run: Path, here: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    people = pd.read_csv("people.csv").head(5).assign(name=names)
    people.to_csv("few.csv", index=False)
    call = ("generate", run, "--input", "few.csv", "--id", "name", "--output", "found.csv", "--report", "r.csv", *FEW)
    assert command(*call) == 0
    assert [line.partition(",")[0] for line in Path("r.csv").read_text().splitlines()[1:]] == names
    measure = ("evaluate", run, "--input", "few.csv", "--id", "name", "--answers", "found.csv")
    assert command(*measure) == 0
    people.assign(name=[*names[:4], ""]).to_csv("few.csv", index=False)
    assert command(*call) == 1
    assert "column 'name' of few.csv must name everybody" in capsys.readouterr().err


def test_how_to_choose_and_how_long_are_options(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("generate", run, "--input", "people.csv", "--report", "r.csv", "--n", 3, *FEW)
    assert command(*asked, "--output", "found.csv", "--select", "pareto", "--time-budget", 1000) == 0
    generator = RecourseGenerator.load(run)
    due = generator.generate(pd.read_csv("people.csv"), n=3, candidates=16, select="pareto")
    assert pd.read_csv("r.csv")["status"].tolist() == due.report["status"].tolist()
    pd.testing.assert_frame_equal(
        generator.transform.check(pd.read_csv("found.csv").set_index(["factual", "rank"])), due.to_frame()
    )
    assert command(*asked, "--output", "none.csv", "--time-budget", 1e-9) == 0
    report = pd.read_csv("r.csv")
    assert set(report["status"]) == {"not_found", "already_favourable"}
    late = report[report["status"] == "not_found"]
    assert late["reason"].str.startswith("the time budget of 1e-09 s ended").all()
    assert len(pd.read_csv("none.csv")) == 0


def test_a_classifier_comes_from_a_file_or_from_ones_own_code(run: Path, here: Path) -> None:
    shutil.copy(run / "classifier.skops", "model.skops")
    (here / "own_rules.py").write_text(
        "import skops.io\n\nclass Bank:\n    model = skops.io.load('model.skops')\n\n"
        "def everybody(frame):\n    return [0.9] * len(frame)\n"
    )
    for given in (run / "classifier.skops", "own_rules:Bank.model"):
        assert command("generate", run, "--input", "people.csv", "--output", "a.csv", *FEW, "--classifier", given) == 0
        assert command("generate", run, "--input", "people.csv", "--output", "b.csv", *FEW) == 0
        assert Path("a.csv").read_text() == Path("b.csv").read_text()
    own = ("--classifier", "own_rules:everybody")
    assert command("generate", run, "--input", "people.csv", "--output", "c.csv", *own) == 0, "nobody needs an answer"
    assert len(pd.read_csv("c.csv")) == 0


def test_constraints_of_a_file_replace_those_of_the_run(run: Path, here: Path) -> None:
    Path("rules.yaml").write_text("monotone: {late: decrease}\nranges: {income: [null, 70]}\n")
    asked = ("--input", "people.csv", "--output", "found.csv", "--constraints", "rules.yaml")
    assert command("generate", run, *asked, *FEW) == 0
    found = pd.read_csv("found.csv")
    before = pd.read_csv("people.csv").loc[found["factual"]].reset_index(drop=True)
    assert (found["late"] <= before["late"]).all() and (found["income"] <= 70).all()
    assert (found["age"] != before["age"]).any(), "the run's own constraint no longer holds"


def test_answers_are_measured_whoever_gave_them(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ("--id", "name", "--ignore", "label")
    assert command("generate", run, "--input", "named.csv", *named, "--output", "found.csv", "--n", 2, *FEW) == 0
    capsys.readouterr()
    asked = ("evaluate", run, "--input", "named.csv", *named, "--reference", "people.csv")
    assert command(*asked, "--answers", "found.csv", "--output", "rows.csv") == 0
    told = capsys.readouterr()
    measured = {name: float(value) for name, value in (line.split() for line in told.out.splitlines())}
    found, rows = pd.read_csv("found.csv"), pd.read_csv("rows.csv")
    assert measured["n_answers"] == len(found)
    answered = found["factual"].nunique() / measured["n_factuals"]
    assert measured["validity"] == measured["found"] == pytest.approx(answered, abs=1e-5)
    assert measured["violation"] == 0
    assert measured["cost"] > 0 and measured["score"] > 0
    assert rows["found"].sum() == len(found)
    assert "people are left out: they are favoured already" in told.err
    # Row by row, as others hand their answers over, with nothing for some of the people: here, everybody's own row.
    pd.read_csv("people.csv").iloc[1::2].reindex(range(40)).to_csv("same.csv", index=False)
    assert command(*asked, "--answers", "same.csv", "--quiet") == 0
    measured = {name: float(value) for name, value in (line.split() for line in capsys.readouterr().out.splitlines())}
    assert measured["validity"] == measured["cost"] == measured["n_changed"] == 0
    assert 0.3 < measured["found"] < 0.7


def test_answers_that_belong_to_nobody_are_refused(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv("people.csv").head(3).to_csv("few.csv", index=False)
    pd.read_csv("people.csv").assign(factual="nobody").to_csv("strange.csv", index=False)
    for answers, sentence in (("few.csv", "3 rows for 40 people"), ("strange.csv", "'nobody'")):
        assert command("evaluate", run, "--input", "people.csv", "--answers", answers) == 1
        assert sentence in capsys.readouterr().err


class Stranger:
    pass


WRONG: dict[str, tuple[list[str], str]] = {
    "no run": (["generate", "nowhere"], "nowhere is not a saved generator"),
    "no input": (["--input", "nobody.csv"], "there is no file nobody.csv"),
    "kind of output": (["--output", "found.txt"], "found.txt is neither .csv"),
    "folder of output": (["--output", "no/found.csv"], "there is no folder no"),
    "input as output": (["--output", "people.csv"], "is an input, and would be overwritten"),
    "one output for two": (["--report", "found.csv"], "are both found.csv"),
    "column too many": (["--input", "named.csv"], "column 'name' is not known"),
    "unknown name": (["--id", "passport"], "has no column 'passport'"),
    "repeated name": (["--id", "job"], "nobody twice"),
    "unknown constraint": (["--constraints", "odd.yaml"], "unknown option constraints.frozen; known are: immutable"),
    "constraint of another table": (["--constraints", "other.yaml"], "'height'"),
    "constraints that make objects": (["--constraints", "evil.yaml"], "not readable YAML"),
    "no such module": (["--classifier", "nowhere:model"], "No module named 'nowhere'"),
    "neither file nor module": (["--classifier", "model.pkl"], "is a .skops file or module:attribute"),
    "types nobody trusts": (["--classifier", "odd.skops"], "not trusted, and is refused"),
    "value": (["--confidence", "2"], "confidence must be a number in [0.5, 1)"),
    "no time": (["--time-budget", "0"], "time_budget must be a number in (0, inf)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(run: Path, here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    Path("odd.yaml").write_text("frozen: [age]")
    Path("other.yaml").write_text("immutable: [height]")
    Path("evil.yaml").write_text("!!python/object/apply:os.getcwd []")
    skops.io.dump(Stranger(), "odd.skops")
    before = sorted(here.iterdir())
    given, sentence = WRONG[case]
    given = [*(["generate", str(run)] if given[0] != "generate" else []), *given]
    given += [] if "--input" in given else ["--input", "people.csv"]
    given += [] if "--output" in given else ["--output", "found.csv"]
    assert command(*given) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert sentence in told.err
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize("given", [[], ["dance"], ["generate"], ["generate", "run", "--sel", "x"], ["describe"]])
def test_a_wrong_command_line_is_told_how_to_be_right(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*given) == 2
    assert "usage: recourse-gen" in capsys.readouterr().err


def test_an_interruption_leaves_the_old_file(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("found.csv").write_text("before")

    def half(_frame: pd.DataFrame, path: Path, **_: Any) -> None:
        Path(path).write_text("half of i")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    before = sorted(here.iterdir())
    assert command("generate", run, "--input", "people.csv", "--output", "found.csv", *FEW) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert Path("found.csv").read_text() == "before"
    assert sorted(here.iterdir()) == before


def test_quiet_says_nothing(run: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("generate", run, "--quiet", "--input", "people.csv", "--output", "found.csv", *FEW) == 0
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_progress(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert command("generate", run, "--input", "people.csv", "--output", "found.csv", *FEW) == 0
    assert "0/40" in screen.getvalue() and "people/s" in screen.getvalue()


def test_progress_counts_people(run: Path, table: Table) -> None:
    done: list[int] = []
    RecourseGenerator.load(run).generate(table[0].head(25), candidates=4, batch_size=10, progress=done.append)
    assert done == [10, 10, 5]


def test_describe_says_what_a_folder_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("describe", run) == 0
    told = capsys.readouterr().out
    for part in ("exact: no options", "income: continuous (float64)", "job: categorical, full, none, part"):
        assert part in told
    assert "immutable=['age']" in told
    assert "auditor.skops holds" in told and "model.safetensors holds the partners" in told
    assert all(path.name in told for path in run.iterdir())


def test_names_are_no_commands_to_the_terminal(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for name in ("config.yaml", "metrics.json"):
        (copy / name).write_text((copy / name).read_text().replace("exact", '"\\x1b[31mred"', 1))
    reseal(copy)
    assert command("describe", copy) in (0, 1)
    told = capsys.readouterr()
    assert "red" in told.out + told.err
    assert "\x1b" not in told.out + told.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out == f"recourse-gen {recourse_gen.__version__}\n"


def test_backbones_are_listed_even_beside_a_broken_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [("broken", "no_such_module:Nothing"), ("twice", "one:Backbone"), ("twice", "two:Backbone")]
    entries = [*registry.entry_points(group=registry.GROUP), *(EntryPoint(*pair, registry.GROUP) for pair in bad)]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    assert command("backbones") == 0
    told = capsys.readouterr().out
    for entry in entries[:-2]:
        assert f"{entry.name}: {entry.value}" in told
    assert "Draws from Q" in told and "source='factual'" in told
    assert "Nothing) cannot be loaded: No module" in told and "'twice': one:Backbone and two:Backbone" in told


def test_the_installed_script_runs(run: Path, here: Path) -> None:
    script = Path(sys.executable).with_name("recourse-gen")
    assert script.exists(), "install the package again: pip install -e ."
    command = [script, "generate", run, "--input", "people.csv", "--output", "found.parquet", *FEW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "people have an answer" in done.stderr and "Traceback" not in done.stderr
    assert len(pd.read_parquet("found.parquet")) > 0
    assert json.loads((run / "metrics.json").read_text())["files"].keys() >= {"classifier.skops"}


def test_a_reader_who_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from recourse_gen import cli; sys.exit(cli.main(['backbones']))"
    ended = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
