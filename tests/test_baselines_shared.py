"""What the baselines share: points, their rows, the classifier with gradients, the registry."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import world

from bench import baselines
from bench.baselines.coordinates import Coordinates
from bench.baselines.differentiable import Differentiable
from bench.baselines.space import Space
from recourse_gen import Constraints, Schema, metrics
from recourse_gen.classifier import fit_classifier

Table = tuple[pd.DataFrame, np.ndarray]
RULES = Constraints(immutable=["job", "age"])


@pytest.fixture(scope="module")
def coordinates(table: Table, schema: Schema) -> Coordinates:
    return Coordinates(schema, RULES, table[0])


def random_points(coordinates: Coordinates, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, len(coordinates.fixed), generator=generator, dtype=torch.float64) + 0.5


def test_a_row_is_its_own_nearest_row(table: Table, coordinates: Coordinates) -> None:
    origin = coordinates.encode(table[0])
    assert torch.equal(coordinates.snap(origin, origin), origin)
    pd.testing.assert_frame_equal(coordinates.decode(origin, origin, table[0]), table[0])


def test_what_is_decoded_has_the_coordinates_of_the_snapped_point(table: Table, coordinates: Coordinates) -> None:
    frame = table[0]
    origin, x = coordinates.encode(frame), random_points(coordinates, len(frame))
    rows = coordinates.decode(x, origin, frame)
    assert (rows.dtypes == frame.dtypes).all() and rows.index.equals(frame.index)
    torch.testing.assert_close(coordinates.encode(rows), coordinates.snap(x, origin), rtol=0, atol=1e-12)
    assert rows[["job", "age"]].equals(frame[["job", "age"]])
    assert not rows["income"].equals(frame["income"]) and not rows["region"].equals(frame["region"])
    for name in frame.columns.drop("region"):
        assert rows[name].between(frame[name].min(), frame[name].max()).all()


def test_no_allowed_row_is_nearer_than_the_snapped_one(table: Table, coordinates: Coordinates) -> None:
    frame = table[0].iloc[:40]
    origin, x = coordinates.encode(frame), random_points(coordinates, 40, seed=1)
    free = ~coordinates.fixed
    distance = ((coordinates.snap(x, origin) - x)[:, free] ** 2).sum(1)
    others = coordinates.encode(table[0])[:, free]
    assert (distance <= torch.cdist(x[:, free], others).square().min(1).values + 1e-12).all()


def test_batches_of_candidates_are_snapped_as_rows_are(table: Table, coordinates: Coordinates) -> None:
    origin = coordinates.encode(table[0].iloc[:6])
    x = random_points(coordinates, 18).reshape(6, 3, -1)
    together = coordinates.snap(x, origin[:, None])
    for s in range(3):
        assert torch.equal(together[:, s], coordinates.snap(x[:, s], origin))


def test_numbers_that_training_never_held_may_stay(table: Table, coordinates: Coordinates) -> None:
    odd = table[0].iloc[:2].assign(income=[500.0, 500.0], late=[9, 9], age=np.int32(99))
    origin = coordinates.encode(odd)
    moved = origin.clone()
    moved[1, :] = 0.0
    rows = coordinates.decode(moved, origin, odd)
    pd.testing.assert_frame_equal(rows.iloc[:1], odd.iloc[:1])
    assert rows["age"].tolist() == [99, 99]
    assert rows["late"].tolist() == [9, 0] and rows["income"].iloc[1] == pytest.approx(table[0]["income"].min())


def test_squashed_points_are_inside_and_categories_add_up(coordinates: Coordinates) -> None:
    inside = coordinates.squash(20 * random_points(coordinates, 50))
    assert ((inside >= 0) & (inside <= coordinates.high)).all()
    wide = coordinates.high < 1
    sums = inside[:, wide] @ coordinates.columns[wide]
    torch.testing.assert_close(sums[:, sums.any(0)], torch.full((50, 2), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logistic", {}),
        ("mlp", {"max_iter": 5}),
        ("mlp", {"max_iter": 5, "activation": "tanh", "hidden_layer_sizes": [4]}),
    ],
)
def test_the_network_in_torch_is_the_classifier(table: Table, schema: Schema, name: str, options: dict) -> None:
    frame, target = table
    classifier = fit_classifier(name, frame, target, schema=schema, seed=0, **options)
    coordinates = Coordinates(schema, Constraints(), frame)
    logit = Differentiable(classifier, frame, coordinates.encode(frame))
    rows = coordinates.decode(random_points(coordinates, len(frame)), coordinates.encode(frame), frame)
    for some in (frame, rows):
        ours = logit(coordinates.encode(some)).sigmoid().numpy()
        np.testing.assert_allclose(ours, classifier.predict_proba(some)[:, 1], rtol=0, atol=1e-9)


def test_gradients_are_those_of_finite_differences(table: Table, schema: Schema) -> None:
    classifier = fit_classifier("mlp", *table, schema=schema, seed=0, max_iter=5, activation="tanh")
    points = torch.from_numpy(metrics.coordinates(table[0], schema))
    logit, x = Differentiable(classifier, table[0], points), points[:5]
    value, slope = logit.gradient(x)
    assert torch.equal(value, logit(x))
    step = 1e-6 * torch.eye(x.shape[1], dtype=torch.float64)
    numeric = (logit(x[:, None] + step) - logit(x[:, None] - step)) / 2e-6
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-7)


def test_a_classifier_without_gradients_is_refused(table: Table, schema: Schema) -> None:
    forest = fit_classifier("random_forest", *table, schema=schema, seed=0, n_estimators=2)
    with pytest.raises(ValueError, match="RandomForestClassifier does not give"):
        Space.of(world(*table, forest, schema))


def test_what_the_classifier_turns_down_is_no_answer(table: Table, schema: Schema) -> None:
    classifier = fit_classifier("logistic", *table, schema=schema, seed=0)
    space = Space.of(world(*table, classifier, schema))
    frame = table[0].iloc[:30]
    yes = classifier.predict_proba(frame)[:, 1] > 0.5
    points = space.coordinates.encode(frame)
    points[np.flatnonzero(yes)[0]] = torch.nan
    answers = space.answers(frame, points)
    assert answers.index.equals(frame.index)
    expected = yes.copy()
    expected[np.flatnonzero(yes)[0]] = False
    assert 0 < expected.sum() < 29
    np.testing.assert_array_equal(metrics.answered(answers), expected)


def test_every_method_is_registered_and_an_unknown_one_lists_them() -> None:
    folder = Path(baselines.__file__).parent
    defined = {
        f"bench.baselines.{path.stem}:{node.name}"
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Baseline" for base in node.bases)
    }
    assert defined == set(baselines.METHODS.values())
    for name in baselines.names():
        assert issubclass(baselines.load(name), baselines.Baseline)
    with pytest.raises(ValueError, match="unknown baseline 'wachtr'; available are: .*wachter"):
        baselines.load("wachtr")
