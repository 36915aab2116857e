"""A generator goes to the Hub and comes back as from a folder, with a card that says what it is."""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelHubMixin
from sklearn.pipeline import Pipeline

from recourse_gen import RecourseGenerator, Schema, checkpoint

FEW: dict[str, Any] = {"candidates": 16, "max_candidates": 32, "cost_weight": 5.0}


@pytest.fixture
def shared(fitted: RecourseGenerator, tmp_path: Path) -> Path:
    fitted.save_pretrained(tmp_path / "credit")
    return tmp_path / "credit"


def in_cache(folder: Path, cache: Path) -> Path:
    """The folder as a repository "somebody/credit" that was downloaded: a tree of links to files named by content."""
    repository = cache / "models--somebody--credit"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    for place in (snapshot, blobs, repository / "refs"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    for i, path in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(path, blobs / str(i))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    return cache


def test_what_a_folder_gives_is_what_was_fitted(
    fitted: RecourseGenerator, shared: Path, denied: pd.DataFrame, classifier: Pipeline
) -> None:
    assert isinstance(fitted, ModelHubMixin)
    again = RecourseGenerator.from_pretrained(shared, classifier=classifier)
    people = denied.iloc[:10]
    pd.testing.assert_frame_equal(again.generate(people, **FEW).to_frame(), fitted.generate(people, **FEW).to_frame())


def test_a_repository_gives_the_same_without_a_network(
    fitted: RecourseGenerator, shared: Path, denied: pd.DataFrame, classifier: Pipeline, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cache_dir": in_cache(shared, tmp_path / "cache"), "local_files_only": True}
    again = RecourseGenerator.from_pretrained("somebody/credit", classifier=classifier, **options)
    people = denied.iloc[:10]
    pd.testing.assert_frame_equal(again.generate(people, **FEW).to_frame(), fitted.generate(people, **FEW).to_frame())


def test_a_repository_is_trusted_no_more_than_a_folder(shared: Path, classifier: Pipeline, tmp_path: Path) -> None:
    (shared / "model.safetensors").write_bytes(b"another")
    options: dict[str, Any] = {"cache_dir": in_cache(shared, tmp_path / "cache"), "local_files_only": True}
    with pytest.raises(ValueError, match="is damaged"):
        RecourseGenerator.from_pretrained("somebody/credit", classifier=classifier, **options)


def test_the_folder_is_that_of_save_and_a_card(fitted: RecourseGenerator, shared: Path, tmp_path: Path) -> None:
    saved = {path.name for path in fitted.save(tmp_path / "saved").iterdir()}
    assert {path.name for path in shared.iterdir()} == saved | {"README.md"}


def test_a_finished_folder_is_not_overwritten(fitted: RecourseGenerator, shared: Path) -> None:
    before = {path.name: path.read_bytes() for path in shared.iterdir()}
    with pytest.raises(ValueError, match="already holds a finished run"):
        fitted.save_pretrained(shared)
    assert {path.name: path.read_bytes() for path in shared.iterdir()} == before


def test_the_card_has_metadata_and_every_part(fitted: RecourseGenerator, shared: Path, schema: Schema) -> None:
    _, metadata, text = (shared / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(metadata)
    assert about["library_name"] == "recourse-gen"
    assert "algorithmic-recourse" in about["tags"]
    headings = re.findall("^## (.*)$", text, re.MULTILINE)
    assert headings == ["Intended use", "Limits", "Data", "Constraints", "Training", "Measures"]
    for feature in schema.features:
        assert f"- {feature.name}: {feature.kind}" in text
    assert f"{fitted.summary['training_factuals']} factuals" in text
    assert f"{fitted.auditor.training_rows} training rows" in text
    assert "Nothing was measured." in text


def test_the_card_tells_measures_and_survives_loading(
    fitted: RecourseGenerator, tmp_path: Path, classifier: Pipeline
) -> None:
    generator = RecourseGenerator.load(fitted.save(tmp_path / "run"), classifier=classifier)
    generator.summary |= {"lead": 0.125, "cost": 0.5, "nearest": {"cost": 0.75}, "data": "adult", "judge": "a forest"}
    text = (
        RecourseGenerator.load(generator.save(tmp_path / "measured"), classifier=classifier).generate_model_card().text
    )
    assert "| lead | 0.125 |  |" in text
    assert "| cost | 0.5 | 0.75 |" in text
    assert "adult, 7 columns" in text
    assert "Judged by: a forest." in text


def test_names_cannot_write_into_the_card(table: Any, small: dict[str, Any], tmp_path: Path) -> None:
    hostile = "x\n## Measures\n<script>[a](b)|"
    frame = pd.DataFrame({hostile: range(60), "job": ["a", "b"] * 30})
    small = {**small, "schema": {}, "pairs": {"top_k": 5}}
    generator = RecourseGenerator(**small).fit(
        frame, (frame[hostile] > 30).astype(int), classifier=lambda people: (people[hostile] > 30) * 0.8 + 0.1
    )
    text = generator.generate_model_card().text
    assert text.count("\n## Measures") == 1
    assert not re.search(
        r"(?<!\\)[<|\[]", text.replace("| --- |", "").partition("## Data")[2].partition("## Constraints")[0]
    )


def test_what_is_not_fitted_has_no_card(small: dict[str, Any], tmp_path: Path) -> None:
    generator = RecourseGenerator(**small)
    with pytest.raises(ValueError, match="not fitted"):
        generator.generate_model_card()
    with pytest.raises(ValueError, match="not fitted"):
        generator.save_pretrained(tmp_path / "nothing")


def test_a_folder_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=checkpoint.CONFIG):
        RecourseGenerator.from_pretrained(tmp_path)
