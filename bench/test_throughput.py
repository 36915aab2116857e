"""Rows per second of sampling and of the whole `generate` call, per backbone, on a synthetic table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from recourse_gen import RecourseGenerator, registry

BATCHES = (1, 200)
CANDIDATES = 10


@pytest.fixture(scope="module", params=registry.names())
def fitted(request: pytest.FixtureRequest) -> tuple[RecourseGenerator, pd.DataFrame]:
    """A generator trained for a few steps (speed does not depend on how well) and people to answer."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.integers(0, 40, (2000, 12)), columns=[f"x{i}" for i in range(12)])
    granted = (frame.sum(axis=1) > frame.sum(axis=1).median()).astype(int)
    classifier = LogisticRegression(max_iter=1000).fit(frame, granted)
    generator = RecourseGenerator(request.param, training={"steps": 5}).fit(frame, granted, classifier=classifier)
    return generator, frame[classifier.predict(frame) == 0]


@pytest.mark.parametrize("batch", BATCHES)
def test_generate(benchmark: Any, fitted: tuple[RecourseGenerator, pd.DataFrame], batch: int) -> None:
    generator, people = fitted
    people = people.iloc[:batch]
    found = benchmark(
        generator.generate, people, candidates=CANDIDATES, max_candidates=CANDIDATES, select="confident", audit=False
    )
    assert len(found.report) == batch
    benchmark.extra_info |= {"backbone": generator.backbone, "batch": batch, "candidates": CANDIDATES}
