"""What `save`, `fit` and `load` refuse of a caller, and backbones that a file does not hold as they are."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import Pipeline

from recourse_gen import RecourseGenerator, checkpoint
from tests.stubs import Stub

Table = tuple[pd.DataFrame, np.ndarray]


@pytest.fixture(scope="module")
def saved(fitted: RecourseGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder to write into."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.mark.parametrize("device", [torch.float64, "meta", "gpu", "cuda:99", 7, [], True])
def test_a_device_that_is_none_is_refused(copy: Path, classifier: Pipeline, device: Any) -> None:
    with pytest.raises(ValueError, match="^device must be one that is here, such as 'cpu', got "):
        RecourseGenerator.load(copy, classifier=classifier, device=device)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_that_is_there_is_taken(copy: Path, classifier: Pipeline, device: Any) -> None:
    model = RecourseGenerator.load(copy, classifier=classifier, device=device).model
    assert {(value.device.type, value.dtype) for value in model.parameters()} == {("cpu", torch.float32)}


def test_tied_parameters_are_saved_and_stay_tied(schema: Any, tmp_path: Path) -> None:
    class Tied(Stub):
        def __init__(self) -> None:
            super().__init__(schema, lambda factual, **options: factual)
            self.one = self.other = torch.nn.Parameter(torch.zeros(3))

    before, after = Tied(), Tied()
    before.one.data = torch.tensor([1.0, 2.0, 3.0])
    checkpoint.write_weights(tmp_path, before)
    checkpoint.read_weights(tmp_path, after)
    assert after.one is after.other
    assert after.one.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_is_a_file_is_named(
    fitted: RecourseGenerator, table: Table, classifier: Pipeline, small: dict[str, Any], tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / below
    for write in (
        lambda: fitted.save(place),
        lambda: RecourseGenerator(**small).fit(*table, classifier=classifier, folder=place),
    ):
        with pytest.raises(OSError, match=f"^{place} cannot be written: (File exists|Not a directory)$"):
            write()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"overwrite": "no"}, "overwrite must be true or false"), ({"run": [1]}, r"run must map settings .*got \[1\]")],
)
def test_wrong_options_leave_the_run_before(
    fitted: RecourseGenerator, copy: Path, options: dict[str, Any], sentence: str
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match=sentence):
        fitted.save(copy, **options)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
