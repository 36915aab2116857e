"""A user's own table: what is read is what was written, and one sentence for everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recourse_gen import data
from recourse_gen.data import tables


def refused(**given: Any) -> str:
    """The sentence with which `load` refuses: exactly one line."""
    with pytest.raises(ValueError) as error:
        data.load(**given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "income": rng.normal(50, 10, 40),
            "children": rng.integers(0, 4, 40),
            "owner": rng.random(40) < 0.5,
            "job": rng.choice(["cook", "clerk", "pilot"], 40),
            "approved": np.tile(["yes", "no", "no", "yes"], 10),
        }
    )


def save(frame: pd.DataFrame, folder: Path, **named: Any) -> Path:
    path = folder / "people.csv"
    frame.to_csv(path, index=False, **named)
    return path


@pytest.mark.parametrize("file", ["people.csv", "people.csv.gz", "people.parquet"])
def test_own_table_round_trip(people: pd.DataFrame, tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    if file.endswith("parquet"):
        people = people.astype({"job": "category", "children": "int16"})
        people.to_parquet(path)
    else:
        people.to_csv(path, index=False)
    given: dict[str, Any] = {
        "name": "csv",
        "path": str(path),
        "target": "approved",
        "target_class": "yes",
        "immutable": ["job"],
        "monotone": {"children": "increase"},
    }
    found = data.load(**{**given, "kinds": {"children": "categorical"}})
    back = pd.concat([found.train, found.test]).sort_index()
    pd.testing.assert_frame_equal(back, people.drop(columns="approved"))
    assert (found.y_train == (people["approved"][found.train.index] == "yes")).all()
    assert (found.y_test == (people["approved"][found.test.index] == "yes")).all()
    assert (found.immutable, found.kinds) == (("job",), {"children": "categorical"})
    assert found.monotone == {"children": "increase"}


@pytest.mark.parametrize(
    ("labels", "target_class", "favourable"),
    [
        ((0, 1), None, 1),
        ((False, True), None, True),
        ((0.0, 1.0), None, 1.0),
        ((0, 1), 0, 0),
        ((1, 2), "2", 2),
        ((False, True), "False", False),
        (("good", "bad"), "good", "good"),
    ],
)
def test_favourable_label(
    people: pd.DataFrame, tmp_path: Path, labels: tuple[Any, Any], target_class: Any, favourable: Any
) -> None:
    people["approved"] = np.array(labels)[np.arange(40) % 2]
    found = data.load("csv", path=save(people, tmp_path), target="approved", target_class=target_class)
    assert (found.y_train == (people["approved"][found.train.index] == favourable)).all()


def test_own_table_needs_path_and_target(people: pd.DataFrame, tmp_path: Path) -> None:
    path = save(people, tmp_path)
    for absent in (None, "???"):
        assert "'path'" in refused(name="csv", path=absent, target="approved")
        assert "'target'" in refused(name="csv", path=path, target=absent)
    assert "no file" in refused(name="csv", path=tmp_path / "gone.csv", target="approved")
    assert ".parquet" in refused(name="csv", path=tmp_path / "people.xlsx", target="approved")


def test_target_is_checked(people: pd.DataFrame, tmp_path: Path) -> None:
    given = {"name": "csv", "path": save(people, tmp_path), "target": "approved", "target_class": "yes"}
    assert all(repr(column) in refused(**{**given, "target": "class"}) for column in people.columns)
    assert "holds 3" in refused(**{**given, "target": "job"})
    for wrong in (None, "maybe"):
        sentence = refused(**{**given, "target_class": wrong})
        assert "'target_class'" in sentence
        assert "'yes'" in sentence
        assert "'no'" in sentence
    people.loc[[3, 7], "approved"] = None
    save(people, tmp_path)
    assert "'approved'" in refused(**given)
    assert "no value in 2 rows" in refused(**given)
    save(people.dropna()[["approved"]], tmp_path)
    assert "no column besides" in refused(**given)
    save(people.assign(approved="yes"), tmp_path)
    assert "holds 1" in refused(**given)


def test_features_are_checked(people: pd.DataFrame, tmp_path: Path) -> None:
    given = {"name": "csv", "path": tmp_path / "people.csv", "target": "approved", "target_class": "yes"}
    save(
        people.assign(job=people["job"].mask(people.index == 3), children=people["children"].where(people.index > 1)),
        tmp_path,
    )
    sentence = refused(**given)
    assert "missing" in sentence
    assert "'children', 'job'" in sentence
    assert "'income'" not in sentence
    save(people.assign(income=people["income"].where(people.index > 1, np.inf)), tmp_path)
    assert "infinite values in 'income'" in refused(**given)
    save(people.rename(columns={"children": "job"}), tmp_path)
    assert "more than one column named 'job'" in refused(**given)
    people.to_csv(tmp_path / "people.csv")
    assert "column 1 of" in refused(**given)
    assert "no name" in refused(**given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a,y\n", "too few rows (0)"),
        ("a,y\n1,0\n", "too few rows (1)"),
        ("a,y\n1,0\n2,1\n", "cannot be split"),
        ("a,y\n1,0\n2,1\n3,1\n4,1\n5,1\n", "1 of them with the rarer label"),
        ("a,y\n1,0,5\n2,1,6\n", "Expected 2 fields in line 2, saw 3"),
        ("a,y\n0,1,0\n1,2,1\n", "Expected 2 fields in line 2, saw 3"),
        ("a,y\n1,0\n2,1\n2,1,3,4\n", "cannot be read"),
    ],
)
def test_malformed_tables(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert said in refused(name="csv", path=path, target="y")


@pytest.mark.parametrize("file", ["table.csv", "table.csv.gz", "table.parquet"])
def test_unreadable_bytes(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"\xff\xfe\x00\x01" * 50)
    assert "cannot be read" in refused(name="csv", path=tmp_path / file, target="y")


def test_text_and_names_are_read_letter_for_letter(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("name,job,age\n007,NA,1\n8,null,2\n,1e3,3\n")
    frame = tables.read_table(path, text=["job", "absent"], names="name")
    assert frame["job"].tolist() == ["NA", "null", "1e3"]
    assert frame["name"].tolist()[:2] == ["007", "8"] and frame["name"].isna().tolist() == [False, False, True]
    path.write_text("name,age\n7,1\n-8,2\n0,3\n")
    assert tables.read_table(path, names="name")["name"].tolist() == [7, -8, 0]
