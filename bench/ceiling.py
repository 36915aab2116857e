"""The best answers that there are, chosen with the judge in hand, which no method may ask: what is left above the score
of a method is what knowing the judge would be worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np
import pandas as pd

import train
from recourse_gen.classifier import as_classifier
from recourse_gen.schema import Feature

MOST = 5_000_000  # combinations of values
_FIRST, _FURTHER = 0.01, 1.25  # price up to which the first round looks, and each one after it


def best(world: train.World) -> pd.DataFrame:
    """One row per person in ``world.denied``: of all combinations of the values that the columns hold, in training rows
    or among these people, the one of the highest score that the classifier approves; NaN where it approves none.

    Immutable columns stay. Raises ValueError for other constraints, and for more than `MOST` combinations.
    """
    rules = {name: rule for name, rule in world.constraints.to_dict().items() if rule and name != "immutable"}
    if rules:
        raise ValueError(f"the best answers are looked for under no rules but immutable, got {', '.join(rules)}")
    classifier = as_classifier(world.classifier, columns=world.train.dtypes)

    def worth(frame: pd.DataFrame) -> np.ndarray:
        """What the judge adds to an answer's score, 0 to 2; −inf where the classifier says no."""
        judged = (world.judge.probability(frame) > 0.5).astype(float) + world.judge.plausible(frame)
        return np.where(classifier.probability(frame) > 0.5, judged, -np.inf)

    people, fixed = world.denied, list(world.constraints.immutable)
    values = {name: _values(world.train[name], people[name]) for name in people.columns}
    many = math.prod(len(values[name]) for name in people.columns if name not in fixed)
    if many > MOST:
        raise ValueError(f"there are {many} combinations of values, more than {MOST}")
    alike = people.groupby(fixed, observed=True, sort=False).indices.values() if fixed else [np.arange(len(people))]
    answers = []
    for at in alike:
        own = people.iloc[at]
        here = {name: own[name].iloc[:1] if name in fixed else values[name] for name in people.columns}
        table = combinations(here)
        gaps = [_gaps(feature, own[feature.name], here[feature.name]) for feature in world.schema.features]

        def of_rows(at: np.ndarray, table: pd.DataFrame = table) -> np.ndarray:
            return worth(table.iloc[at])

        chosen = cheapest_first([gap / len(gaps) for gap in gaps], of_rows)
        answers.append(table.iloc[chosen[chosen >= 0]].set_axis(own.index[chosen >= 0]))
    return pd.concat(answers).reindex(people.index)


def combinations(values: dict[str, pd.Series]) -> pd.DataFrame:
    """Every combination ``(M, D)`` of the columns' values, in their dtypes, the last column's fastest."""
    places = np.indices([len(column) for column in values.values()]).reshape(len(values), -1)
    parts = {name: column.array.take(at) for (name, column), at in zip(values.items(), places, strict=True)}
    return pd.DataFrame(parts)


def cheapest_first(prices: Sequence[np.ndarray], worth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Int64 ``(B,)``: for each person the combination of the highest worth less price, −1 where all are worth −inf.

    prices: of each column's values, ``(B, L_d)``, at least 0; a combination costs their sum. worth: of the combinations
    at ``(R,)``, numbered as by `combinations`, at most 2; asked once for each, and hardly for more than could win if
    they were worth 2.
    """
    people, many = len(prices[0]), math.prod(column.shape[1] for column in prices)
    known, asked = np.full(many, -np.inf), np.zeros(many, dtype=bool)
    chosen, gained = np.full(people, -1), np.full(people, -np.inf)
    dearest = sum(column.max(1) for column in prices)
    below, most = -1.0, _FIRST
    left = np.arange(people)
    while len(left):
        reach = {i: np.flatnonzero((total > below) & (total <= most)) for i, total in _totals(prices, left)}
        new = np.unique(np.concatenate([*reach.values()]))
        new = new[~asked[new]]
        if len(new):
            known[new], asked[new] = worth(new), True
        for i, total in _totals(prices, left):
            if len(reach[i]):
                gain = known[reach[i]] - total[reach[i]]
                if gain.max() > gained[i]:
                    chosen[i], gained[i] = reach[i][gain.argmax()], gain.max()
        left = left[(2.0 - most > gained[left]) & (most < dearest[left])]
        below, most = most, _FURTHER * most
    return chosen


def _totals(prices: Sequence[np.ndarray], people: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """What every combination ``(M,)`` costs, one person after the other: all of them at once take gigabytes."""
    for i in people:
        yield i, reduce(np.add.outer, [column[i] for column in prices]).ravel()


def _gaps(feature: Feature, own: pd.Series, values: pd.Series) -> np.ndarray:
    """What the column costs each person ``(B, L)``, as in `metrics.cost`."""
    if feature.kind == "categorical":
        return (own.to_numpy()[:, None] != values.to_numpy()).astype(float)
    return np.abs(feature.scaled(own.to_numpy())[:, None] - feature.scaled(values.to_numpy()))


def _values(train: pd.Series, people: pd.Series) -> pd.Series:
    """The distinct values of both, rising where they have an order, in the dtype of the training column."""
    both = pd.concat([train, people.astype(train.dtype)])
    return both.drop_duplicates().sort_values(ignore_index=True)
