"""Every kind of black box gives one checked probability per row, and sees the frame it was trained on."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from recourse_gen.classifier import CLASSIFIERS, Classifier, as_classifier, fit_classifier
from recourse_gen.schema import Schema

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "classifier"
NUMBERS = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1, 0, 1, 0]})


def logistic(labels: Any) -> LogisticRegression:
    return LogisticRegression().fit(NUMBERS, labels)


def mixed(size: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 60, size),
            "job": rng.choice(["clerk", "nurse", "smith"], size),
            "owner": rng.random(size) < 0.5,
            "income": rng.uniform(0, 100, size),
            "grade": pd.Categorical(rng.choice(["low", "mid", "top"], size), ["low", "mid", "top"], ordered=True),
            "branch": rng.choice([10, 20, 30], size),
        }
    )
    return frame, ((frame["income"] > 50) & (frame["job"] != "smith")).to_numpy().astype(int)


class Spy:
    """A classifier that keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[pd.DataFrame] = []

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        self.seen.append(frame.copy())
        return np.full(len(frame), 0.25)


# ---- which class is favourable


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [False, False, True, True], [0.0, 0.0, 1.0, 1.0]])
def test_zero_one_and_booleans_need_no_target_class(labels: list) -> None:
    model = logistic(labels)
    probability = as_classifier(model).probability(NUMBERS)
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability, model.predict_proba(NUMBERS)[:, 1])


def test_text_labels_need_a_target_class_and_list_what_exists() -> None:
    model = logistic(["yes", "yes", "no", "no"])
    np.testing.assert_allclose(
        as_classifier(model, target_class="no").probability(NUMBERS), model.predict_proba(NUMBERS)[:, 0]
    )
    with pytest.raises(ValueError, match=r"target_class must name the favourable class.*'no', 'yes'"):
        as_classifier(model)
    with pytest.raises(ValueError, match="'maybe' is not a class of the classifier; its classes are 'no', 'yes'"):
        as_classifier(model, target_class="maybe")


def test_multi_class_gives_the_target_class() -> None:
    model = logistic(["a", "b", "c", "c"])
    total = sum(as_classifier(model, target_class=name).probability(NUMBERS) for name in "abc")
    np.testing.assert_allclose(total, 1.0)


# ---- what may be a model


def test_a_pipeline_takes_raw_text() -> None:
    frame = pd.DataFrame({"job": ["clerk", "nurse", "clerk", "nurse"]})
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, [0, 1, 0, 1])
    probability = as_classifier(model).probability(frame)
    assert (probability[[1, 3]] > 0.5).all()
    assert (probability[[0, 2]] < 0.5).all()


@pytest.mark.parametrize(
    ("output", "target_class", "expected"),
    [
        (lambda p: p, None, 0.25),
        (lambda p: p[:, None], None, 0.25),
        (lambda p: np.stack([1 - p, p], 1), None, 0.25),
        (lambda p: np.stack([1 - p, p], 1), 0, 0.75),
        (lambda p: np.stack([p, p, 1 - 2 * p], 1), 2, 0.5),
        (lambda p: pd.Series(p), None, 0.25),
        (lambda p: torch.tensor(p, requires_grad=True), None, 0.25),
        (lambda p: p.tolist(), 0, 0.75),
        (lambda p: p, "yes", 0.25),
    ],
)
def test_callables_may_return_one_or_more_columns(output: Any, target_class: Any, expected: float) -> None:
    classifier = as_classifier(lambda frame: output(np.full(len(frame), 0.25)), target_class=target_class)
    np.testing.assert_allclose(classifier.probability(NUMBERS), expected)


def test_three_columns_need_a_position() -> None:
    with pytest.raises(ValueError, match="favourable class's position, 0 to 2, got None"):
        as_classifier(lambda frame: np.full((len(frame), 3), 1 / 3)).probability(NUMBERS)


def test_a_classifier_passes_through() -> None:
    adapted = as_classifier(Spy())
    assert isinstance(adapted, Classifier)
    assert as_classifier(adapted) is adapted

    class Own:
        def probability(self, frame: pd.DataFrame) -> np.ndarray:
            return frame["a"].to_numpy() / 3

    np.testing.assert_allclose(as_classifier(Own()).probability(NUMBERS), NUMBERS["a"] / 3)


@pytest.mark.parametrize("model", [None, 3, "model", LinearSVC(), LogisticRegression])
def test_unsupported_models_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot use .* as a classifier|must be a fitted model"):
        as_classifier(model)


def test_the_batch_size_must_be_positive() -> None:
    for wrong in (0, True):
        with pytest.raises(ValueError, match="batch_size"):
            as_classifier(Spy(), batch_size=wrong)


# ---- torch modules


class Linear(torch.nn.Module):
    def __init__(self, outputs: int, flat: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, outputs)
        self.dropout = torch.nn.Dropout(0.9)
        self.flat = flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert (x.dtype, self.training, torch.is_grad_enabled()) == (torch.float32, False, False)
        out = self.dropout(self.layer(x))
        return out[:, 0] if self.flat else out


@pytest.mark.parametrize("flat", [True, False])
def test_one_logit_goes_through_a_sigmoid(flat: bool) -> None:
    module = Linear(1, flat)
    with torch.no_grad():
        logits = module.layer(torch.tensor(NUMBERS.to_numpy(), dtype=torch.float32))[:, 0].double()
    np.testing.assert_allclose(as_classifier(module).probability(NUMBERS), torch.sigmoid(logits), rtol=1e-6)
    np.testing.assert_allclose(
        as_classifier(module, target_class=0).probability(NUMBERS), torch.sigmoid(-logits), rtol=1e-6
    )


def test_several_logits_go_through_a_softmax() -> None:
    module = Linear(3)
    columns = [as_classifier(module, target_class=k).probability(NUMBERS) for k in range(3)]
    with torch.no_grad():
        expected = module.layer(torch.tensor(NUMBERS.to_numpy(), dtype=torch.float32)).double().softmax(-1)
    np.testing.assert_allclose(np.stack(columns, 1), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="0 to 2"):
        as_classifier(module).probability(NUMBERS)


def test_training_flags_are_restored_part_by_part() -> None:
    module = Linear(1)
    module.layer.eval()
    as_classifier(module).probability(NUMBERS)
    assert (module.training, module.layer.training, module.dropout.training) == (True, False, True)
    with pytest.raises(RuntimeError):
        as_classifier(module).probability(NUMBERS[["a"]])
    assert module.training


def test_a_module_cannot_take_text() -> None:
    with pytest.raises(ValueError, match="column 'job' is not numeric"):
        as_classifier(Linear(1)).probability(pd.DataFrame({"job": ["x"], "a": [1.0]}))


# ---- what the model sees


def test_the_model_sees_training_columns_order_and_dtypes() -> None:
    frame, _ = mixed(20)
    spy = Spy()
    shuffled = frame[frame.columns[::-1]].astype({"age": "float64", "grade": "str"}).assign(extra=1)
    as_classifier(spy, columns=frame.dtypes).probability(shuffled)
    pd.testing.assert_frame_equal(spy.seen[0], frame)
    as_classifier(spy, columns=list(frame.columns)).probability(frame[frame.columns[::-1]])
    pd.testing.assert_frame_equal(spy.seen[1], frame)


def test_a_value_that_its_dtype_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"column 'b' .* cannot be restored to int64"):
        as_classifier(Spy(), columns=NUMBERS.dtypes).probability(NUMBERS.assign(b=0.5))
    with pytest.raises(ValueError, match="column 'b' is missing; the classifier takes a, b"):
        as_classifier(Spy(), columns=["a", "b"]).probability(NUMBERS[["a"]])


def test_rows_come_in_batches_and_in_order() -> None:
    sizes = []

    def score(frame: pd.DataFrame) -> np.ndarray:
        sizes.append(len(frame))
        return frame["a"].to_numpy() / 10

    probability = as_classifier(score, batch_size=3).probability(pd.DataFrame({"a": np.arange(8.0)}))
    assert sizes == [3, 3, 2]
    np.testing.assert_allclose(probability, np.arange(8) / 10)


def test_a_model_cannot_change_the_callers_frame() -> None:
    def vandal(frame: pd.DataFrame) -> np.ndarray:
        frame.loc[:, "a"] = -1.0
        return np.full(len(frame), 0.5)

    before = NUMBERS.copy()
    as_classifier(vandal).probability(NUMBERS)
    pd.testing.assert_frame_equal(NUMBERS, before)


def test_no_rows_no_call() -> None:
    spy = Spy()
    probability = as_classifier(spy).probability(NUMBERS.iloc[:0])
    assert probability.shape == (0,)
    assert not spy.seen


# ---- what the model returns


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda n: np.full(n + 1, 0.5), r"returned shape \(5,\) for 4 rows"),
        (lambda n: 0.5, r"returned shape \(\) for 4 rows"),
        (lambda n: np.full(n, np.nan), "returned nan within rows 0 to 3"),
        (lambda n: np.full(n, 1.2), "returned 1.2 within rows 0 to 3"),
        (lambda n: np.full(n, -0.1), "returned -0.1"),
        (lambda n: ["yes"] * n, "not an array of numbers"),
    ],
)
def test_wrong_output_is_refused(output: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_classifier(lambda frame: output(len(frame))).probability(NUMBERS)


def test_an_error_in_the_model_names_its_rows_and_is_chained() -> None:
    def fails(frame: pd.DataFrame) -> np.ndarray:
        if (frame["a"] >= 2).any():
            raise KeyError("lookup")
        return np.full(len(frame), 0.5)

    with pytest.raises(RuntimeError, match="failed on rows 2 to 3: KeyError") as caught:
        as_classifier(fails, batch_size=2).probability(NUMBERS)
    assert isinstance(caught.value.__cause__, KeyError)


# ---- the classifiers that are trained here


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_trained_classifiers_take_raw_frames_and_learn(name: str) -> None:
    frame, target = mixed()
    schema = Schema.infer(frame, kinds={"branch": "categorical"})
    model = fit_classifier(name, frame, target, schema=schema, seed=0)
    probability = as_classifier(model).probability(frame)
    assert probability[target == 1].mean() > probability[target == 0].mean() + 0.2
    again = fit_classifier(name, frame[frame.columns[::-1]], target, schema=schema, seed=0)
    np.testing.assert_allclose(as_classifier(again).probability(frame), probability)
    unseen = frame.head(1).assign(job="pilot")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn says that it ignores the category
        assert np.isfinite(as_classifier(model).probability(unseen)).all()


def test_balanced_weights_raise_the_rare_class() -> None:
    frame, _ = mixed()
    rare = (np.arange(len(frame)) % 10 == 0).astype(int)
    schema = Schema.infer(frame)
    for balanced, mean in ((True, 0.5), (False, 0.1)):
        model = fit_classifier("logistic", frame, rare, schema=schema, seed=0, balanced=balanced)
        assert as_classifier(model).probability(frame).mean() == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_yaml_equals_the_defaults(name: str) -> None:
    configured = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert (configured.pop("name"), configured.pop("balanced")) == (name, True)
    defaults = {key: list(value) if isinstance(value, tuple) else value for key, value in CLASSIFIERS[name][1].items()}
    assert configured == defaults
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(CLASSIFIERS)


def test_wrong_names_options_and_targets_are_named() -> None:
    frame, target = mixed()
    schema = Schema.infer(frame)
    with pytest.raises(ValueError, match="unknown classifier 'xgb'; available are mlp, random_forest"):
        fit_classifier("xgb", frame, target, schema=schema, seed=0)
    with pytest.raises(ValueError, match=r"'mlp' has no option 'depth'; available are .*hidden_layer_sizes"):
        fit_classifier("mlp", frame, target, schema=schema, seed=0, depth=3)
    for wrong in (np.ones(len(frame)), target + 1):
        with pytest.raises(ValueError, match="both 0 and 1"):
            fit_classifier("logistic", frame, wrong, schema=schema, seed=0)
    with pytest.raises(ValueError, match="one value for each of the 300 rows"):
        fit_classifier("logistic", frame, target[:5], schema=schema, seed=0)
