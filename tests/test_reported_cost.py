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
