"""What the report says of an answer is about the row that is handed out."""

import numpy as np
import pandas as pd
import pytest

from recourse_gen import Constraints, RecourseGenerator, metrics


def approves(frame: pd.DataFrame) -> np.ndarray:
    return 1 / (1 + np.exp(-3 * (frame["a"] + frame["b"]).to_numpy()))


@pytest.mark.parametrize("select", ["score", "diverse"])
def test_a_number_that_has_to_move_to_its_bound_costs_what_it_moves(select: str) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(0, 1, 300), "b": rng.normal(0, 1, 300)})
    options = {"audit": {"n_estimators": 10, "n_jobs": 1}, "pairs": {"top_k": 100}}
    generator = RecourseGenerator("exact", **options).fit(frame, classifier=approves)
    asking = frame[(approves(frame) < 0.5) & (frame["a"] < 0)].head(30)
    found = generator.generate(asking, n=3, select=select, constraints=Constraints(ranges={"a": (0.0, None)}))
    answers = found.to_frame()
    before = asking.loc[answers.index.get_level_values(0)].set_axis(answers.index)
    told = found.report.loc[answers.index]
    np.testing.assert_allclose(told["cost"], metrics.cost(before, answers, generator.schema), atol=1e-5)
    assert not answers.reset_index(0).duplicated().any()
    opinion = generator.auditor.plausibility(generator.transform.encode(answers))
    np.testing.assert_allclose(told["plausibility"], opinion, atol=1e-3)


@pytest.mark.parametrize("select", ["cheapest", "score", "pareto"])
@pytest.mark.parametrize("backbone", ["exact", "nearest", "ar"])
def test_a_number_that_training_never_held_is_priced_from_where_it_stands(backbone: str, select: str) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"a": rng.integers(-5, 6, 400), "b": rng.choice([-2.5, -1.0, 0.0, 1.5, 3.0], 400)})
    options = {"pairs": {"top_k": 100}, "audit": {"n_estimators": 10, "n_jobs": 1}, "training": {"steps": 20}}
    weights = {"a": 1.0, "b": 2.0}
    generator = RecourseGenerator(backbone, schema={"weights": weights}, **options).fit(frame, classifier=approves)
    assert all(feature.kind == "ordinal" for feature in generator.schema.features)
    asking = pd.DataFrame({"a": rng.integers(-200, 4, 40), "b": rng.uniform(-40.0, 3.0, 40)})
    asking = asking[approves(asking) < 0.5]
    found = generator.generate(asking, n=3, select=select)
    answers = found.to_frame()
    before = asking.loc[answers.index.get_level_values(0)].set_axis(answers.index)
    paid = sum(
        weight * metrics.cost(before.assign(**{other: answers[other]}), answers, generator.schema)
        for (_, weight), other in zip(weights.items(), reversed(weights), strict=True)
    )
    assert len(answers) > 10
    told = found.report.loc[answers.index, "cost"]
    np.testing.assert_allclose(told, paid, rtol=1e-5, atol=1e-5)
    if select == "pareto":
        assert (told.groupby(level=0).diff().dropna() >= 0).all()


def test_the_cheapest_way_starts_at_the_number_itself() -> None:
    frame = pd.DataFrame([(a, b) for a in range(6) for b in range(6)] * 4, columns=["a", "b"])

    def high(rows: pd.DataFrame) -> np.ndarray:
        return 0.1 + 0.8 * ((rows["a"] <= 2) & (rows["b"] <= 3) | (rows["b"] == 0)).to_numpy()

    generator = RecourseGenerator("exact", audit={"n_estimators": 10}, pairs={"top_k": 60}).fit(frame, classifier=high)
    # From the nearest level, 5, a would have to move by three levels only: less than b from 4 to 0.
    asking = pd.DataFrame({"a": [200], "b": [4]})
    found = generator.generate(asking, candidates=256, select="cheapest", audit=False, sparsify=False)
    assert found.to_frame().iloc[0].tolist() == [200, 0]
    assert found.report["cost"].iloc[0] == pytest.approx(4 / 5)
