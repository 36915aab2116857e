"""What several answers for one person have in common, by `select`: what `generate` makes of it."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.classifier import as_classifier
from recourse_gen.selection import POLICIES
from tests.stubs import in_place_of, on_cpu

FEW: dict[str, Any] = {"n": 4, "candidates": 32, "max_candidates": 128, "cost_weight": 5.0}


@pytest.mark.parametrize("sparsify", [False, True])
@pytest.mark.parametrize("audit", [False, True])
def test_the_cheapest_answers_come_in_order_of_cost(
    fitted: RecourseGenerator, denied: pd.DataFrame, sparsify: bool, audit: bool
) -> None:
    """Those that the auditor accepts; with one column fewer to change, none costs more."""
    report = fitted.generate(denied, select="cheapest", sparsify=sparsify, audit=audit, **{**FEW, "n": 6}).report
    held = report[(report["status"] == "ok") & (report["audited"] | (not audit))]
    people = held.groupby(level="factual")["cost"]
    assert (people.size() > 3).sum() > 30
    assert people.is_monotonic_increasing.all()


@pytest.mark.parametrize("sparsify", [False, True])
def test_diverse_answers_differ_most(fitted: RecourseGenerator, denied: pd.DataFrame, sparsify: bool) -> None:
    asked = denied.iloc[:40]
    found = {name: fitted.generate(asked, select=name, sparsify=sparsify, **FEW) for name in POLICIES}
    diversity = {name: each.diversity() for name, each in found.items()}
    # The most confident answers keep changes that sparse ones do without.
    for other in ("score", "cheapest") if sparsify else ("score", "cheapest", "confident"):
        assert (diversity["diverse"] > diversity[other]).mean() > 0.8
        assert diversity["diverse"].mean() > 1.3 * diversity[other].mean()
    report, cheap = found["diverse"].report, found["cheapest"].report
    assert (report["status"] == "ok").mean() == (cheap["status"] == "ok").mean()
    assert (report["audited"] == cheap["audited"]).mean() > 0.9, "accepted ones come first"
    best, least = (each.xs(0, level="rank")["cost"] for each in (report, cheap))
    assert (best <= least + 1e-6).all() if not sparsify else best.mean() < 1.2 * least.mean()


@pytest.mark.parametrize("sparsify", [False, True])
@pytest.mark.parametrize("audit", [False, True])
def test_pareto_answers_cost_more_only_where_they_are_more_probable(
    fitted: RecourseGenerator, denied: pd.DataFrame, sparsify: bool, audit: bool
) -> None:
    asked = denied.iloc[:40]
    report = fitted.generate(asked, select="pareto", sparsify=sparsify, audit=audit, **FEW).report
    held = report[report["status"] == "ok"]
    assert held.groupby(level=0).size().mean() > 2
    for name in ("cost", "probability"):
        steps = held[name].groupby(level=0).diff().dropna()
        assert len(steps) > 40
        assert (steps > 0).all()
    short = report[report["reason"].str.startswith("no other answer")]
    assert short["reason"].str.fullmatch(r"no other answer on the front among (32|64|128) candidates").all()
    # Both ends: nothing cheaper is known than the first, and nothing surer than the last.
    options = {**FEW, "n": 1, "select": "cheapest", "sparsify": sparsify, "audit": audit}
    cheap = fitted.generate(asked, **options).report
    first = report.xs(0, level="rank")["cost"] - cheap.xs(0, level="rank")["cost"]
    assert first.mean() < 0.02


def test_where_no_answer_is_surer_than_the_cheapest_it_is_the_only_one(
    fitted: RecourseGenerator, denied: pd.DataFrame
) -> None:
    punctual = in_place_of(fitted, on_cpu(fitted).sample)
    punctual.classifier = as_classifier(lambda frame: np.where(frame["late"] <= 1, 0.9, 0.1))
    asked = denied[denied["late"] > 1].iloc[:20]
    report = punctual.generate(asked, select="pareto", audit=False, **FEW).report
    assert report["status"].tolist() == ["ok", *["not_found"] * 3] * 20
    assert set(report["reason"].iloc[1:4]) == {"no other answer on the front among 128 candidates"}


@pytest.mark.parametrize("select", ["diverse", "pareto"])
def test_company_rules_and_copies_do_not_matter(fitted: RecourseGenerator, denied: pd.DataFrame, select: str) -> None:
    rules = Constraints(immutable=["job"], monotone={"age": "increase"}, max_changes=4)
    asked = pd.concat([denied.iloc[:15], denied.iloc[:3].set_axis(["a", "b", "c"])])
    options = {**FEW, "select": select, "constraints": rules}
    found = fitted.generate(asked, **options)
    frame = found.to_frame()
    assert len(frame) > 30
    assert not rules.violations(asked.loc[frame.index.get_level_values(0)], frame).any()
    for batch_size in (1, 7):
        again = fitted.generate(asked, batch_size=batch_size, **options)
        pd.testing.assert_frame_equal(again.to_frame(), frame)
        pd.testing.assert_frame_equal(again.report, found.report)
    for twin, label in zip("abc", asked.index, strict=False):
        pd.testing.assert_frame_equal(frame.loc[[twin]].droplevel(0), frame.loc[[label]].droplevel(0))
    nobody = fitted.generate(asked.iloc[:0], **options)
    assert len(nobody.report) == len(nobody) == 0
