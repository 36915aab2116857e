"""`pytest --benchmark` times bench/, and nothing else does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEED = """
def test_speed(benchmark):
    benchmark(sum, [1, 2])
    print("skipped the clock" if benchmark.disabled else f"median {benchmark.stats.stats.median}")
"""


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    # Where tests run in several processes, these say so to the benchmarks' plugin, which then leaves the clock alone.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This project's options for a test and a benchmark that take no time."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("tests/test_truth.py", "def test_truth(): pass\n"), ("bench/test_speed.py", SPEED)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    return tmp_path


def test_plain_runs_leave_benchmarks_alone(project: Path) -> None:
    out = run(project, "-v", "-s")
    assert "test_truth" in out
    assert "test_speed" not in out
    assert "skipped the clock" in run(project, "-s", "bench")


def test_the_option_times_the_benchmarks_and_runs_no_tests(project: Path) -> None:
    out = run(project, "--benchmark", "-v", "-s")
    assert "median " in out
    assert "test_truth" not in out


def test_the_plugins_own_options_keep_working(project: Path) -> None:
    run(project, "--benchmark", "--benchmark-json=speed.json", "--benchmark-columns=median", "-k", "speed")
    assert "test_speed" in (project / "speed.json").read_text()


@pytest.mark.slow
def test_there_is_a_benchmark_of_what_the_project_is_about() -> None:
    names = [line for line in run(ROOT, "--benchmark", "--collect-only", "-q").splitlines() if "::" in line]
    assert all(name.startswith("bench/") for name in names)
    assert {name.partition("[")[0].partition("::")[2] for name in names} >= {"test_sampling", "test_generate"}
