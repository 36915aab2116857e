"""The best answers that there are: known where the judge is, and found without asking about what cannot win."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import ceiling
from recourse_gen import Constraints, Schema, metrics


class Judge:
    """Says yes from x + y ≥ 6, and finds rows with an even y plausible."""

    def __init__(self) -> None:
        self.asked = 0

    def probability(self, frame: pd.DataFrame) -> np.ndarray:
        self.asked += len(frame)
        return (frame["x"] + frame["y"] >= 6).to_numpy() * 0.9

    def plausible(self, frame: pd.DataFrame) -> np.ndarray:
        return (frame["y"] % 2 == 0).to_numpy()


def world(classifier: Any, people: list[tuple[str, int, int]], **rules: Any) -> Any:
    grid = [(who, x, y) for who in "ab" for x in range(11) for y in range(11)]
    train, denied = (pd.DataFrame(rows, columns=["who", "x", "y"]) for rows in (grid, people))
    denied.index += 100
    return SimpleNamespace(
        train=train,
        denied=denied,
        schema=Schema.infer(train),
        constraints=Constraints(**{"immutable": ["who"], **rules}),
        judge=Judge(),
        classifier=classifier,
    )


def test_the_cheapest_that_judge_and_classifier_favour() -> None:
    given = world(lambda frame: (frame["y"] >= 3).to_numpy() * 1.0, [("a", 1, 1), ("b", 5, 2), ("a", 4, 4)])
    answers = ceiling.best(given)
    # (1, 1): y is to be even and above 2, so 4, and x then 2. (5, 2): y to 4. (4, 4): nothing.
    pd.testing.assert_frame_equal(
        answers, pd.DataFrame({"who": ["a", "b", "a"], "x": [2, 5, 4], "y": [4, 4, 4]}, index=given.denied.index)
    )
    assert given.judge.asked < 2 * 121  # of the combinations, with each person's own who


def test_it_is_the_best_of_all_for_any_worth() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        prices = [rng.integers(0, 9, (7, size)) / 10 for size in (5, 1, 12, 4)]
        totals = np.stack([total for _, total in ceiling._totals(prices, np.arange(7))])
        known = rng.choice([0.0, 1.0, 2.0, -np.inf], 240, p=[0.4, 0.3, 0.1, 0.2])
        asked: list[int] = []

        def worth(at: np.ndarray, known: np.ndarray = known, asked: list[int] = asked) -> np.ndarray:
            asked.extend(at)
            return known[at]

        chosen = ceiling.cheapest_first(prices, worth)
        np.testing.assert_allclose((known - totals)[np.arange(7), chosen], (known - totals).max(1))
        assert len(asked) == len(set(asked))


def test_prices_are_the_costs_of_combinations() -> None:
    given = world(len, [("a", 1, 1), ("b", 5, 2)])
    values = {"who": pd.Series(["a", "b"]), "x": pd.Series([1, 3, 9]), "y": pd.Series([0, 2])}
    table = ceiling.combinations(values)
    assert table.iloc[7].tolist() == ["b", 1, 2]
    gaps = [
        ceiling._gaps(feature, given.denied[feature.name], values[feature.name]) for feature in given.schema.features
    ]
    for i, total in ceiling._totals(gaps, np.arange(2)):
        person = given.denied.iloc[[i] * len(table)].set_axis(table.index)
        np.testing.assert_allclose(total, metrics.cost(person, table, given.schema))


def test_whom_the_classifier_never_approves_gets_no_answer() -> None:
    given = world(lambda frame: (frame["who"] == "a").to_numpy() * 1.0, [("a", 9, 0), ("b", 9, 0)])
    answers = ceiling.best(given)
    assert answers.loc[100].tolist() == ["a", 9, 0] and answers.loc[101].isna().all()


def test_what_it_cannot_look_through_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no rules but immutable, got monotone"):
        ceiling.best(world(len, [("a", 1, 1)], monotone={"x": "increase"}))
    monkeypatch.setattr(ceiling, "MOST", 120)
    with pytest.raises(ValueError, match="there are 121 combinations of values, more than 120"):
        ceiling.best(world(len, [("a", 1, 1)]))
