"""The search makes good on what a sampler may get wrong: rules, rounding, float32, and how many it draws at a time."""

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import Pipeline
from torch import Tensor

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator
from recourse_gen.backbone import Backbone
from recourse_gen.classifier import as_classifier
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.search import Search, SearchOptions
from recourse_gen.transform import TableTransform

OPTIONS: dict[str, Any] = {
    "n": 3,
    "candidates": 64,
    "select": "cheapest",
    "confidence": 0.5,
    "audit": False,
    "sparsify": False,
    "max_candidates": 64,
    "cost_weight": 5.0,
    "temperature": 1.0,
    "seed": 0,
    "batch_size": 100,
}


class Careless(Backbone):
    """Draws any row at all, whatever is asked of it, or moves one number of the factual by next to nothing."""

    def __init__(self, schema: Any, nudge: str | None = None) -> None:
        super().__init__(schema)
        self.nudge, self.drafts = nudge, []

    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, factual: Rows, *, num_samples: int, noise: Noise, **options: Any) -> Rows:
        self.drafts.append(factual.batch_size * num_samples)
        if self.nudge:
            num = factual.num[:, None].repeat(1, num_samples, 1)
            at = [feature.name for feature in self.schema.numbers].index(self.nudge)
            num[..., at] = 0.9 + 2e-5 * noise.uniform(num_samples, 1)[..., 0]
            return Rows(num, factual.cat[:, None].repeat(1, num_samples, 1))
        sizes = torch.tensor([len(feature.levels) for feature in self.schema.tokens])
        cat = (noise.uniform(num_samples, len(sizes)) * sizes).long()
        return Rows(noise.uniform(num_samples, len(self.schema.numbers)), cat)


def search(
    model: Backbone,
    transform: TableTransform,
    classifier: Any,
    factuals: pd.DataFrame,
    rules: Constraints,
    auditor: Any = None,
    **options: Any,
) -> Counterfactuals:
    adapted = as_classifier(classifier, columns=transform.dtypes)
    return Search(model, transform, adapted, auditor, rules, SearchOptions(**{**OPTIONS, **options}))(factuals)


def test_a_backbone_that_ignores_the_rules_is_found_out(
    transform: TableTransform, classifier: Pipeline, denied: pd.DataFrame
) -> None:
    rules = Constraints(ranges={"age": (30, 50)}, allowed={"job": ["full"]}, monotone={"late": "decrease"})
    many: dict[str, Any] = {"n": 1, "candidates": 200, "max_candidates": 200}
    found = search(Careless(transform.schema), transform, classifier, denied, rules, **many)
    frame = found.to_frame()
    before = denied.loc[frame.index.get_level_values(0)]
    open_to_help = found.report["status"] != "infeasible"
    assert open_to_help.sum() > 50
    assert (found.report["status"][open_to_help] == "ok").mean() > 0.95, (
        "rejecting the cheapest must not end the search"
    )
    assert not rules.violations(before, frame).any()


def test_answers_that_round_to_the_same_row_are_one_answer(transform: TableTransform, denied: pd.DataFrame) -> None:
    def rich(frame: pd.DataFrame) -> np.ndarray:
        return np.where(frame["savings"] > 4000, 0.8, 0.2)

    poor = denied[denied["savings"] < 4000].iloc[:5]
    found = search(Careless(transform.schema, nudge="savings"), transform, rich, poor, Constraints())
    frame, report = found.to_frame(), found.report
    assert frame.groupby(level=0).size().min() >= 1
    assert not frame.reset_index(level=1, drop=True).reset_index().duplicated().any()
    assert frame["savings"].dtype == np.dtype("int64")
    bounds = transform.schema["savings"].bounds
    assert bounds is not None
    moved = frame["savings"] - poor["savings"].reindex(frame.index.get_level_values(0)).to_numpy()
    expected = moved / (bounds[1] - bounds[0])
    np.testing.assert_allclose(report.loc[frame.index, "cost"], expected, atol=1e-6)
    assert (report.loc[frame.index, "n_changed"] == 1).all()


def test_what_stays_is_exactly_what_it_was(transform: TableTransform, denied: pd.DataFrame) -> None:
    """Values that no level and no float32 holds come back untouched."""
    people = denied.iloc[:8].assign(age=np.int32(99), income=np.nextafter(50.0, 60.0))
    people["savings"] = 100

    def rich(frame: pd.DataFrame) -> np.ndarray:
        return np.where(frame["savings"] > 4000, 0.8, 0.2)

    found = search(Careless(transform.schema, nudge="savings"), transform, rich, people, Constraints(), n=1)
    frame = found.to_frame().droplevel(1)
    assert len(frame) == 8
    unchanged = [name for name in frame.columns if name != "savings"]
    pd.testing.assert_frame_equal(frame[unchanged], people[unchanged].rename_axis("factual"), check_exact=True)


@pytest.mark.parametrize("candidates", [1, 4, 16])
def test_rounds_continue_one_stream(
    fitted: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline, candidates: int
) -> None:
    """Thirty-two candidates are the same thirty-two, drawn at once or in rounds."""
    assert fitted.model is not None
    parts: tuple[Any, ...] = (fitted.model, fitted.transform, classifier, denied.iloc[:10], Constraints())
    once = search(*parts, n=32, candidates=32, max_candidates=32)
    rounds = search(*parts, n=32, candidates=candidates, max_candidates=32)
    assert len(once) > 50
    pd.testing.assert_frame_equal(rounds.to_frame(), once.to_frame())


class Sceptic:
    """Accepts nobody, and expects most of the young."""

    def __init__(self, transform: TableTransform) -> None:
        self.transform = transform

    def consensus(self, rows: Rows) -> np.ndarray:
        return np.zeros(rows.batch_size)

    def plausibility(self, rows: Rows) -> np.ndarray:
        return -self.transform.decode(rows)["age"].to_numpy(dtype=np.float64)

    def expected(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        return consensus + 100 * plausibility

    def accepts(self, consensus: np.ndarray, plausibility: np.ndarray) -> np.ndarray:
        return np.zeros(len(consensus), dtype=bool)


def test_score_asks_what_is_expected_and_needs_no_approval_to_stop(
    transform: TableTransform, classifier: Pipeline, denied: pd.DataFrame
) -> None:
    """Twenty candidates hold valid ones; a search for accepted ones goes on in vain, and chooses from more."""
    parts: tuple[Any, ...] = (transform, classifier, denied.iloc[:30], Constraints(), Sceptic(transform))
    found = {
        select: search(Careless(transform.schema), *parts, select=select, n=1, candidates=20, max_candidates=40)
        for select in ("score", "cheapest")
    }
    assert set(found["score"].report["candidates"]) == {20}
    assert set(found["cheapest"].report["candidates"]) == {40}
    score, cheapest = (one.to_frame()["age"].to_numpy() for one in found.values())
    assert len(score) == len(cheapest) == 30
    assert (cheapest <= score).all()
    assert (cheapest < score).any()
    once = search(Careless(transform.schema), *parts, select="score", n=1, candidates=40, max_candidates=40)
    np.testing.assert_array_equal(once.to_frame()["age"], cheapest)


def test_later_rounds_take_no_more_memory_than_the_first(transform: TableTransform, denied: pd.DataFrame) -> None:
    def never(frame: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(frame))

    model = Careless(transform.schema)
    found = search(model, transform, never, denied, Constraints(), candidates=4, max_candidates=64, batch_size=50)
    assert set(found.report["candidates"]) == {64}
    assert max(model.drafts) <= 4 * 50
    assert sum(model.drafts) == 64 * len(denied)


def test_more_people_take_no_more_memory_than_their_answers(transform: TableTransform, denied: pd.DataFrame) -> None:
    """What batches need besides is the same for one of them and for many: far more than a person's answer."""
    model = Careless(transform.schema)
    sizes: dict[str, Any] = {"n": 1, "candidates": 256, "max_candidates": 256, "batch_size": 50}

    def approve(frame: pd.DataFrame) -> np.ndarray:
        return np.where(frame["savings"] > 2000, 0.9, 0.1)

    def peak(people: int) -> int:
        asked = denied.iloc[np.arange(people) % len(denied)].reset_index(drop=True)
        tracemalloc.start()
        try:
            search(model, transform, approve, asked, Constraints(), **sizes)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)  # whatever is made once
    one, many = peak(50), peak(500)
    assert (many - one) / 450 < one / 50 / 10
