"""The API page's view of docstrings. `mkdocs build --strict`, a stage of .ci/run, looks after links and names."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def listed() -> Callable[[str], str]:
    pytest.importorskip("griffe", reason="comes with the extra `docs`, which .ci/run installs before the tests")
    path = ROOT / "docs" / "extensions" / "definitions.py"
    spec = importlib.util.spec_from_file_location("definitions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.listed


def test_definitions_become_a_list(listed: Callable[[str], str]) -> None:
    text = "Fits.\n\nX: a frame. y: outcomes, 0 or 1\n    (2 of them). n, m: counts.\n\nRaises ValueError: never."
    items = "- **X**: a frame.\n- **y**: outcomes, 0 or 1 (2 of them).\n- **n, m**: counts."
    assert listed(text) == f"Fits.\n\n{items}\n\nRaises ValueError: never."


def test_a_sentence_before_definitions_stays_one(listed: Callable[[str], str]) -> None:
    assert listed("Writes a folder. run: settings.") == "Writes a folder.\n\n- **run**: settings."


@pytest.mark.parametrize(
    "text", ["Loss ``(B,)``: nats.", "- path: a file.\n- n: rows", "For instance: nothing. So: that."]
)
def test_prose_and_lists_stay_as_they_are(listed: Callable[[str], str], text: str) -> None:
    assert listed(text) == text
