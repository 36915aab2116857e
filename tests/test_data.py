"""Data sets: recipes against published counts and cells, splits, and one sentence for every bad option or file."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from recourse_gen import data
from recourse_gen.data import benchmarks

REPOSITORY = Path(__file__).parents[1]
PAPER = REPOSITORY.parent / "shared" / "data"
needs_package = pytest.mark.skipif(importlib.util.find_spec("teacher") is None, reason="teacher-xai is not installed")
needs_paper = pytest.mark.skipif(not PAPER.is_dir(), reason="the paper's CSV files are not here")


def options(name: str) -> dict[str, Any]:
    """What `train.py data=NAME` passes to `load`."""
    settings = yaml.safe_load((REPOSITORY / "configs" / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(settings.pop("relabel"), bool)
    assert isinstance(settings.pop("balanced"), bool)
    return settings


def all_rows(dataset: data.Dataset, label: str = "label") -> pd.DataFrame:
    """Both halves with their labels, sorted by every column: equal iff the multisets of rows are equal."""
    whole = pd.concat(
        [dataset.train.assign(**{label: dataset.y_train}), dataset.test.assign(**{label: dataset.y_test})]
    )
    return whole.sort_values(list(whole.columns)).reset_index(drop=True)


def refused(**given: Any) -> str:
    """The sentence with which `load` refuses: exactly one line."""
    with pytest.raises(ValueError) as error:
        data.load(**given)
    assert "\n" not in str(error.value)
    return str(error.value)


# The benchmark sets


def test_every_data_set_has_a_configuration() -> None:
    assert sorted(data.names()) == sorted(path.stem for path in (REPOSITORY / "configs" / "data").glob("*.yaml"))
    assert all(options(name)["name"] == name for name in data.names())


@needs_package
@pytest.mark.parametrize(
    ("name", "rows", "columns", "text_columns", "favourable"),
    [
        ("heloc", 9871, 21, 0, 4735),
        ("compas", 6172, 7, 3, 5028),
        ("adult", 32561, 13, 7, 7841),
        ("german", 1000, 20, 13, 700),
    ],
)
def test_benchmark_has_the_published_size(
    name: str, rows: int, columns: int, text_columns: int, favourable: int
) -> None:
    found = data.load(**options(name))
    whole = pd.concat([found.train, found.test])
    assert whole.shape == (rows, columns)
    assert found.y_train.sum() + found.y_test.sum() == favourable
    assert len(found.test) == np.ceil(rows / 4)
    assert not whole.isna().any(axis=None)
    assert whole.select_dtypes(exclude="number").shape[1] == text_columns
    assert (whole.select_dtypes("number").dtypes == np.int64).all()


@needs_package
def test_adult_keeps_its_categories() -> None:
    found = data.load("adult")
    levels = pd.concat([found.train, found.test]).nunique()
    assert (levels["workclass"], levels["occupation"], levels["native-country"]) == (8, 14, 41)
    assert not (found.train == "?").any(axis=None)


def test_adult_fills_a_question_mark_with_the_previous_row() -> None:
    raw = pd.DataFrame({column: ["a", "?", "?", "b"] for column in benchmarks.PAPER_COLUMNS["adult"]})
    features, y = benchmarks.adult(raw.assign(**{"class": ["<=50K", ">50K", ">50K", "<=50K"]}))
    assert features["occupation"].tolist() == ["a", "a", "a", "b"]
    assert y.tolist() == [0, 1, 1, 0]


@needs_package
@needs_paper
@pytest.mark.parametrize(("name", "special"), [("compas", {}), ("heloc", {"impute": "class_mean"})])
def test_recipe_gives_the_papers_cells(name: str, special: dict[str, Any]) -> None:
    ours, published = all_rows(data.load(name, **special)), all_rows(data.load(name, folder=str(PAPER)))
    pd.testing.assert_frame_equal(ours, published, rtol=1e-12)


@needs_paper
@pytest.mark.parametrize(
    ("name", "sizes"), [("adult", (36624, 12208)), ("compas", (4629, 1543)), ("heloc", (7403, 2468))]
)
def test_folder_keeps_the_papers_split(name: str, sizes: tuple[int, int]) -> None:
    found = data.load(**{**options(name), "folder": PAPER, "seed": 3})
    assert (len(found.train), len(found.test)) == sizes
    assert list(found.train.columns) == benchmarks.PAPER_COLUMNS[name] == list(found.test.columns)
    assert (found.train.dtypes == found.test.dtypes).all()
    for part, y in (("train", found.y_train), ("test", found.y_test)):
        published = pd.read_csv(PAPER / f"{name}_{part}.csv")
        assert (published.pop(benchmarks.PAPER_LABELS[name]).to_numpy() == y).all()
        assert (published[found.train.columns].to_numpy() == getattr(found, part).to_numpy()).all()


def test_median_imputing_by_hand() -> None:
    train = pd.DataFrame({"a": [1, 2, 5, 9, -8, -7], "b": [-9, 4, 4, 6, 0, 2]})
    test = pd.DataFrame({"a": [-7, -9, 100], "b": [-7, -8, 3]})
    filled, filled_test = benchmarks.impute_median(train, test)
    assert filled["a"].tolist() == [1, 2, 5, 9, 2, 9]
    assert filled["b"].tolist() == [4, 4, 4, 6, 0, 2]
    assert filled_test["a"].tolist() == [9, 2, 100]
    assert filled_test["b"].tolist() == [6, 4, 3]
    assert (filled.dtypes == np.int64).all()
    assert (filled_test.dtypes == np.int64).all()


def test_class_mean_imputing_by_hand() -> None:
    frame = pd.DataFrame({"a": [1, 2, -8, 9, -8, -7], "b": [3, -9, 3, 5, 5, 5]})
    filled = benchmarks.impute_class_mean(frame, np.array([0, 0, 0, 1, 1, 1]))
    assert filled["a"].tolist() == [1, 2, 1.5, 9, 9, 9]
    assert filled["b"].tolist() == [3, 3, 3, 5, 5, 5]
    assert filled["a"].dtype == np.float64
    assert filled["b"].dtype == np.int64


# Splits


@pytest.mark.parametrize("name", ["moons", "circles", "corr"])
def test_synthetic_sets(name: str) -> None:
    found = data.load(**options(name))
    assert list(found.train.columns) == ["x1", "x2"]
    assert (len(found.train), len(found.test)) == (1500, 500)
    assert 0.4 < found.y_train.mean() < 0.6
    assert len(data.load(name, n_rows=80, test_size=0.5).test) == 40


def test_corr_follows_its_definition() -> None:
    found = data.load("corr", n_rows=20_000)
    x1, x2 = found.train["x1"].to_numpy(), found.train["x2"].to_numpy()
    assert (np.sign(x1) == np.sign(x2)).all()
    assert (np.abs(x2) <= np.abs(np.tanh(20 * x1)) / 2).all()
    probability = 1 / (1 + np.exp(-2 * x2 - 120 * x1**3))
    standard_error = np.sqrt((probability * (1 - probability)).sum()) / len(x1)
    assert abs(found.y_train.mean() - probability.mean()) < 5 * standard_error + 1 / len(x1)
    assert found.y_train[probability > 0.9].mean() > 0.9 > 0.1 > found.y_train[probability < 0.1].mean()


@pytest.mark.parametrize("name", ["moons", "corr", pytest.param("german", marks=needs_package)])
def test_the_seed_decides_the_split(name: str) -> None:
    one, same, other = (data.load(name, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.train, same.train)
    pd.testing.assert_frame_equal(one.test, same.test)
    assert (one.y_train == same.y_train).all()
    assert (one.y_test == same.y_test).all()
    assert not one.train.equals(other.train)


@pytest.mark.parametrize("name", ["circles", pytest.param("heloc", marks=needs_package)])
def test_split_is_disjoint_complete_and_stratified(name: str) -> None:
    found = data.load(name)
    index = found.train.index.append(found.test.index)
    assert index.is_unique
    assert len(index) == len(found.y_train) + len(found.y_test)
    assert found.y_train.dtype == found.y_test.dtype == np.int64
    assert abs(found.y_train.mean() - found.y_test.mean()) < 1e-3


def test_dataset_is_frozen() -> None:
    found = data.load("moons", n_rows=20)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]


# One sentence for everything that is wrong


def test_unknown_names_and_options_list_what_exists() -> None:
    assert all(name in refused(name="helok") for name in data.names())
    sentence = refused(name="heloc", imputation="median")
    assert "'imputation'" in sentence
    assert "impute" in sentence
    assert "test_size" in sentence
    assert "'path' is unknown for data set 'moons'" in refused(name="moons", path="a.csv")
    assert "'impute' is unknown for data set 'compas'" in refused(name="compas", impute="class_mean")
    assert "median, class_mean" in refused(name="heloc", impute="mode")
    for share in (0, 1, 1.5, "half", True):
        assert "'test_size'" in refused(name="moons", test_size=share)
    for count in (1, 0, 10.5, "many"):
        assert "'n_rows'" in refused(name="moons", n_rows=count)
    assert "'immutable' names 'age'; the columns are 'x1', 'x2'" in refused(name="moons", immutable=["age"])
    assert "'monotone' names 'age'" in refused(name="moons", monotone={"age": "increase"})
    assert "'kinds' names 'age'" in refused(name="moons", kinds={"age": "ordinal"})
    assert "[x1]" in refused(name="moons", immutable="x1")


def test_missing_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentence = refused(name="heloc")
    assert 'pip install "recourse-gen[data]"' in sentence
    assert 'pip install -e ".[data]" -c constraints.txt' in sentence


def test_changed_or_missing_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.machinery.ModuleSpec("teacher", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    sentence = refused(name="german")
    assert "missing" in sentence
    assert "teacher-xai==1.0.1" in sentence
    path = tmp_path / "datasets" / "data" / "german_credit.csv"
    path.parent.mkdir(parents=True)
    path.write_text("default,age\n0,30\n1,40\n")
    sentence = refused(name="german")
    assert "sha256" in sentence
    assert "teacher-xai==1.0.1" in sentence


@needs_package
def test_the_package_is_not_imported() -> None:
    data.load("german")
    assert "teacher" not in sys.modules


def test_folder_is_checked(tmp_path: Path) -> None:
    assert "not a folder" in refused(name="heloc", folder=tmp_path / "nowhere")
    assert "heloc, compas, adult" in refused(name="german", folder=tmp_path)
    assert "no file" in refused(name="compas", folder=tmp_path)
    columns = [*benchmarks.PAPER_COLUMNS["compas"], "score"]
    frame = pd.DataFrame(np.ones((4, 8), int), columns=columns)
    frame.to_csv(tmp_path / "compas_test.csv", index=False)
    for wrong, said in (
        (frame.drop(columns="race"), "expected are"),
        (frame.assign(extra=1), "'extra'"),
        (frame.astype(float).assign(age=np.nan), "missing values"),
        (frame.assign(score=2), "'score'"),
    ):
        wrong.to_csv(tmp_path / "compas_train.csv", index=False)
        assert said in refused(name="compas", folder=tmp_path)
