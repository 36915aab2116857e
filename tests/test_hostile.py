"""A run folder that somebody made to do harm is refused: nothing runs, nothing is read elsewhere, nothing is used up.

Whoever makes one can also write the digests that go with it, so every folder here is sealed again.
"""

import json
import os
import pickle
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from recourse_gen import RecourseGenerator
from recourse_gen.classifier import fit_classifier
from tests.archives import alter, doubled, edit_schema
from tests.sealing import reseal

Table = tuple[pd.DataFrame, np.ndarray]
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def saved(fitted: RecourseGenerator, table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    classifier = fit_classifier("logistic", *table, schema=fitted.schema, seed=0)
    return fitted.save(tmp_path_factory.mktemp("saved") / "run", classifier=classifier)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    """No case takes much memory or time."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 700, f"{grown:.0f} MiB more than before"
    assert time.monotonic() - started < 60


class Trap:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


def config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    return damage


def options(**changes: Any) -> Damage:
    """Other options of the network."""
    small = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "bins": 16}
    return config(backbone_options={**small, **changes})


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def features(change: Callable[[list[dict[str, Any]]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        state = json.loads((folder / "schema.json").read_text())
        change(state["features"])
        (folder / "schema.json").write_text(json.dumps(state))
        transform = json.loads((folder / "transform.json").read_text())
        transform["columns"] = [feature["name"] for feature in state["features"]]
        (folder / "transform.json").write_text(json.dumps(transform))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def header(content: bytes, length: int | None = None) -> Damage:
    """A file of weights that begins like this."""
    size = (len(content) if length is None else length).to_bytes(8, "little")
    return lambda folder: (folder / "model.safetensors").write_bytes(size + content + bytes(64))


def pickled(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Trap()))


def many_zeros(folder: Path) -> None:
    zeros = bytes(2**24)
    with zipfile.ZipFile(folder / "auditor.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(17):
            archive.writestr(f"{i}.npy", zeros)


def in_place_of(name: str, make: Callable[[Path], Any]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def outside(path: Path) -> None:
    """A link to a perfectly good file elsewhere."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_text("version: 2\n")
    path.symlink_to(elsewhere)


def other_classes(tree: dict[str, Any]) -> None:
    forest = tree["content"]["models"]["content"][1]
    forest["content"]["content"]["n_classes_"]["content"] = "1000000000"


ALIASES = "a: &a [x,x]\n" + "\n".join(
    f"{b}: &{b} [*{a},*{a}]" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

HARM: dict[str, tuple[Damage, str]] = {
    "an import path for a backbone": (config(backbone="os:system"), "unknown backbone 'os:system'"),
    "a path for a backbone": (config(backbone="../../evil"), "unknown backbone '../../evil'"),
    "YAML that makes objects": (text("config.yaml", "!!python/object/apply:os.getcwd []"), "not readable YAML"),
    "YAML of aliases": (text("config.yaml", ALIASES), "not readable YAML"),
    "deep YAML": (text("config.yaml", "[" * 100_000), "not readable YAML"),
    "long YAML": (text("config.yaml", "# " + "x" * 2**21), "larger than the 1 MiB"),
    "deep schema": (text("schema.json", DEEP), "damaged"),
    "deep transform": (text("transform.json", DEEP), "damaged"),
    "a very wide network": (options(width=10**9), "backbone.width=1000000000 is more than"),
    "a wide network": (options(width=60_000), "far larger than its weights"),
    "a deep network": (options(decoder_layers=60_000), "far larger than its weights"),
    "many bins": (options(bins=10**9), "backbone.bins=1000000000 is more than"),
    "bins beyond number": (options(bins=float("inf")), "describes no network|bins"),
    "a vast seed": (config(seed=10**40), "no generator has the seed"),
    "a chain of ordered columns": (
        config(constraints={"ordered": [[f"a{i}", f"a{i + 1}"] for i in range(2000)]}),
        "at most 100 pairs",
    ),
    "many columns": (
        features(lambda all_: all_.extend({**all_[0], "name": f"x{i}"} for i in range(5000))),
        "5007 columns",
    ),
    "many levels": (features(lambda all_: all_[3].update(levels=[f"l{i}" for i in range(50_000)])), "50000 levels"),
    "levels that are a number": (features(lambda all_: all_[3].update(levels=10**9)), "not a schema"),
    "levels in levels": (features(lambda all_: all_[3].update(levels=[[[]]])), "damaged"),
    "a dtype of a gigabyte": (features(lambda all_: all_[3].update(dtype="U268435456")), "is no dtype"),
    "a dtype of many numbers": (features(lambda all_: all_[0].update(dtype="(100000,100000)f8")), "is no dtype"),
    "categories of a gigabyte": (
        text(
            "transform.json",
            json.dumps({"columns": ["income", "savings", "late", "job", "owner", "region", "age"]})[:-1]
            + ', "categories": {"region": {"categories": ["a"], "dtype": "U268435456", "ordered": false}}}',
        ),
        "is no dtype",
    ),
    "a header beyond the file": (header(b"{}", 2**60), "as many tensors as it declares"),
    "a header that never ends": (header(b" " * 2**24), "as many tensors as it declares"),
    "vast tensors": (header(b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,64]}}'), "damaged"),
    "tensors of nothing": (
        header(b'{"a":{"dtype":"F32","shape":[9000000000000000000,0],"data_offsets":[0,0]}}'),
        "damaged|another network",
    ),
    "a deep header": (header(DEEP.encode()), "damaged"),
    "a pickle for weights": (pickled("model.safetensors"), "damaged"),
    "a pickle for an auditor": (pickled("auditor.skops"), "not an auditor file"),
    "a pickle for a classifier": (pickled("classifier.skops"), "holds no classifier"),
    "an auditor of other types": (
        lambda folder: skops.io.dump([Path("x")], folder / "auditor.skops"),
        "holds types that an auditor never has",
    ),
    "a classifier without end": (
        lambda folder: skops.io.dump(
            make_pipeline(PolynomialFeatures(60), LogisticRegression()), folder / "classifier.skops"
        ),
        "classifier.skops holds types that it never has.*PolynomialFeatures",
    ),
    "an archive of zeros": (many_zeros, "unpacks to far more"),
    "an archive of names": (
        lambda folder: alter(folder / "auditor.skops", edit_schema(lambda state: state.update(doubled(60)))),
        "not an auditor file",
    ),
    "an auditor that cannot answer": (
        lambda folder: alter(folder / "auditor.skops", edit_schema(other_classes)),
        "models that cannot answer",
    ),
    "a link out of the folder": (in_place_of("config.yaml", outside), "a link out of its folder"),
    "a link to a device": (in_place_of("config.yaml", lambda path: path.symlink_to("/dev/zero")), "a link out of its"),
    "a pipe": (in_place_of("model.safetensors", os.mkfifo), "not a regular file"),
    "a folder": (in_place_of("schema.json", os.mkdir), "not a regular file"),
    "a file of holes": (
        lambda folder: os.truncate(folder / "model.safetensors", 2**40),
        "larger than the 2048 MiB",
    ),
}


@pytest.mark.parametrize("case", HARM)
def test_harm_is_refused_in_one_sentence(copy: Path, case: str) -> None:
    damage, sentence = HARM[case]
    damage(copy)
    reseal(copy)
    with pytest.raises(ValueError, match=sentence) as refusal:
        RecourseGenerator.load(copy)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_metrics_without_end_are_refused(copy: Path) -> None:
    (copy / "metrics.json").write_text(DEEP)
    with pytest.raises(ValueError, match="damaged"):
        RecourseGenerator.load(copy)


def test_digests_name_no_other_files(copy: Path) -> None:
    """A name among them that leads elsewhere is not followed: opening this pipe would wait forever."""
    os.mkfifo(copy.parent / "pipe")
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["files"] |= {"../pipe": "0" * 64, str(copy.parent / "pipe"): "0" * 64}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert RecourseGenerator.load(copy).classifier is not None


@pytest.mark.parametrize("name", ["config.yaml", "schema.json", "transform.json", "model.safetensors", "auditor.skops"])
def test_any_altered_byte_is_found(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 20):
        altered = bytearray(whole)
        altered[at] ^= 1
        (copy / name).write_bytes(altered)
        with pytest.raises(ValueError):
            RecourseGenerator.load(copy)
    (copy / name).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="not the file that was saved|damaged|readable"):
        RecourseGenerator.load(copy)
    (copy / name).write_bytes(whole)
    RecourseGenerator.load(copy)
