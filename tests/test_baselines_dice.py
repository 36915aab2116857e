"""DiCE through its package: approved rows of the table's kind, immutables kept."""

import random

import numpy as np
import pandas as pd
import pytest
from worlds import clusters, linear, world

from bench.baselines.dice import Dice
from recourse_gen import Constraints, metrics
from recourse_gen.classifier import fit_classifier

pytest.importorskip("dice_ml")


@pytest.mark.parametrize("method", ["genetic", "random", "kdtree"])
def test_answers_are_approved_and_keep_immutables(method: str) -> None:
    given = clusters(200)
    asked = given.denied.iloc[:4]
    answers = Dice(method=method, iterations=30).fit(given).counterfactuals(asked)
    assert metrics.answered(answers).all() and (answers.dtypes == asked.dtypes).all()
    assert (answers["x"] > 0.5).all() and (answers["group"] == asked["group"]).all()


def test_every_kind_of_column_comes_back_in_its_dtype(table, schema) -> None:
    frame, target = table
    forest = fit_classifier("random_forest", frame, target, schema=schema, seed=0, n_estimators=5)
    given = world(frame, target, forest, schema, Constraints(immutable=["owner", "age"]))
    asked = given.denied.iloc[:3]
    answers = Dice(iterations=30).fit(given).counterfactuals(asked)
    assert metrics.answered(answers).all() and (answers.dtypes == frame.dtypes).all()
    assert answers[["owner", "age"]].equals(asked[["owner", "age"]])
    assert (forest.predict_proba(answers)[:, 1] > 0.5).all()


def test_the_seed_decides_and_global_generators_are_left_alone() -> None:
    given = clusters(200)
    asked = given.denied.iloc[:2]
    states = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, same = (Dice(seed=3, iterations=20).fit(given).counterfactuals(asked) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


def test_nobody_is_answered_where_no_answer_exists() -> None:
    given = linear([4.0, 0.1], -3.5, immutable=("a",))
    hopeless = given.denied[given.denied["a"] < 0.8].iloc[:2]
    assert Dice(method="random").fit(given).counterfactuals(hopeless).isna().all(axis=None)


def test_other_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="method must be genetic, random or kdtree"):
        Dice(method="gradient")
