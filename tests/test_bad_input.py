"""Wrong input to the library is refused with one sentence that names the column or the option."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.options import construct

Table = tuple[pd.DataFrame, np.ndarray]

FRAMES: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "missing column": (lambda frame: frame.drop(columns="late"), "'late' is missing"),
    "extra column": (lambda frame: frame.assign(height=1.0), "'height' is not known"),
    "repeated column": (lambda frame: pd.concat([frame, frame[["late"]]], axis=1), "duplicate column names: 'late'"),
    "missing value": (
        lambda frame: frame.assign(income=frame["income"].where(frame["income"] > 45)),
        "'income' has .* missing",
    ),
    "infinite value": (lambda frame: frame.assign(income=np.inf), "'income' holds infinite"),
    "unseen category": (lambda frame: frame.assign(job="astronaut"), "'job' holds the category 'astronaut'.*known are"),
    "text for a number": (lambda frame: frame.assign(late="three"), "'late' must hold numbers"),
    "number for text": (lambda frame: frame.assign(job=3), r"'job' holds the category .*3.*known are 'full'"),
    "half a count": (lambda frame: frame.assign(late=2.5), "'late'"),
    "no frame": (lambda frame: frame.to_numpy(), "expected a pandas DataFrame"),
}


@pytest.mark.parametrize("case", FRAMES)
def test_generate_refuses_a_wrong_frame(fitted: RecourseGenerator, denied: pd.DataFrame, case: str) -> None:
    spoil, sentence = FRAMES[case]
    with pytest.raises(ValueError, match=sentence):
        fitted.generate(spoil(denied.iloc[:20]))


def test_generate_refuses_an_index_with_repeats(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=rf"index of X repeats {denied.index[3]},.*reset_index"):
        fitted.generate(denied.iloc[[0, 3, 5, 3]])


TRAINING: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "constant column": (lambda frame: frame.assign(late=3), "'late' is constant"),
    "repeated column": (lambda frame: pd.concat([frame, frame[["late"]]], axis=1), "duplicate column names: 'late'"),
    "missing value": (
        lambda frame: frame.assign(income=frame["income"].where(frame["income"] > 45)),
        "'income' has .* missing",
    ),
    "infinite value": (lambda frame: frame.assign(income=-np.inf), "'income' holds infinite"),
    "dates": (lambda frame: frame.assign(late=pd.Timestamp("2020-01-01")), "'late' has dtype datetime64"),
    "no rows": (lambda frame: frame.iloc[:0], "at least two rows, got 0"),
    "one row": (lambda frame: frame.iloc[:1], "at least two rows, got 1"),
    "no columns": (lambda frame: frame[[]], "column"),
    "numbered columns": (lambda frame: frame.set_axis(range(frame.shape[1]), axis=1), "column"),
    "no frame": (lambda frame: frame.to_numpy(), "expected a pandas DataFrame"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_fit_refuses_a_wrong_table(
    table: Table, classifier: Pipeline, small: dict[str, Any], case: str, tmp_path: Any
) -> None:
    frame, granted = table
    spoil, sentence = TRAINING[case]
    spoilt = spoil(frame)
    with pytest.raises(ValueError, match=sentence):
        RecourseGenerator(**small).fit(spoilt, granted[: len(spoilt)], classifier=classifier, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


OUTCOMES: dict[str, tuple[Callable[[np.ndarray], Any], Any, str]] = {
    "too few": (lambda y: y[:-1], None, "y has 299 values for 300 rows"),
    "missing": (lambda y: np.where(y == 1, np.nan, 0.0), None, "missing values"),
    "three values": (lambda y: np.arange(len(y)) % 3, None, "target_class must name .*; y holds 0, 1, 2"),
    "text": (lambda y: np.where(y == 1, "yes", "no"), None, "target_class must name"),
    "favourable only": (lambda y: np.ones_like(y), None, "both outcomes"),
    "unfavourable only": (lambda y: np.zeros_like(y), None, "never holds the favourable class 1"),
    "another class": (lambda y: y, "approved", "'approved'"),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_fit_refuses_wrong_outcomes(table: Table, classifier: Pipeline, small: dict[str, Any], case: str) -> None:
    frame, granted = table
    spoil, target_class, sentence = OUTCOMES[case]
    with pytest.raises(ValueError, match=sentence):
        RecourseGenerator(**{**small, "target_class": target_class}).fit(frame, spoil(granted), classifier=classifier)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, True, 1.5, "1"])
def test_a_seed_that_nothing_can_draw_from_is_refused_at_once(small: dict[str, Any], seed: Any) -> None:
    with pytest.raises(ValueError, match="^seed must be "):
        RecourseGenerator(**{**small, "seed": seed})


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63 - 1])
def test_any_other_seed_works(
    table: Table, classifier: Pipeline, denied: pd.DataFrame, small: dict[str, Any], seed: int, tmp_path: Any
) -> None:
    given = {**small, "seed": seed, "training": {**small["training"], "steps": 1}}
    generator = RecourseGenerator(**given).fit(*table, classifier=classifier)
    found = generator.generate(denied.iloc[:3])
    again = RecourseGenerator.load(generator.save(tmp_path), classifier=classifier).generate(denied.iloc[:3])
    pd.testing.assert_frame_equal(found.report, again.report)


def constant(value: float) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda frame: np.full(len(frame), value)


CLASSIFIERS: dict[str, tuple[Any, str]] = {
    "never yes": (constant(0.1), r"above pairs.gamma=0.7 \(the highest is 0.100\)"),
    "always yes": (constant(0.9), "favours every training row"),
    "no probabilities": (constant(7.0), "where probabilities are due"),
    "not a classifier": (3, "cannot use int as a classifier"),
    "a class": (Pipeline, "fitted model"),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_fit_refuses_a_useless_classifier(table: Table, small: dict[str, Any], case: str) -> None:
    model, sentence = CLASSIFIERS[case]
    with pytest.raises(ValueError, match=sentence):
        RecourseGenerator(**small).fit(*table, classifier=model)


def test_fewer_partners_than_wanted_is_said(table: Table, classifier: Pipeline, small: dict[str, Any]) -> None:
    hasty = {**small, "pairs": {"top_k": 1000}, "training": {**small["training"], "steps": 1}}
    with pytest.warns(UserWarning, match="fewer than pairs.top_k=1000"):
        RecourseGenerator(**hasty).fit(*table, classifier=classifier)


def test_rules_that_leave_nobody_a_partner(table: Table, classifier: Pipeline, small: dict[str, Any]) -> None:
    rules = Constraints(ranges={"income": (1000.0, 2000.0)})
    with pytest.raises(ValueError, match="constraints leave no turned-down"):
        RecourseGenerator(**small).fit(*table, classifier=classifier, constraints=rules)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"backbone": "transformer"}, "unknown backbone 'transformer'; registered are: .*ar"),
    ({"backbone_options": 3}, "backbone_options must map options to values, got 3"),
    ({"backbone_options": {"wdth": 3}}, "unknown option backbone.wdth; known are: .*width"),
    ({"backbone_options": {"width": "wide"}}, "backbone.width must be a whole number, got 'wide'"),
    ({"pairs": {"topk": 3}}, "unknown option pairs.topk; known are: top_k, gamma"),
    ({"training": {"epochs": 3}}, "unknown option training.epochs; known are: steps"),
    ({"training": {"steps": "many"}}, "training.steps"),
    ({"audit": {"trees": 3}}, "unknown option audit.trees; known are: consensus_threshold"),
    *(
        ({"audit": {"consensus_threshold": value}}, f"consensus_threshold must be a number {told}, got")
        for value, told in (("x", "or None"), (True, "or None"), (1.5, "from 0 to 1"), (float("nan"), "from 0 to 1"))
    ),
    *(({"pairs": {"cost_weight": value}}, "pairs.cost_weight must be") for value in (0, 1e39, (1.0, 1e300), 1e-46)),
    ({"schema": {"kind": {}}}, "unknown option schema.kind; known are: kinds"),
    ({"schema": {"kinds": {"height": "ordinal"}}}, "kinds names column 'height'"),
    ({"schema": {"tokenize": "some"}}, "tokenize must be one of"),
    ({"backbone": ["ar"]}, r"unknown backbone \['ar'\]; registered are: .*ar"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"seed": "x"}, "seed must be a whole number"),
]


@pytest.mark.parametrize(("change", "sentence"), OPTIONS)
def test_wrong_options_are_named(
    table: Table, classifier: Pipeline, small: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        RecourseGenerator(**{**small, **change}).fit(*table, classifier=classifier)


CALLS: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: value}, f"{name} must")
        for name in ("n", "candidates", "batch_size")
        for value in (0, 1.5, "3", None, True)
    ),
    ({"max_candidates": "all"}, "max_candidates must"),
    ({"candidates": 10, "max_candidates": 9}, "max_candidates=9 is below candidates=10"),
    *(({"confidence": value}, "confidence must") for value in (0.4, 1.0, "high", None, float("nan"))),
    *(
        ({"change_price": value}, r"change_price must be a number in \[0, ")
        for value in (-0.1, "high", None, float("nan"), 10**19)
    ),
    *(({"cost_weight": value}, "cost_weight must") for value in (0, -1, "5", float("inf"), 1e39, 1e300, 1e-46)),
    *(({"temperature": value}, "temperature must") for value in (0, "cold", float("nan"), 1e39, 1e-46)),
    *(({"seed": value}, "^seed must") for value in (1.5, -5, 2**63, 2**64, True)),
    ({"select": "luckiest"}, "unknown selection 'luckiest'; known are: cheapest, confident"),
    ({"select": ["score"]}, r"unknown selection \['score'\]; known are: cheapest, confident"),
    ({"progress": 3}, "progress must be a function or None, got 3"),
    *(({"time_budget": value}, "time_budget must be a number in") for value in (0, -1, "1", float("inf"), True)),
    ({"constraints": {"immutable": ["age"]}}, "a Constraints object, or one for each row of X: 1000 has none"),
    ({"constraints": Constraints(immutable=["height"])}, "names column 'height'; columns are income"),
    ({"constraints": Constraints(monotone={"job": "increase"})}, "'job' is categorical"),
]


@pytest.mark.parametrize(("options", "sentence"), CALLS)
def test_a_wrong_call_is_named(
    fitted: RecourseGenerator, denied: pd.DataFrame, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        fitted.generate(denied.iloc[:2], **options)


def test_numpy_numbers_are_numbers(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    options = {"n": np.int64(1), "candidates": np.int32(4), "confidence": np.float32(0.5), "seed": np.uint8(3)}
    assert len(fitted.generate(denied.iloc[:2], **options).report) == 2
    few, same = (fitted.generate(denied.iloc[:2], candidates=kind(100)).report for kind in (np.int8, int))
    pd.testing.assert_frame_equal(few, same)


def test_resume_is_true_or_false(table: Table, classifier: Pipeline, small: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="resume must be true or false, got 'no'"):
        RecourseGenerator(**small).fit(*table, classifier=classifier, folder=tmp_path, resume="no")


def test_a_folder_is_a_path(
    table: Table, classifier: Pipeline, small: dict[str, Any], fitted: RecourseGenerator, denied: pd.DataFrame
) -> None:
    for call in (
        lambda: RecourseGenerator(**small).fit(*table, classifier=classifier, folder=3),
        lambda: fitted.save(3),
        lambda: RecourseGenerator.load(3),
    ):
        with pytest.raises(ValueError, match="folder must be a path, got 3"):
            call()
    with pytest.raises(ValueError, match="path must be a path, got 3"):
        fitted.generate(denied.iloc[:2], candidates=4).to_html(3)  # type: ignore[call-overload]


def test_an_unfitted_generator_says_so(small: dict[str, Any], denied: pd.DataFrame, tmp_path: Any) -> None:
    for call in (
        lambda one: one.generate(denied),
        lambda one: one.save(tmp_path),
        lambda one: one.get_counterfactuals(denied),
    ):
        with pytest.raises(ValueError, match="not fitted"):
            call(RecourseGenerator(**small))


def test_a_failed_fit_leaves_no_half_fitted_generator(
    table: Table, small: dict[str, Any], denied: pd.DataFrame
) -> None:
    generator = RecourseGenerator(**small)
    with pytest.raises(ValueError, match="favours every"):
        generator.fit(*table, classifier=constant(0.9))
    with pytest.raises(ValueError, match="not fitted"):
        generator.generate(denied)


def test_options_of_plugins_that_take_anything_are_passed_on() -> None:
    def anything(schema: str, **options: int) -> tuple[str, dict[str, int]]:
        return schema, options

    assert construct(anything, "backbone", {"depth": 3}, "table") == ("table", {"depth": 3})


def test_more_levels_than_memory_are_refused_by_name(small: dict[str, Any]) -> None:
    frame = pd.DataFrame({"id": [f"P{i}" for i in range(20_000)], "a": np.arange(20_000.0)})
    asked = {**small, "schema": {"kinds": {"id": "categorical"}}}
    with pytest.raises(ValueError, match="up to 20000 levels are more than .* column 'id' has the most, drop it"):
        RecourseGenerator(**asked).fit(frame, classifier=lambda rows: rows["a"] / 20_000)
