"""What a model of the auditor says is what scikit-learn says."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier

from recourse_gen.votes import favourable


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(20, random_state=0),
        RandomForestClassifier(20, min_samples_leaf=7, max_features=None, random_state=1),
        ExtraTreesClassifier(20, random_state=0),
        HistGradientBoostingClassifier(max_iter=20, early_stopping=False, random_state=0),
    ],
)
@pytest.mark.parametrize("rows", [1, 300])
def test_it_is_predict_proba_to_the_last_bit(model: object, rows: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((400, 5))
    model.fit(features, features[:, 0] + rng.random(400) > 1, sample_weight=rng.random(400))  # type: ignore[attr-defined]
    asked = rng.random((rows, 5)) * 1.2
    np.testing.assert_array_equal(favourable(model, asked), model.predict_proba(asked)[:, 1])  # type: ignore[attr-defined]
