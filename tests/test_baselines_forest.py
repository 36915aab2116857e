"""Boosted trees conditioned on the factual generate approved rows where people are."""

import sys

import pytest
from worlds import clusters

from bench.baselines.forest import Forest
from recourse_gen import metrics


def test_answers_are_partners_of_their_factuals() -> None:
    pytest.importorskip("ForestDiffusion")
    given = clusters(200)
    asked = given.denied.iloc[:20]
    method = Forest(pairs=400, n_t=8, duplicate_K=2, n_estimators=15, candidates=6).fit(given)
    answers = method.counterfactuals(asked)
    assert metrics.answered(answers).mean() > 0.8
    found = answers.dropna()
    assert (found["x"] > 0.5).all() and (found["group"] == asked["group"].loc[found.index]).all()
    assert ((found[["x", "y"]] - 0.8).abs() < 0.25).to_numpy().mean() > 0.8
    assert method.counterfactuals(asked).equals(answers)


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ForestDiffusion", None)
    with pytest.raises(ValueError, match=r"\[bench\]"):
        Forest().fit(clusters(60))
