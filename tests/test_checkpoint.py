"""A saved generator answers the same in another process, and a damaged folder is refused in one sentence."""

import inspect
import json
import pickle
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator, checkpoint
from tests.sealing import reseal

Table = tuple[pd.DataFrame, np.ndarray]
FEW: dict[str, Any] = {"candidates": 16, "max_candidates": 32, "cost_weight": 5.0}


@pytest.fixture(scope="module")
def saved(fitted: RecourseGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("saved") / "deep" / "run")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_the_folder_holds_the_promised_files(saved: Path) -> None:
    promised = {"config.yaml", "schema.json", "transform.json", "model.safetensors", "metrics.json", "auditor.skops"}
    assert {path.name for path in saved.iterdir()} == promised
    assert checkpoint.is_finished(saved)


def test_loading_restores_answers_and_options(
    fitted: RecourseGenerator, saved: Path, denied: pd.DataFrame, classifier: Pipeline
) -> None:
    again = RecourseGenerator.load(saved, classifier=classifier)
    before, after = (one.generate(denied.iloc[:15], n=2, **FEW) for one in (fitted, again))
    pd.testing.assert_frame_equal(after.to_frame(), before.to_frame())
    pd.testing.assert_frame_equal(after.report, before.report)
    assert again.pairs is None
    assert again.schema == fitted.schema
    for name in ("backbone", "seed", "training_options", "summary", "constraints"):
        assert getattr(again, name) == getattr(fitted, name), name
    assert again.backbone_options.items() >= fitted.backbone_options.items()
    # All of them, so that no later default can change what the weights mean.
    assert set(again.backbone_options) == set(inspect.signature(type(again.model)).parameters) - {"schema"}
    # YAML has no tuples, so a range of λ comes back as a list.
    assert again.pair_options.cost_weight_range == fitted.pair_options.cost_weight_range


def test_another_process_answers_the_same(saved: Path, denied: pd.DataFrame, tmp_path: Path) -> None:
    """The classifier is rebuilt there from what is written down here."""
    people = denied.iloc[:10]
    people.to_pickle(tmp_path / "people.pkl")
    script = textwrap.dedent(
        """
        import sys
        import numpy as np, pandas as pd
        from recourse_gen import RecourseGenerator

        def points(frame):
            good = (frame["income"] - 50) / 10 - 0.8 * (frame["late"] - 2) + (frame["job"] == "full")
            return 1 / (1 + np.exp(-good))

        if __name__ == "__main__":
            generator = RecourseGenerator.load(sys.argv[1], classifier=points)
            people = pd.read_pickle(sys.argv[2])
            options = {"candidates": 16, "max_candidates": 32, "cost_weight": 5.0}
            generator.generate(people, n=2, **options).to_frame().to_pickle(sys.argv[3])
        """
    )
    (tmp_path / "elsewhere.py").write_text(script)
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec(script, names)
    here = RecourseGenerator.load(saved, classifier=names["points"]).generate(people, n=2, **FEW).to_frame()
    command = [sys.executable, "elsewhere.py", saved, "people.pkl", "answers.pkl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "answers.pkl"), here)
    assert len(here) > 5


def test_rules_and_numpy_settings_survive(
    table: Table, classifier: Pipeline, small: dict[str, Any], tmp_path: Path
) -> None:
    rules = Constraints(
        immutable=("age",),
        monotone={"late": "decrease"},
        ranges={"income": (np.float64(10.0), None)},
        allowed={
            "job": {"none": ["part"], "part": ("part", "full")},
            "owner": [True, False],
            "late": np.array([0, 1, 2]),
        },
        max_changes=5,
        ordered=[("late", "age")],
    )
    settings = {**small, "target_class": np.int64(1), "training": {**small["training"], "steps": np.int64(2)}}
    fitted = RecourseGenerator(**settings).fit(*table, classifier=classifier, constraints=rules)
    again = RecourseGenerator.load(fitted.save(tmp_path / "run"), classifier=classifier)
    people = table[0].iloc[:40]
    pd.testing.assert_frame_equal(again.generate(people, **FEW).report, fitted.generate(people, **FEW).report)
    assert again.constraints.to_dict() == fitted.constraints.to_dict()


def test_a_finished_folder_is_not_overwritten_unasked(
    fitted: RecourseGenerator, copy: Path, classifier: Pipeline
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match="already holds a finished run"):
        fitted.save(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    fitted.save(copy, overwrite=True, run={"who": "asked"})
    assert checkpoint.read(copy).config["run"] == {"who": "asked"}
    RecourseGenerator.load(copy, classifier=classifier)


@pytest.mark.parametrize("given", [{"classifier": lambda frame: frame}, {"run": {"when": pd.Timestamp(0)}}])
def test_what_cannot_be_kept_leaves_the_run_before(
    fitted: RecourseGenerator, copy: Path, classifier: Pipeline, given: dict[str, Any]
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match="cannot be kept|YAML cannot"):
        fitted.save(copy, overwrite=True, **given)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_training_into_a_finished_folder_makes_it_unfinished(
    fitted: RecourseGenerator, copy: Path, table: Table, classifier: Pipeline, small: dict[str, Any]
) -> None:
    """Until it is saved: were it cut short, the new weights must not pass for the old run's."""
    (copy / "metrics.jsonl").write_text("an old log\n")
    generator = RecourseGenerator(**small).fit(*table, classifier=classifier, folder=copy)
    assert not checkpoint.is_finished(copy)
    assert "old" not in (copy / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"metrics\.json"):
        RecourseGenerator.load(copy, classifier=classifier)
    generator.save(copy)
    assert checkpoint.is_finished(copy)


def test_nothing_in_the_folder_is_a_pickle(saved: Path) -> None:
    for path in saved.iterdir():
        blobs = {path.name: path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                blobs = {name: archive.read(name) for name in archive.namelist()}
                assert all(name.endswith((".json", ".npy")) for name in blobs), list(blobs)
        for name, blob in blobs.items():
            assert blob[:1] != b"\x80" or blob[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"), f"{name} is a pickle"
            if name.endswith(".npy"):
                assert b"'descr': '|O'" not in blob[:128], f"{name} holds objects"
    assert {path.suffix for path in saved.iterdir()} == {".yaml", ".json", ".safetensors", ".skops"}


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def edit_yaml(path: Path, change: Callable[[Any], Any]) -> None:
    value = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(change(value) or value))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def poison(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("the pickle was opened",))

    path.write_bytes(pickle.dumps(Trap()))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights cut short": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-40]), "damaged"),
    "weights empty": ("model.safetensors", lambda path: path.write_bytes(b""), "damaged"),
    "weights of noise": ("model.safetensors", lambda path: path.write_bytes(bytes(range(256)) * 40), "damaged"),
    "weights a pickle": ("model.safetensors", poison, "damaged"),
    "weight missing": (
        "model.safetensors",
        lambda path: edit_weights(path, lambda s: s.pop("head.bias")),
        "another network",
    ),
    "weight misshapen": (
        "model.safetensors",
        lambda path: edit_weights(path, lambda s: s.update({"head.bias": s["head.bias"][:-1].clone()})),
        "another network",
    ),
    "weight not finite": (
        "model.safetensors",
        lambda path: edit_weights(path, lambda s: s["head.bias"].fill_(float("nan"))),
        "not finite",
    ),
    "other version": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c.update(version=99)),
        "version 99.*reads version 2",
    ),
    "no version": ("config.yaml", lambda path: path.write_text("- 1"), "version None"),
    "not yaml": ("config.yaml", lambda path: path.write_text("a: [1"), "not readable YAML"),
    "yaml that runs code": (
        "config.yaml",
        lambda path: path.write_text("!!python/object/apply:os.getcwd []"),
        "not readable YAML",
    ),
    "unknown backbone": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c.update(backbone="gone")),
        "unknown backbone 'gone'",
    ),
    "unknown option": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c["training"].update(epochs=1)),
        "training.epochs",
    ),
    "other network": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c["backbone_options"].update(width=32)),
        "another network",
    ),
    "odd constraints": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c.update(constraints={"frozen": 1})),
        "damaged",
    ),
    "constraints of another table": (
        "config.yaml",
        lambda path: edit_yaml(path, lambda c: c.update(constraints={"immutable": ["height"]})),
        "'height'",
    ),
    "not a schema": ("schema.json", lambda path: path.write_text("[]"), "damaged"),
    "half a schema": ("schema.json", lambda path: path.write_text(path.read_text()[:100]), "damaged"),
    "other columns": (
        "schema.json",
        lambda path: edit_json(path, lambda s: {"features": s["features"][:-1]}),
        "columns",
    ),
    "other bounds": (
        "schema.json",
        lambda path: edit_json(path, lambda s: s["features"][0].update(bounds=[0.0, 1.0])),
        "schema",
    ),
    "not a transform": ("transform.json", lambda path: path.write_text("{}"), "damaged"),
    "metrics cut short": ("metrics.json", lambda path: path.write_text('{"a": '), "damaged"),
    "auditor a pickle": ("auditor.skops", poison, "auditor"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_in_one_sentence(copy: Path, classifier: Pipeline, case: str) -> None:
    """Also where metrics.json says that the damage is meant to be there."""
    name, damage, sentence = DAMAGE[case]
    damage(copy / name)
    with pytest.raises(ValueError, match=f"(?s){sentence}|not the file that was saved"):
        RecourseGenerator.load(copy, classifier=classifier)
    if name != "metrics.json":
        reseal(copy)
    with pytest.raises(ValueError, match=sentence) as refusal:
        RecourseGenerator.load(copy, classifier=classifier)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["config.yaml", "schema.json", "transform.json", "model.safetensors", "metrics.json", "auditor.skops"]
)
def test_a_missing_file_is_named(copy: Path, classifier: Pipeline, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ValueError, match=name):
        RecourseGenerator.load(copy, classifier=classifier)


def test_a_folder_that_is_none(tmp_path: Path, classifier: Pipeline) -> None:
    with pytest.raises(ValueError, match="is not a saved generator"):
        RecourseGenerator.load(tmp_path / "nowhere", classifier=classifier)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fail(draft: Path) -> None:
        draft.write_text("half of i")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.replace_file(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
