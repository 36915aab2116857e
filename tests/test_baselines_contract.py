"""What every baseline promises, whatever its method."""

import importlib.util
from typing import Any

import numpy as np
import pandas as pd
import pytest
from worlds import world

from bench import baselines
from recourse_gen import Constraints, Schema, metrics
from recourse_gen.classifier import fit_classifier
from train import World

SMALL: dict[str, dict[str, Any]] = {
    "wachter": {"steps": 150},
    "roar": {"steps": 150, "samples": 100},
    "probe": {"steps": 150},
    "growing_spheres": {"samples": 100},
    "revise": {"steps": 150, "training_steps": 100},
    "cchvae": {"samples": 50, "training_steps": 100},
    "cruds": {"steps": 300, "training_steps": 100, "learning_rate": 0.1},
    "dice": {"iterations": 20},
    "forest": {"pairs": 200, "n_t": 5, "duplicate_K": 2, "n_estimators": 5},
}
PACKAGES = {"dice": "dice_ml", "forest": "ForestDiffusion"}


@pytest.fixture(scope="module")
def given(table: tuple[pd.DataFrame, np.ndarray], schema: Schema) -> World:
    network = fit_classifier("mlp", *table, schema=schema, seed=0, learning_rate_init=0.02)
    return world(*table, network, schema, Constraints(immutable=["region", "age"]))


def test_every_method_is_looked_at() -> None:
    assert set(SMALL) == set(baselines.names())


@pytest.mark.parametrize("name", SMALL)
def test_answers_are_rows_of_the_table_that_the_classifier_approves_of(given: World, name: str) -> None:
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    asked = given.denied.iloc[: 4 if name in PACKAGES else 12]  # packages go through people one by one
    before = asked.copy()
    method = baselines.load(name)(seed=0, **SMALL[name]).fit(given)
    answers = method.counterfactuals(asked)
    pd.testing.assert_frame_equal(asked, before)
    assert answers.index.equals(asked.index) and list(answers) == list(asked)
    found = metrics.answered(answers)
    assert found.mean() >= 0.5 and answers[~found].isna().all(axis=None)
    rows = metrics.restore_dtypes(answers[found], asked)
    assert (rows.dtypes == asked.dtypes).all()
    assert rows[["region", "age"]].equals(asked.loc[found, ["region", "age"]])
    assert (given.classifier.predict_proba(rows)[:, 1] > 0.5).all()
    assert not metrics.misfits(asked, answers, given.schema).any()
    numbers = rows.drop(columns=["job", "owner", "region"])
    assert ((numbers >= given.train[list(numbers)].min()) & (numbers <= given.train[list(numbers)].max())).all(
        axis=None
    )
    assert (metrics.cost(asked[found], rows, given.schema) > 0).all()
    nobody = method.counterfactuals(asked.iloc[:0])
    assert len(nobody) == 0 and list(nobody) == list(asked)
    pd.testing.assert_frame_equal(
        baselines.load(name)(seed=0, **SMALL[name]).fit(given).counterfactuals(asked), answers
    )
