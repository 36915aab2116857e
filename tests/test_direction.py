"""Names and values that run from right to left do not turn a sentence: its arrows point to what is new."""

import re

import pandas as pd
import pytest

from recourse_gen import Counterfactuals, Schema

JOB, IDLE, FULL = "عمل", "عاطل", "كامل"


@pytest.fixture
def found() -> Counterfactuals:
    factuals = pd.DataFrame({JOB: [IDLE, FULL], "debts": [4, 6]}, index=["דנה", 7])
    keys = pd.MultiIndex.from_product([factuals.index, [0]], names=["factual", "rank"])
    report = pd.DataFrame({"status": ["ok", "not_found"], "reason": ["", "64 candidates"]}, keys)
    report["probability_before"], report["probability"] = 0.25, [0.75, 0.25]
    report["cost"], report["plausibility"], report["audited"], report["n_changed"] = 1.0, 0.5, True, 2.0
    return Counterfactuals(
        factuals, report, Schema.infer(factuals), pd.DataFrame({JOB: [FULL], "debts": [2]}, keys[:1])
    )


def test_sentences_isolate_them(found: Counterfactuals) -> None:
    who, change = "\u2068Applicant דנה\u2069", f"\u2068{JOB}\u2069 \u2068{IDLE}\u2069 → \u2068{FULL}\u2069"
    assert found.describe("דנה") == f"{who}: {change}, debts 4 → 2; approval 0.25 → 0.75"
    assert found.describe(7).startswith("Applicant 7: no recommendation (not found: 64 candidates)")


def test_pages_isolate_them(found: Counterfactuals) -> None:
    (said,) = re.findall(r"<p>\s*(<bdi>.*?)</p>", found.to_html(), re.DOTALL)
    change = f"<bdi>{JOB}</bdi> <bdi>{IDLE}</bdi> → <bdi>{FULL}</bdi>"
    assert " ".join(said.split()) == f"<bdi>Applicant דנה</bdi>: {change}, debts 4 → 2; approval 0.25 → 0.75"
