"""A small loan table with every kind of column, a classifier of it, and a generator trained for a moment."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

from recourse_gen import RecourseGenerator, Schema
from recourse_gen.transform import TableTransform

KINDS = {"income": "continuous", "savings": "continuous"}


@pytest.fixture(scope="session")
def table() -> tuple[pd.DataFrame, np.ndarray]:
    """300 people and 0/1 outcomes: a float and an integer continuous column, counts, text, booleans, categories."""
    rng = np.random.default_rng(7)
    size = 300
    frame = pd.DataFrame(
        {
            "income": rng.normal(50.0, 10.0, size),
            "savings": rng.integers(0, 5000, size),
            "late": rng.integers(0, 6, size),
            "job": rng.choice(["none", "part", "full"], size),
            "owner": rng.random(size) < 0.4,
            "region": pd.Categorical(
                rng.choice(["north", "south", "east"], size), categories=["west", "north", "south", "east"]
            ),
            "age": rng.integers(20, 60, size).astype(np.int32),
        },
        index=pd.RangeIndex(1000, 1000 + size),
    )
    points = (
        (frame["income"] - 50.0) / 10.0
        + frame["savings"] / 5000
        - 0.8 * (frame["late"] - 2)
        + 1.0 * (frame["job"] == "full")
    )
    return frame, (points > 0).to_numpy().astype(int)


@pytest.fixture(scope="session")
def schema(table: tuple[pd.DataFrame, np.ndarray]) -> Schema:
    return Schema.infer(table[0], kinds=KINDS)


@pytest.fixture(scope="session")
def transform(table: tuple[pd.DataFrame, np.ndarray], schema: Schema) -> TableTransform:
    return TableTransform(schema).fit(table[0])


@pytest.fixture(scope="session")
def classifier(table: tuple[pd.DataFrame, np.ndarray]) -> Pipeline:
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["job", "owner", "region"]), remainder=MinMaxScaler()
    )
    return make_pipeline(encode, LogisticRegression(C=10.0)).fit(*table)


@pytest.fixture(scope="session")
def denied(table: tuple[pd.DataFrame, np.ndarray], classifier: Pipeline) -> pd.DataFrame:
    """Rows that the classifier turns down."""
    frame, _ = table
    return frame[classifier.predict_proba(frame)[:, 1] <= 0.5]


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Keyword arguments of a `RecourseGenerator` that fits in about a second."""
    training = {"steps": 60, "batch_size": 128, "learning_rate": 4e-3, "validation_pairs": 128, "validate_every": 20}
    return {
        "backbone": "ar",
        "backbone_options": {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "bins": 16},
        "pairs": {"top_k": 50},
        "training": training,
        "audit": {"n_estimators": 20, "n_jobs": 1},
        "schema": {"kinds": KINDS},
    }


@pytest.fixture(scope="session")
def fitted(table: tuple[pd.DataFrame, np.ndarray], classifier: Pipeline, small: dict[str, Any]) -> RecourseGenerator:
    """Fitted without constraints; not to be changed."""
    return RecourseGenerator(**small).fit(*table, classifier=classifier)
