"""The README prints what it shows, the code of the guides runs, and the commands are the documented ones."""

import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.outputs import form

README = Path(__file__).resolve().parents[1] / "README.md"
GUIDES = ("data-scientist.md", "researcher.md", "auditor.md")
COMMANDS = (
    'pip install -e ".[data]" -c constraints.txt && accelerate launch train.py backbone=ar',
    'pip install -e ".[dev,data]" -c constraints.txt && pytest',
)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the README's line on which the text starts."""

    language: str
    text: str
    line: int


def blocks(text: str, language: str) -> list[Block]:
    """The fenced blocks in one language, in order. Raises ValueError for a fence that is never closed."""
    found: list[Block] = []
    opened: tuple[str, int] | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fence = re.fullmatch(r"```\s*(\w*).*", line)
        if fence and opened is None:
            opened = (fence.group(1), number + 1)
        elif line.rstrip() == "```" and opened is not None:
            found.append(Block(opened[0], "\n".join(lines[opened[1] - 1 : number - 1]), opened[1]))
            opened = None
    if opened is not None:
        raise ValueError(f"the fence opened on line {opened[1] - 1} is never closed")
    return [block for block in found if block.language == language]


def commands(text: str) -> list[str]:
    """The lines of all bash blocks, continued lines joined, comments cut off."""
    joined = "\n".join(block.text for block in blocks(text, "bash")).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*$", "", line) for line in joined.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def execute(text: str, module: types.ModuleType, path: Path = README) -> None:
    """Run the python blocks in order in one namespace; a traceback shows the file's own line numbers."""
    for block in blocks(text, "python"):
        padded = "\n" * (block.line - 1) + block.text
        exec(compile(padded, str(path), "exec"), module.__dict__)


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of its own, which dataclasses and annotations in the blocks can look up, in an empty folder."""
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    return module


def test_python_blocks_run_in_order_and_print_what_is_shown(
    namespace: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    text = README.read_text(encoding="utf-8")
    assert blocks(text, "python")
    execute(text, namespace)
    shown, printed = form("\n".join(block.text for block in blocks(text, "text"))), form(capsys.readouterr().out)
    assert printed == shown
    assert all(printed), "there are statuses, columns and dtypes to compare"
    # The dtypes of the answers are those of the input.
    assert printed.dtypes == tuple((name, str(dtype)) for name, dtype in namespace.__dict__["people"].dtypes.items())


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_guides_run(guide: str, namespace: types.ModuleType) -> None:
    path = README.parent / "docs" / guide
    text = path.read_text(encoding="utf-8")
    assert blocks(text, "python")
    execute(text, namespace, path)


def test_python_blocks_need_no_files_of_ours() -> None:
    for block in blocks(README.read_text(encoding="utf-8"), "python"):
        assert "shared/" not in block.text, f"the block on line {block.line} needs files that users do not have"


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_gives_the_command(command: str) -> None:
    assert command in commands(README.read_text(encoding="utf-8"))


def test_blocks_share_one_namespace_and_report_readme_lines(namespace: types.ModuleType) -> None:
    text = "# A\n```python\nx = 1\n```\n```bash\nfalse\n```\n```python\ny = x + 1\nassert y == 3\n```\n"
    with pytest.raises(AssertionError) as caught:
        execute(text, namespace)
    assert namespace.__dict__["y"] == 2
    assert caught.traceback[-1].lineno + 1 == 10


def test_commands_are_read_from_bash_blocks_only() -> None:
    text = "pytest\n```bash\npip install . \\\n  && pytest  # ten minutes\n```\n```\nls\n```\n"
    assert commands(text) == ["pip install . && pytest"]


def test_an_open_fence_is_reported() -> None:
    with pytest.raises(ValueError, match="line 2 is never closed"):
        blocks("text\n```python\nx = 1\n", "python")
