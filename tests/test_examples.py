"""The examples run as they stand, and print what docs/examples.md shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.outputs import Form, form

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
RECORDED = """
             status  cost
factual rank
184     0        ok  1.18

 factual  rank feature from  to
     184     0 savings   30  20

savings str
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_prints_what_the_documentation_shows(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, done.stderr
    shown = script.with_suffix(".txt").read_text(encoding="utf-8")
    assert form(done.stdout) == form(shown)
    assert len(done.stdout.split("\n\n")) == len(shown.split("\n\n"))


def test_there_are_examples_and_they_are_short() -> None:
    assert len(SCRIPTS) >= 2
    for script in SCRIPTS:
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80, f"{script.name} is too long to be read"
        assert script.with_suffix(".txt").exists(), f"{script.name} has no recorded output"


def test_the_form_of_output_has_statuses_columns_and_dtypes() -> None:
    columns = ("status", "cost"), ("factual", "rank"), ("factual", "rank", "feature", "from", "to")
    assert form(RECORDED) == Form(("ok",), columns, (("savings", "str"),))


@pytest.mark.parametrize(("old", "new"), [("1.18", "1.17"), ("20", "7"), ("184", "36")])
def test_figures_are_no_part_of_the_form(old: str, new: str) -> None:
    assert form(RECORDED.replace(old, new)) == form(RECORDED)


@pytest.mark.parametrize(("old", "new"), [("ok", "not_found"), ("cost", "price"), ("savings str", "savings object")])
def test_statuses_columns_and_dtypes_are_part_of_the_form(old: str, new: str) -> None:
    assert form(RECORDED.replace(old, new)) != form(RECORDED)
