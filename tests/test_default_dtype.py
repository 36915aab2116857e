"""What PyTorch makes numbers by default is the caller's choice, and changes no answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recourse_gen import Constraints, RecourseGenerator

RULES = Constraints(max_changes=2, immutable=["age"])
CASES: dict[str, tuple[str, str, str]] = {  # backbone, pairs.method, schema.tokenize
    "ar": ("ar", "exact", "auto"),
    "ar from pools": ("ar", "pooled", "none"),
    "flow": ("flow", "exact", "none"),
    "flow on tokens": ("flow", "exact", "all"),
    "diffusion": ("diffusion", "exact", "none"),
    "exact": ("exact", "exact", "none"),
    "nearest": ("nearest", "exact", "all"),
}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_answers_are_the_same_to_the_bit(case: str, table: Any, classifier: Any, denied: Any, tmp_path: Path) -> None:
    backbone, method, tokenize = CASES[case]
    numbers = {"schema": {"tokenize": tokenize}, "pairs": {"top_k": 50, "method": method}}
    training = {"steps": 3, "batch_size": 32, "validation_pairs": 32}

    def answers(dtype: torch.dtype) -> pd.DataFrame:
        torch.set_default_dtype(dtype)
        generator = RecourseGenerator(backbone, training=training, audit={"n_estimators": 4, "n_jobs": 1}, **numbers)
        generator.fit(*table, classifier=classifier)
        folder = generator.save(tmp_path / str(dtype))
        torch.set_default_dtype(torch.float16 if dtype == torch.float64 else dtype)
        found = RecourseGenerator.load(folder, classifier=classifier).generate(denied[:8], candidates=8)
        few = generator.generate(denied[:8], candidates=8, constraints=RULES)
        return pd.concat([found.report, few.report])

    usual, other = answers(torch.float32), answers(torch.float64)
    pd.testing.assert_frame_equal(usual, other, check_exact=True)
    assert torch.get_default_dtype() == torch.float16, "it is left alone"
    assert (usual["status"] == "ok").any()


def test_a_classifier_may_compute_in_float64() -> None:
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 2)), columns=["a", "b"])
    module = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(module.weight, 9.0)
    generator = RecourseGenerator("exact", pairs={"top_k": 20}, audit={"n_estimators": 4, "n_jobs": 1}).fit(
        frame, classifier=module
    )
    found = generator.generate(frame[(frame["a"] + frame["b"]) < -0.5].iloc[:5])
    assert (found.report["status"] == "ok").all()
    due = torch.sigmoid(module(torch.tensor(found.to_frame().to_numpy()))[:, 0])
    np.testing.assert_allclose(found.report["probability"], due.detach().numpy(), rtol=1e-12)
