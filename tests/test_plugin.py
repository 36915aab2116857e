"""A backbone from a package of its own is used like a built-in one, and nothing knows the built-in ones by name."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recourse_gen import RecourseGenerator, registry

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "my_backbone"
TINY = ("training.steps=30", "evaluation.factuals=10", "evaluation.tradeoff.max_seconds=0")
CHOSEN = ("backbone=plugin", "backbone.name=my_backbone", "+backbone.width=24", "+backbone.components=3")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed: on the path of whoever is given it, and of nobody else."""
    folder = tmp_path_factory.mktemp("site")
    # Nothing is fetched: the build backend is part of the development environment.
    command = [sys.executable, "-m", "pip", "--isolated", "install", "-q", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder), str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return folder


def train(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "train.py", "threads=1", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_example_is_short_and_lives_on_the_published_interface() -> None:
    source = (EXAMPLE / "my_backbone.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = {node.module for node in nodes if node.module and node.module.startswith(("recourse_gen", "backbones"))}
    assert ours == {f"recourse_gen.{name}" for name in ("backbone", "constraints", "noise", "rows", "schema")}


def test_installing_is_registering(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "my_backbone" not in registry.names()
    monkeypatch.syspath_prepend(installed)
    assert "my_backbone" in registry.names()
    assert registry.load("my_backbone").__name__ == "MyBackbone"


def test_it_trains_like_a_built_in_one(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    done = train(installed, "data=moons", "data.n_rows=600", f"run={run}", *TINY, *CHOSEN)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["backbone"], metrics["n_factuals"], metrics["constraint_violations"]) == ("my_backbone", 10, 0)
    assert yaml.safe_load((run / "config.yaml").read_text())["backbone_options"] == {"width": 24, "components": 3}

    def classifier(frame: pd.DataFrame) -> Any:
        return 1 / (1 + np.exp(9 * frame["x2"] - 2))

    with pytest.raises(ValueError, match="unknown backbone 'my_backbone'; registered are"):
        RecourseGenerator.load(run, classifier=classifier)
    monkeypatch.syspath_prepend(installed)
    found = RecourseGenerator.load(run, classifier=classifier).generate(pd.DataFrame({"x1": [0.0], "x2": [0.9]}))
    assert found.report["status"].tolist() == ["ok"]


@pytest.mark.skipif(find_spec("teacher") is None, reason="teacher-xai is not installed")
def test_so_it_does_on_a_mixed_table_with_immutable_columns(installed: Path, tmp_path: Path) -> None:
    done = train(installed, "data=compas", "classifier=logistic", f"run={tmp_path / 'run'}", *TINY, *CHOSEN)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["backbone"], metrics["constraint_violations"]) == ("my_backbone", 0)
    assert metrics["found"] > 0


def test_a_wrong_option_of_it_ends_in_one_sentence(installed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(installed, "data=moons", "data.n_rows=200", f"run={run}", *TINY, *CHOSEN, "+backbone.depth=3")
    assert done.returncode == 2
    assert "error: unknown option backbone.depth; known are: width, components" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.exists()


BUILT_IN = {"ar", "flow", "diffusion"}


def class_names() -> set[str]:
    """The classes behind the built-in names."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
    return {entries[name].partition(":")[2] for name in BUILT_IN & set(entries)}


def in_python(source: str) -> Iterator[str]:
    """Literals, keywords, attributes and classes that name a built-in generator; prose in docstrings does not."""
    tree, classes = ast.parse(source), class_names()
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words = set(node.value.replace(",", " ").split())
            found = words if words <= BUILT_IN | classes else set()
        elif isinstance(node, ast.keyword):
            found = {node.arg} & BUILT_IN
        elif isinstance(node, ast.Attribute):
            found = {node.attr} & (BUILT_IN | classes)
        elif isinstance(node, ast.Name):
            found = {node.id} & classes
        elif isinstance(node, ast.alias):
            found = set(node.name.split(".")) & (BUILT_IN | classes)
        else:
            continue
        yield from (f"line {getattr(node, 'lineno', 0)}: {name}" for name in sorted(map(str, found)))


def in_yaml(source: str) -> Iterator[str]:
    """Keys and values that are a built-in name; the default choice of a group is none of them."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from (*walk(key), *walk(value))
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)
        elif isinstance(node, str) and node in BUILT_IN:
            yield node

    content = yaml.safe_load(source) or {}
    return walk({key: value for key, value in content.items() if key != "defaults"})


def mentions(root: Path) -> list[str]:
    """Where the built-in generators are named, outside the places that are theirs."""
    # Plug-ins among the examples, in folders of their own; scripts for users choose a generator by its name.
    code = [root / "train.py", *(root / "recourse_gen").rglob("*.py"), *(root / "examples").glob("*/**/*.py")]
    settings = [path for path in (root / "configs").rglob("*.yaml") if path.parent != root / "configs" / "backbone"]
    found = [
        f"{path.relative_to(root)}: {hit}" for path in code if path.exists() for hit in in_python(path.read_text())
    ]
    return found + [f"{path.relative_to(root)}: {hit}" for path in settings for hit in in_yaml(path.read_text())]


def test_nothing_outside_their_own_places_names_the_built_in_generators() -> None:
    assert len(class_names()) == len(BUILT_IN)
    assert mentions(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("train.py", 'if config["backbone"]["name"] == "ar":\n    pass'),
        ("train.py", 'defaults = {"flow": 16}'),
        ("recourse_gen/search.py", 'match name:\n    case "diffusion":\n        pass'),
        ("recourse_gen/search.py", 'slow = name in "flow".split()'),
        ("recourse_gen/search.py", "fast = isinstance(model, AutoregressiveBackbone)"),
        ("recourse_gen/data/tables.py", 'special = type(model).__name__ == "AutoregressiveBackbone"'),
        ("recourse_gen/recourse.py", "steps = dict(ar=1, other=2)"),
        ("recourse_gen/recourse.py", "from backbones import ar"),
        ("examples/mine/mine.py", "import backbones.flow"),
        ("configs/experiment/fast.yaml", "backbone:\n  name: flow"),
        ("configs/train.yaml", "steps:\n  ar: 10"),
    ],
)
def test_a_special_case_is_noticed(tmp_path: Path, file: str, source: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    found = mentions(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("train.py", '"""accelerate launch train.py backbone=ar"""\nflow = "the flow of control"'),
        ("configs/train.yaml", "defaults:\n  - backbone: ar\n"),
        ("configs/backbone/ar.yaml", "name: ar"),
    ],
)
def test_prose_and_a_default_are_no_special_case(tmp_path: Path, file: str, source: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    assert mentions(tmp_path) == []


def test_only_the_suite_needs_hypothesis() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None; import recourse_gen; print('fine'); import recourse_gen.testing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine"
    last = done.stderr.strip().splitlines()[-1]
    assert last == 'ImportError: recourse_gen.testing needs Hypothesis; pip install "recourse-gen[testing]"'
