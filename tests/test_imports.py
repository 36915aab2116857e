"""Imports point downwards only, and the tree keeps the shape that the design promises."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Top to bottom. A module imports from strictly lower layers only. "recourse_gen" is the package's own namespace.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("recourse_gen.__main__",),
    ("train", "recourse_gen.cli"),
    ("recourse_gen",),
    ("recourse_gen.evaluation",),
    ("recourse_gen.fidelity", "recourse_gen.judge", "recourse_gen.robustness"),
    ("recourse_gen.parts",),
    ("recourse_gen.partition",),
    ("recourse_gen.recourse", "recourse_gen.testing"),
    ("recourse_gen.search", "recourse_gen.hub"),
    ("recourse_gen.counterfactuals", "recourse_gen.scoring", "recourse_gen.sparsify", "recourse_gen.card"),
    (
        "recourse_gen.figures",
        "recourse_gen.page",
        "recourse_gen.training",
        "recourse_gen.selection",
        "recourse_gen.metrics",
        "recourse_gen.data",
        "recourse_gen.checkpoint",
    ),
    (
        "recourse_gen.pairs",
        "recourse_gen.audit",
        "recourse_gen.alignment",
        "recourse_gen.personal",
        "recourse_gen.sentences",
        "recourse_gen.resumption",
    ),
    ("recourse_gen.neighbours",),
    ("recourse_gen.nearest", "recourse_gen.pooled"),
    ("recourse_gen.matching",),
    (
        "recourse_gen.transform",
        "recourse_gen.classifier",
        "recourse_gen.constraints",
        "recourse_gen.cost",
        "recourse_gen.registry",
    ),
    ("recourse_gen.contract",),
    ("recourse_gen.backbone", "recourse_gen.deadline"),
    ("recourse_gen.noise", "recourse_gen.feasible", "recourse_gen.narrowing", "recourse_gen.groups"),
    ("recourse_gen.rows", "recourse_gen.panel", "recourse_gen.estimators", "recourse_gen.budget"),
    ("recourse_gen.lock", "recourse_gen.outputs"),
    ("recourse_gen.schema", "recourse_gen.outliers", "recourse_gen.votes", "recourse_gen.files", "recourse_gen.share"),
    ("recourse_gen.options", "recourse_gen.dtypes", "recourse_gen.processes", "recourse_gen.workers"),
)

# Arrows that only a type checker follows.
TYPING_ONLY = {
    ("recourse_gen.backbone", "recourse_gen.constraints"),
    ("recourse_gen.backbone", "recourse_gen.pairs"),
    ("recourse_gen.card", "recourse_gen.recourse"),
}
# The one thing that generators are shown but must not depend on: the argument of `Backbone.observe`.
BACKBONES_MAY_NAME = {"recourse_gen.pairs"}

# All that a generator may import from this project, so that plug-ins live on the published interface.
BACKBONES_MAY_IMPORT = {
    "recourse_gen.backbone",
    "recourse_gen.schema",
    "recourse_gen.rows",
    "recourse_gen.constraints",
    "recourse_gen.cost",
    "recourse_gen.noise",
    *(
        f"backbones.{part}"
        for part in (
            *("layers", "perceptron", "alphabet", "corruption", "posterior", "blocks", "replay", "decoder", "draft"),
            *("scores", "descent", "columns", "denoiser", "candidates", "endpoint"),
        )
    ),
}

FIRST_PARTY = {"train", "recourse_gen", "backbones", "bench", "tests"}
DEPTH = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}

TOP_LEVEL = (
    "train.py",
    "recourse_gen/__init__.py",
    "recourse_gen/py.typed",
    "backbones/__init__.py",
    "backbones/py.typed",
    "configs/train.yaml",
    "configs/backbone",
    "configs/data",
    "configs/experiment",
    "bench",
    "docs",
    "tests",
    "mkdocs.yml",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    ".ci/run",
)
PYTHON_FOLDERS = ("recourse_gen", "backbones", "bench", "docs", "examples", "tests")
MAX_LINES = 320
VAGUE_NAMES = {"utils.py", "common.py"}


class Arrow(NamedTuple):
    """One import inside the project: who imports, what, on which line, and whether only for type checking."""

    source: str
    target: str
    line: int
    typing_only: bool


def module_name(path: Path, root: Path) -> str:
    """Dotted name of a file: ``recourse_gen/data/csv.py`` is ``recourse_gen.data.csv``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """The entry of the layering table a dotted name belongs to: a sub-package is one unit."""
    return ".".join(module.split(".")[:2])


def source_files(root: Path) -> list[Path]:
    """The files whose imports are read."""
    files = [path for package in ("recourse_gen", "backbones") for path in sorted((root / package).rglob("*.py"))]
    return files + [path for path in [root / "train.py"] if path.exists()]


def imported_names(node: ast.AST, package: str) -> Iterator[str]:
    """Every dotted name that one node may import; ``from a import b`` gives ``a.b``, a module or not."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{origin}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        literal = node.args[0]
        if called in {"import_module", "__import__"} and isinstance(literal, ast.Constant):
            yield str(literal.value)


def walk(node: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below ``node``, each with whether it stands under ``if TYPE_CHECKING:``."""
    yield node, typing_only
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
        for child in node.body:
            yield from walk(child, True)
        for child in node.orelse:
            yield from walk(child, typing_only)
    else:
        for child in ast.iter_child_nodes(node):
            yield from walk(child, typing_only)


def exists(module: str, root: Path) -> bool:
    path = root.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def arrows(path: Path, root: Path) -> list[Arrow]:
    """The imports of one file that stay inside the project, self-references left out."""
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node, typing_only in walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for name in imported_names(node, package):
            if name.split(".")[0] not in FIRST_PARTY:
                continue
            target = unit(name)
            # ``from recourse_gen import Schema`` imports the package; ``from recourse_gen import schema`` the module.
            if target not in DEPTH and not exists(target, root):
                target = target.split(".")[0]
            if target != unit(module):
                found.add(Arrow(unit(module), target, getattr(node, "lineno", 0), typing_only))
    return sorted(found)


def objection(arrow: Arrow) -> str | None:
    """Why an arrow is not allowed, or None."""
    source, target = arrow.source, arrow.target
    if source.split(".")[0] == "backbones":
        known = BACKBONES_MAY_IMPORT | (BACKBONES_MAY_NAME if arrow.typing_only else set())
        return None if target in known else "a generator imports only the published interface"
    if target not in DEPTH:
        return "nothing outside backbones/ may import it" if target.startswith("backbones") else "it has no layer"
    if source == "recourse_gen" or (arrow.typing_only and (source, target) in TYPING_ONLY):
        return None
    return None if DEPTH[source] < DEPTH[target] else "it is not in a lower layer"


def violations(root: Path) -> list[str]:
    """One sentence for each import, or module, that breaks the layering."""
    found = []
    for path in source_files(root):
        name = unit(module_name(path, root))
        if name.split(".")[0] != "backbones" and name not in DEPTH:
            found.append(f"{path.relative_to(root)}: place '{name}' in a layer of LAYERS in tests/test_imports.py")
            continue
        for arrow in arrows(path, root):
            if reason := objection(arrow):
                found.append(f"{path.relative_to(root)}:{arrow.line}: {name} imports {arrow.target}: {reason}")
    return found


def untidy(root: Path) -> list[str]:
    """Python files that are too long or vaguely named."""
    files = [path for folder in PYTHON_FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    files += sorted(root.glob("*.py"))
    found = []
    for path in files:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            found.append(f"{path.relative_to(root)}: {lines} lines, the limit is {MAX_LINES}")
        if path.name in VAGUE_NAMES:
            found.append(f"{path.relative_to(root)}: name it after what it holds")
    return found


def test_imports_point_downwards() -> None:
    assert len(source_files(ROOT)) > 10
    assert violations(ROOT) == []


def test_files_are_short_and_named_after_what_they_hold() -> None:
    assert untidy(ROOT) == []


@pytest.mark.parametrize("entry", TOP_LEVEL)
def test_top_level_entry_exists(entry: str) -> None:
    assert (ROOT / entry).exists(), f"{entry} is part of the documented top level"


def test_ci_script_is_executable() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_no_module_has_two_layers() -> None:
    assert sum(map(len, LAYERS)) == len(DEPTH)


def project(root: Path, file: str, source: str) -> Path:
    """A small project holding one module under test beside the modules it may try to import."""
    for other in ("backbones/ar.py", "backbones/layers.py", "recourse_gen/schema.py", "recourse_gen/__init__.py"):
        (root / other).parent.mkdir(parents=True, exist_ok=True)
        (root / other).write_text("")
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(source)
    return root


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("recourse_gen/pairs.py", "from backbones import ar", "backbones.ar: nothing outside"),
        ("recourse_gen/pairs.py", "import backbones", "backbones: nothing outside"),
        ("recourse_gen/pairs.py", "import importlib\nimportlib.import_module('backbones.ar')", ":2: "),
        ("recourse_gen/__init__.py", "from backbones.ar import Autoregressive", "nothing outside"),
        ("recourse_gen/registry.py", "def load():\n    from .recourse import RecourseGenerator", "lower layer"),
        ("recourse_gen/cost.py", "from recourse_gen.transform import TableTransform", "lower layer"),
        ("recourse_gen/data/csv.py", "from ..training import fit", "training: it is not in a lower layer"),
        ("recourse_gen/recourse.py", "from recourse_gen.judge import Judge", "lower layer"),
        ("recourse_gen/pairs.py", "from recourse_gen import RecourseGenerator", "imports recourse_gen: "),
        ("recourse_gen/backbone.py", "from recourse_gen.constraints import Feasible", "lower layer"),
        ("recourse_gen/rows.py", "if TYPE_CHECKING:\n    from recourse_gen.cost import RecourseCost", "lower layer"),
        ("recourse_gen/novelty.py", "import torch", "place 'recourse_gen.novelty' in a layer"),
        ("recourse_gen/schema.py", "import tests.frames", "it has no layer"),
        ("train.py", "import backbones.ar", "nothing outside"),
        ("backbones/flow.py", "from backbones.ar import Autoregressive", "published interface"),
        ("backbones/flow.py", "from recourse_gen.pairs import PairSupervision", "published interface"),
        ("backbones/flow.py", "from recourse_gen import Schema", "published interface"),
    ],
)
def test_checker_reports_a_forbidden_import(tmp_path: Path, file: str, source: str, reason: str) -> None:
    found = violations(project(tmp_path, file, source))
    assert len(found) == 1
    assert found[0].startswith(file)
    assert reason in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("recourse_gen/pairs.py", "import torch\nfrom recourse_gen.cost import RecourseCost\nfrom .rows import Rows"),
        ("recourse_gen/__init__.py", "from recourse_gen.recourse import RecourseGenerator\nfrom . import registry"),
        ("recourse_gen/backbone.py", "if TYPE_CHECKING:\n    from recourse_gen.constraints import Feasible"),
        ("recourse_gen/data/csv.py", "from recourse_gen.data.table import Table\nfrom ..schema import Schema"),
        ("backbones/flow.py", "from backbones.layers import Block\nfrom recourse_gen.noise import Noise"),
        ("train.py", "from recourse_gen import RecourseGenerator\nfrom recourse_gen.evaluation import evaluate"),
    ],
)
def test_checker_accepts_an_allowed_import(tmp_path: Path, file: str, source: str) -> None:
    assert violations(project(tmp_path, file, source)) == []


def test_checker_reports_long_and_vague_files(tmp_path: Path) -> None:
    project(tmp_path, "bench/utils.py", "x = 1\n" * (MAX_LINES + 1))
    assert len(untidy(tmp_path)) == 2
    project(tmp_path, "bench/utils.py", "x = 1\n")
    assert len(untidy(tmp_path)) == 1
