"""Mothilal et al., "Explaining machine learning classifiers through diverse counterfactual explanations" (2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bench.baselines import Baseline
from bench.baselines.coordinates import Coordinates
from bench.baselines.seeding import seeded
from bench.baselines.space import approved
from recourse_gen import metrics
from recourse_gen.classifier import Classifier, as_classifier
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from typing import Self

    from train import World

OUTCOME = "outcome"


class Dice(Baseline):
    """The authors' package dice-ml (MIT), one counterfactual per person, whatever the classifier.

    method: ``genetic`` minimises the paper's loss, hinge + distance by median absolute deviations + changes, by
    evolution from training rows near the factual; ``random`` draws values of a few columns until the classifier
    approves; ``kdtree`` takes training rows. The paper's gradients need a network over the package's own encoding.
    iterations: at most, of ``genetic``. Other settings are the package's defaults. It works through the factuals one by
    one, and its answers are put on the nearest rows that the table could hold.
    """

    def __init__(self, *, seed: int = 0, method: str = "genetic", iterations: int = 500) -> None:
        if method not in ("genetic", "random", "kdtree"):
            raise ValueError(f"method must be genetic, random or kdtree, got {method!r}")
        self.seed = seed
        self.method = method
        self.iterations = iterations

    def fit(self, world: World) -> Self:
        """Raises ValueError where dice-ml is not installed."""
        try:
            import dice_ml
        except ImportError as error:
            raise ValueError('the baseline dice needs dice-ml; pip install -e ".[bench]"') from error
        self.coordinates = Coordinates(world.schema, world.constraints, world.train)
        self.classifier = as_classifier(world.classifier, columns=world.train.dtypes)
        self.vary = [name for name in world.schema.names if name not in world.constraints.immutable]
        reader = Reader(world.schema, world.train, self.classifier)
        numbers = [feature.name for feature in world.schema.features if feature.kind != "categorical"]
        table = reader.spelled(world.train).assign(**{OUTCOME: np.asarray(world.y_train)})
        told = dice_ml.Data(dataframe=table, continuous_features=numbers, outcome_name=OUTCOME)
        with seeded(self.seed):
            model = dice_ml.Model(model=reader, backend="sklearn", model_type="classifier")
            self.explainer = dice_ml.Dice(told, model, method=self.method)
        self.reader = reader
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        from raiutils.exceptions import UserConfigValidationException

        options: dict[str, Any] = {"features_to_vary": self.vary, "desired_class": 1, "total_CFs": 1}
        options["posthoc_sparsity_algorithm"] = "binary"  # the other, linear one takes half a minute for a person
        if self.method == "genetic":
            options["maxiterations"] = self.iterations
        if self.method == "random":
            options["random_seed"] = self.seed
        points = self.coordinates.encode(factuals).fill_(torch.nan)
        with seeded(self.seed):
            try:
                examples = self.explainer.generate_counterfactuals(self.reader.spelled(factuals), **options)
                made = [example.final_cfs_df for example in examples.cf_examples_list]
            except UserConfigValidationException:  # nobody has an answer
                made = []
        for place, frame in enumerate(made):
            if frame is not None and len(frame):
                row = self.reader.read(frame.iloc[:1])
                points[place] = torch.from_numpy(metrics.coordinates(row, self.reader.schema))[0]
        return approved(factuals, points, self.coordinates, self.classifier)


class Reader:
    """The classifier as a scikit-learn model of frames in which categories are text, as dice-ml makes them."""

    classes_ = np.array([0, 1])

    def __init__(self, schema: Schema, train: pd.DataFrame, classifier: Classifier) -> None:
        self.schema, self.dtypes, self.classifier = schema, train.dtypes, classifier
        self.categories = [feature for feature in schema.features if feature.kind == "categorical"]

    def spelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{f.name: frame[f.name].astype(object).map(str) for f in self.categories})

    def read(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Categories as they were, numbers as floats."""
        columns: dict[str, Any] = {}
        for feature in self.schema.features:
            if feature.kind == "categorical":
                levels = {str(level): level for level in feature.levels}
                columns[feature.name] = frame[feature.name].map(levels).astype(self.dtypes[feature.name])
            else:
                columns[feature.name] = frame[feature.name].astype(float)
        return pd.DataFrame(columns, index=frame.index)

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        read = self.read(frame)
        integers = [name for name in self.schema.names if pd.api.types.is_integer_dtype(self.dtypes[name])]
        whole: dict[str, Any] = {name: read[name].round() for name in integers}
        yes = self.classifier.probability(read.assign(**whole))
        return np.stack([1 - yes, yes], 1)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return (self.predict_proba(frame)[:, 1] > 0.5).astype(int)
