"""Models keep their answers in a file without pickle, and what a file may hold is looked at before compiled code is."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from recourse_gen import Schema, estimators
from recourse_gen.classifier import CLASSIFIERS, fit_classifier
from recourse_gen.files import read
from tests.archives import alter, doubled, edit_arrays, edit_schema

Table = tuple[pd.DataFrame, np.ndarray]
POINTS = np.random.default_rng(0).random((200, 3))
LABELS = (POINTS.sum(1) > 1.5).astype(int)


def refused(path: Path, sentence: str, *, own: bool = False) -> None:
    with pytest.raises(ValueError, match=sentence):
        estimators.load(read(path, estimators.LIMIT), own=own)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_classifiers_of_train_py_answer_the_same(name: str, table: Table, schema: Schema, tmp_path: Path) -> None:
    frame, target = table
    options = {"n_estimators": 5} if name == "random_forest" else {"max_iter": 5}
    model = fit_classifier(name, frame, target, schema=schema, seed=0, **options)
    estimators.save(model, tmp_path / "model.skops")
    again = estimators.load((tmp_path / "model.skops").read_bytes(), own=True)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))


@pytest.mark.parametrize("model", [ExtraTreesClassifier(3), GradientBoostingClassifier(n_estimators=3), SVC()])
def test_other_models_are_loaded_for_their_owner_alone(model: Any, tmp_path: Path) -> None:
    """Whoever names a file may load any model that skops trusts; a run folder holds what this package puts there."""
    path = tmp_path / "model.skops"
    skops.io.dump(model.fit(POINTS, LABELS), path)
    np.testing.assert_array_equal(estimators.load_classifier(path).predict(POINTS), model.predict(POINTS))
    with pytest.raises(estimators.ForeignTypesError):
        estimators.load(path.read_bytes(), own=True)
    with pytest.raises(estimators.ForeignTypesError):
        estimators.save(model, tmp_path / "own.skops")
    assert not (tmp_path / "own.skops").exists()


class Stranger:
    pass


def test_types_that_nobody_trusts_are_named(tmp_path: Path) -> None:
    skops.io.dump([Stranger()], tmp_path / "model.skops")
    with pytest.raises(ValueError, match=r"model\.skops holds types that are not trusted, and is refused: .*Stranger"):
        estimators.load_classifier(tmp_path / "model.skops")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    skops.io.dump(DecisionTreeClassifier().fit(POINTS, LABELS), tmp_path / "tree.skops")
    return tmp_path / "tree.skops"


@pytest.fixture
def boosting(tmp_path: Path) -> Path:
    model = HistGradientBoostingClassifier(max_iter=3, early_stopping=False).fit(POINTS, LABELS)
    skops.io.dump(model, tmp_path / "boosting.skops")
    return tmp_path / "boosting.skops"


def put(field: str, value: int) -> Callable[[np.ndarray], None]:
    def change(nodes: np.ndarray) -> None:
        nodes[field][0] = value

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_child", 0),
        ("right_child", 0),
        ("left_child", 10**9),
        ("right_child", -7),
        ("feature", 3),
        ("feature", -9),
    ],
)
def test_a_tree_that_leads_nowhere_is_refused(tree: Path, field: str, value: int) -> None:
    """Its walk would not end, or read somebody else's memory."""
    alter(tree, edit_arrays("left_child", put(field, value)))
    refused(tree, "leads out of itself")


@pytest.mark.parametrize(
    ("field", "value"), [("left", 0), ("right", 10**9), ("feature_idx", 3), ("feature_idx", -1), ("is_categorical", 1)]
)
def test_so_is_one_of_boosting(boosting: Path, field: str, value: int) -> None:
    alter(boosting, edit_arrays("feature_idx", put(field, value)))
    refused(boosting, "splits by categories" if field == "is_categorical" else "leads out of itself")


@pytest.mark.parametrize(
    ("where", "value"), [(("n_features_in_",), "4"), (("tree_", "content", "content", "node_count"), "1")]
)
def test_a_tree_of_other_columns_or_nodes_than_it_says_is_refused(
    tree: Path, where: tuple[str, ...], value: str
) -> None:
    def change(node: dict[str, Any]) -> None:
        for name in ("content", "content", *where):
            node = node[name]
        node["content"] = value

    alter(tree, edit_schema(change))
    refused(tree, "other columns or nodes")


def test_trees_outside_of_models_are_refused(tmp_path: Path) -> None:
    skops.io.dump({"a": DecisionTreeClassifier().fit(POINTS, LABELS).tree_}, tmp_path / "loose.skops")
    refused(tmp_path / "loose.skops", "outside of the models")


def zip_of(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def test_archives_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.skops"
    zeros = bytes(2**24)
    zip_of(path, {f"{i}.npy": zeros for i in range(17)})
    assert path.stat().st_size < 2**19
    refused(path, "unpacks to far more than its size")
    # Whoever lies about the size gets no more than what was said.
    zip_of(path, {"0.npy": zeros})
    path.write_bytes(path.read_bytes().replace((2**24).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(path, "BadZipFile|KeyError|Error")
    zip_of(path, {"0.npy": zeros}, zipfile.ZIP_LZMA)
    refused(path, "compressed in another way")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.npy", b"")
    zip_of(path, {"schema.json": b"{}", "a.npz": inner.getvalue()})
    refused(path, "another archive")


def test_objects_that_name_each_other_are_refused(tmp_path: Path) -> None:
    """In a few lines they would stand for more lists than there is time to look at."""
    path = tmp_path / "model.skops"
    skops.io.dump([1], path)
    alter(path, edit_schema(lambda state: state.update(doubled(60))))
    refused(path, "KeyError")


def test_a_deep_file_is_refused(tmp_path: Path) -> None:
    zip_of(tmp_path / "deep.skops", {"schema.json": b'{"content":' * 100_000 + b"1" + b"}" * 100_000})
    refused(tmp_path / "deep.skops", "RecursionError")
