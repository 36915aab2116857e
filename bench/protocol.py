"""The protocol of GenRe (Garg et al., ICLR 2025): one world, the people to help, and what answers are measured by.

The paper's measures are in `recourse_gen.evaluation`; beside them stand a second critic of plausibility, which never
saw a training row, and classifiers that might have been deployed instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

import train
from bench.cells import PAPER, fit, world_settings
from bench.robustness import rivals
from recourse_gen import Schema, data, evaluation, metrics
from recourse_gen.classifier import Classifier, as_classifier

DATA = ("adult", "compas", "heloc", "moons", "circles", "corr", "german")
PUBLISHED = {  # the row of GenRe in the authors' notebook, 200 people
    "adult": {"cost": 0.69, "validity_judge": 1.00, "plausibility": 0.98, "score": 1.93},
    "compas": {"cost": 0.51, "validity_judge": 0.99, "plausibility": 0.97, "score": 1.89},
    "heloc": {"cost": 2.01, "validity_judge": 1.00, "plausibility": 1.00, "score": 1.90},
}
# The paper fills the gaps of HELOC with means of each class, which leak the label: for parity only. The exact split is
# filled like that already.
PARITY = {"heloc": ("data.impute=class_mean",)}
REPEATS = 2  # classifiers trained anew, of each kind
OUTLIERS = 0.05  # the share of its own reference rows that the second critic takes for outliers


def settings(data: str, seed: int, *, factuals: int, folder: str | None) -> list[str]:
    """Settings of train.py for one world. folder: of the paper's exact splits."""
    return [*world_settings(data, seed, folder), *PARITY.get(data, ()), f"evaluation.factuals={factuals}"]


def split(data: str, folder: str | None) -> str:
    """``paper`` for the paper's exact split, ``own`` for one that is drawn anew."""
    return "paper" if folder and data in PAPER else "own"


@dataclass(frozen=True)
class Trial:
    """One world, fitted once for all methods. config: of train.py; its backbone does not matter."""

    config: dict[str, Any]
    given: train.World

    @classmethod
    def of(cls, config: dict[str, Any]) -> Trial:
        """Read the data, fit the judge and the classifier, select the people."""
        return cls(config, train.world(config, train.Stopwatch()))

    def world(self, schema: dict[str, Any]) -> train.World:
        """The same world in the columns of another schema. schema: options of `Schema.infer`, as in train.yaml."""
        if schema == self.config["schema"]:
            return self.given
        kinds = {**self.config["data"]["kinds"], **schema.get("kinds", {})}
        return replace(self.given, schema=Schema.infer(self.given.train, **{**schema, "kinds": kinds}))

    def measure(self, answers: pd.DataFrame) -> dict[str, Any]:
        """`evaluate_frames` of one answer per person, and as shares of all people, higher being better:

        ``second_critic``: an isolation forest on test rows that the judge favours takes the answer for an inlier.
        ``retrained``: of the classifiers of the same kind trained anew, with other random states and on other draws of
        the rows, these say yes. ``other_models``: of the classifiers of other kinds, these do.
        ``lead``: the score less that of the nearest partner.
        """
        row = self.score(answers)
        found = metrics.answered(answers)
        inlier = np.zeros(len(answers), dtype=bool)
        if found.any():
            points = metrics.coordinates(answers[found].infer_objects(), self.given.schema)
            inlier[found] = self.critic.predict(points) == 1
        kinds = self.models.items()
        same = [model for kind, models in kinds if kind in ("seeds", "bootstraps") for model in models]
        other = [model for kind, models in kinds if kind not in ("seeds", "bootstraps") for model in models]
        return {
            **row,
            "lead": row["score"] - self.nearest_score,
            "second_critic": float(inlier.mean()),
            "retrained": float(metrics.robustness(answers, same).mean()),
            "other_models": float(metrics.robustness(answers, other).mean()),
        }

    def score(self, answers: pd.DataFrame) -> dict[str, Any]:
        """`evaluate_frames` of one answer per person."""
        given = self.given
        parts: dict[str, Any] = {"judge": given.judge, "schema": given.schema, "constraints": given.constraints}
        return evaluation.evaluate_frames(given.denied, answers, classifier=self.classifier, **parts)

    @cached_property
    def classifier(self) -> Classifier:
        return as_classifier(self.given.classifier, columns=self.given.train.dtypes)

    @cached_property
    def nearest(self) -> pd.DataFrame:
        """The cheapest admissible training partner of each person."""
        generator = fit({**self.config, "backbone": {"name": "nearest"}}, self.given)
        return evaluation.nearest_partners(generator, self.given.denied)

    @cached_property
    def nearest_score(self) -> float:
        return self.score(self.nearest)["score"]

    @cached_property
    def critic(self) -> IsolationForest:
        """Fitted on test rows that the judge favours, the people themselves left out."""
        table = {key: value for key, value in self.config["data"].items() if key not in ("relabel", "balanced")}
        test = data.load(**table, seed=self.config["seed"]).test.drop(index=self.given.denied.index)
        favoured = test[self.given.judge.probability(test) > 0.5]
        if favoured.empty:
            raise ValueError("the judge favours no test row, so there is nothing to compare answers with")
        forest = IsolationForest(contamination=OUTLIERS, random_state=self.config["seed"])
        return forest.fit(metrics.coordinates(favoured, self.given.schema))

    @cached_property
    def models(self) -> dict[str, list[Classifier]]:
        """Classifiers that might have been deployed instead, see `rivals`."""
        return rivals(self.config, self.given, REPEATS)
