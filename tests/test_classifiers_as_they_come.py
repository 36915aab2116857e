"""Fit and generate with models of other libraries, on raw frames and with whatever labels they were given."""

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.classifier import as_classifier
from tests.stubs import fit

PEOPLE = 60


def table(size: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    """People, and how many points they have."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "income": rng.normal(50, 10, size),
            "late": rng.integers(0, 6, size),
            "job": pd.Categorical(rng.choice(["none", "part", "full"], size)),
            "owner": rng.random(size) < 0.4,
            "age": rng.integers(20, 60, size).astype(np.int32),
        }
    )
    return frame, ((frame["income"] - 50) / 10 - 0.8 * (frame["late"] - 2) + (frame["job"] == "full")).to_numpy()


X, POINTS = table()
LABELS: dict[str, tuple[np.ndarray, Any]] = {  # outcomes, and the favourable one where it has to be named
    "0 and 1": ((POINTS > 0).astype(int), None),
    "booleans": (POINTS > 0, None),
    "text": (np.where(POINTS > 0, "yes", "no"), "yes"),
    "numbers, the lower one": (np.where(POINTS > 0, 3, 7), 3),
    "three grades": (np.select([POINTS > 0.8, POINTS > -0.5], ["A", "B"], "C"), "A"),
    "three numbers": (np.select([POINTS > 0.8, POINTS > -0.5], [2, 0], 1), 2),
}


def sklearn(model: Any) -> Any:
    encode = make_column_transformer((OneHotEncoder(), ["job", "owner"]), remainder="passthrough")
    return make_pipeline(encode, model)


def lightgbm() -> Any:
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)


def xgboost() -> Any:
    return pytest.importorskip("xgboost").XGBClassifier(n_estimators=20, n_jobs=1, enable_categorical=True)


MODELS = {
    "pipeline": lambda: sklearn(RandomForestClassifier(20, random_state=0)),
    "search": lambda: GridSearchCV(sklearn(LogisticRegression(max_iter=3000)), {"logisticregression__C": [1, 10]}),
    "lightgbm": lightgbm,
    "xgboost": xgboost,
}


def answered(generator: RecourseGenerator) -> pd.DataFrame:
    found = generator.generate(X.head(PEOPLE), n=2, candidates=16)
    asked = found.report["status"] != "already_favourable"
    assert 0 < asked.sum() < 2 * PEOPLE
    assert (found.report["status"][asked] == "ok").mean() > 0.9
    return found.to_frame()


@pytest.mark.parametrize(
    ("name", "labels"),
    # XGBoost takes the classes 0, 1, ... and no others.
    [
        (name, labels)
        for name in MODELS
        for labels in LABELS
        if name != "xgboost" or set(LABELS[labels][0]) <= {0, 1, 2}
    ],
)
def test_answers_get_the_label_that_was_asked_for(name: str, labels: str) -> None:
    outcomes, favourable = LABELS[labels]
    model = MODELS[name]().fit(X, outcomes)
    answers = answered(fit((X, outcomes), model, target_class=favourable))
    assert set(model.predict(answers).tolist()) == {1 if favourable is None else favourable}


class Net(torch.nn.Module):
    """Points from numbers and booleans, as logits of one or of three classes."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = (x[:, 0] - 50) / 10 - 0.8 * (x[:, 1] - 2) + 0.3 * x[:, 2]
        return 3 * points if self.outputs == 1 else torch.stack([0 * points, 3 * points, -3 * points], 1)


@pytest.mark.parametrize(("outputs", "favourable"), [(1, None), (3, 1)])
def test_torch_modules_see_numbers_and_booleans(outputs: int, favourable: int | None) -> None:
    numbers = X[["income", "late", "owner"]]
    module = Net(outputs)
    generator = fit((numbers, POINTS > 0), module, target_class=favourable)
    found = generator.generate(numbers.head(PEOPLE), candidates=16)
    assert (found.report["status"] == "ok").sum() > 10
    frame = found.to_frame()
    logits = module(torch.tensor(frame.to_numpy(dtype=np.float32)))
    assert ((logits > 0) if outputs == 1 else logits.argmax(1) == 1).all()
    assert frame.dtypes.equals(numbers.dtypes)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_torch_module_that_returns_probabilities_is_noticed(outputs: int) -> None:
    numbers = X[["income", "late", "owner"]]
    squashed = torch.nn.Sequential(Net(outputs), torch.nn.Sigmoid() if outputs == 1 else torch.nn.Softmax(-1))
    classifier = as_classifier(squashed, target_class=None if outputs == 1 else 1)
    with pytest.warns(UserWarning, match=r"all \d+ outputs of the torch module lie in \[0, 1\].*taken for logits"):
        classifier.probability(numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_classifier(Net(outputs), target_class=None if outputs == 1 else 1).probability(numbers)


def test_every_call_is_about_the_columns_and_dtypes_of_the_training() -> None:
    calls: list[pd.DataFrame] = []

    def model(frame: pd.DataFrame) -> np.ndarray:
        calls.append(frame)
        return np.where(frame["late"] < 2, 0.9, 0.1)

    generator = fit((X, None), model)
    first = len(calls)
    other = X.head(PEOPLE)[X.columns[::-1]].astype({"age": "int64", "job": "str", "late": "float64"})
    found = generator.generate(other, n=2, candidates=16)
    assert len(found) > PEOPLE
    assert len(calls) - first < PEOPLE, "in batches, not row by row"
    for frame in calls:
        pd.testing.assert_series_equal(frame.dtypes, X.dtypes)
        assert not frame.isna().any().any()


def test_a_model_that_raises_is_reported_with_a_row() -> None:
    def picky(frame: pd.DataFrame) -> np.ndarray:
        if (frame["late"].to_numpy() != X["late"].reindex(frame.index).to_numpy()).any():
            raise KeyError("never seen")
        return np.where(frame["late"] < 2, 0.9, 0.1)

    generator = fit((X, None), picky)
    denied = X[X["late"] >= 2].tail(5)
    with pytest.raises(RuntimeError, match=r"failed on rows 0 to 79: KeyError: 'never seen'; also on this row alone"):
        generator.generate(denied, candidates=16)


def test_one_row_that_a_model_fails_on_is_shown() -> None:
    frame, calls = X.head(200).set_axis([f"p{i}" for i in range(200)]), []

    def fails(rows: pd.DataFrame) -> np.ndarray:
        calls.append(len(rows))
        return np.full(len(rows), 0.5) if "p137" not in rows.index else 1 / 0

    with pytest.raises(RuntimeError, match="failed on rows 0 to 199: ZeroDivisionError") as caught:
        as_classifier(fails).probability(frame)
    told = str(caught.value)
    assert "also on this row alone, 'p137': income=" in told
    assert f"job={frame.loc['p137', 'job']!r}, owner={frame.loc['p137', 'owner'].item()!r}, age=" in told
    assert len(calls) < 12

    def small(rows: pd.DataFrame) -> np.ndarray:
        return np.full(len(rows), 0.5) if len(rows) < 5 else 1 / 0

    with pytest.raises(RuntimeError, match=r"on rows 0 to 199: ZeroDivisionError: division by zero$"):
        as_classifier(small).probability(frame)


def few_late(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["late"] < 2, 0.9, 0.1)


class FewLate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 - 2 * x[:, 0]


@pytest.mark.parametrize("model", [few_late, FewLate(), LogisticRegression()])
def test_a_generator_can_go_to_another_process(model: Any) -> None:
    people, late = X[["late", "age"]], X["late"] < 2
    generator = fit((people, late), model.fit(people, late) if hasattr(model, "fit") else model)
    copy = pickle.loads(pickle.dumps(generator))
    assert copy.generate(people.head(9), candidates=8).report.equals(
        generator.generate(people.head(9), candidates=8).report
    )


def test_outcomes_may_be_a_frame_and_seeds_of_numpy() -> None:
    late = X["late"] < 2
    one, other = (fit((X, y), few_late, seed=seed) for y, seed in ((late, 3), (late.to_frame(), np.int64(3))))
    assert one.generate(X.head(9), candidates=8).report.equals(other.generate(X.head(9), candidates=8).report)


def test_a_generator_whose_refit_fails_is_not_fitted() -> None:
    generator = fit((X, X["late"] < 2), few_late)
    with pytest.raises(ValueError, match="names column 'Age'"):
        generator.fit(X.assign(income=3 * X["income"]), classifier=few_late, constraints=Constraints(immutable=["Age"]))
    with pytest.raises(ValueError, match="not fitted"):
        generator.generate(X.head(2))
