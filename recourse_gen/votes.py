"""One model's probability of the favourable class, as quickly as scikit-learn's own trees can tell it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier


def favourable(model: Any, features: np.ndarray) -> np.ndarray:
    """Float64 ``(B,)``, exactly ``model.predict_proba(features)[:, 1]``, of a classifier with two classes and finite
    features float64 ``(B, E)``.

    A forest would make a task of every tree, and look into the warnings' filters for each: for a few rows this takes
    several times as long as the trees themselves.
    """
    if not isinstance(model, (RandomForestClassifier, ExtraTreesClassifier)):
        return model.predict_proba(features)[:, 1]
    cells, total = np.ascontiguousarray(features, dtype=np.float32), np.zeros(len(features))
    for tree in model.estimators_:
        total += tree.tree_.predict(cells)[:, 1]
    return total / len(model.estimators_)
