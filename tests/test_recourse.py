"""Fit on a frame and a classifier, generate for people who were turned down: what users see."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator
from recourse_gen.audit import Auditor
from recourse_gen.counterfactuals import REPORT, STATUSES
from recourse_gen.metrics import cost

Table = tuple[pd.DataFrame, np.ndarray]
# A barely trained generator finds more where it may stray: nothing here depends on the defaults.
FEW: dict[str, Any] = {"candidates": 16, "max_candidates": 64, "cost_weight": 5.0}


def probability(classifier: Pipeline, frame: pd.DataFrame) -> np.ndarray:
    return classifier.predict_proba(frame)[:, 1]


def check(
    found: Counterfactuals, asked: pd.DataFrame, like: pd.DataFrame, classifier: Pipeline, n: int, rules: Constraints
) -> None:
    """All that holds for any answer, whatever was asked."""
    frame, report = found.to_frame(), found.report
    assert list(report.index) == [(name, rank) for name in asked.index for rank in range(n)]
    assert report.index.names == frame.index.names == ["factual", "rank"]
    assert list(report.columns) == list(REPORT)
    assert set(report["status"]) <= set(STATUSES)
    ok = report["status"] == "ok"
    assert list(frame.index) == list(report.index[ok])
    assert len(found) == len(frame)
    assert list(frame.columns) == list(like.columns)
    pd.testing.assert_series_equal(frame.dtypes, like.dtypes)
    assert not frame.isna().any().any()
    always = ["status", "reason", "probability_before", "probability", "audited", "candidates"]
    assert report[always].notna().all().all()
    np.testing.assert_array_equal(report["acceptance"].notna(), report["candidates"] > 0)
    assert report.loc[~ok, ["cost", "n_changed", "log_likelihood"]].isna().all().all()
    assert report.loc[ok, ["cost", "n_changed"]].notna().all().all()
    assert (report.loc[~ok, "reason"] != "").all()
    if not len(frame):
        return
    np.testing.assert_allclose(report.loc[ok, "probability"], probability(classifier, frame), atol=1e-9)
    assert (report.loc[ok, "probability"] > 0.5).all()
    np.testing.assert_array_equal(report.loc[~ok, "probability"], report.loc[~ok, "probability_before"])
    before = asked.loc[frame.index.get_level_values(0), list(like.columns)]
    assert not rules.violations(before, frame).any()
    differ = (before.astype(object).to_numpy() != frame.astype(object).to_numpy()).sum(1)
    np.testing.assert_array_equal(report.loc[ok, "n_changed"], differ)
    assert (differ > 0).all()


def test_answers_keep_every_promise(
    fitted: RecourseGenerator, denied: pd.DataFrame, table: Table, classifier: Pipeline
) -> None:
    found = fitted.generate(denied.iloc[:40], n=3, **FEW)
    check(found, denied.iloc[:40], table[0], classifier, 3, Constraints())
    report = found.report
    assert (report["status"] == "ok").mean() > 0.9
    frame = found.to_frame()
    before = denied.loc[frame.index.get_level_values(0)].set_axis(frame.index)
    np.testing.assert_allclose(report.loc[frame.index, "cost"], cost(before, frame, fitted.schema), atol=1e-5)
    distinct = (
        frame.astype(object).groupby(level=0).apply(lambda answers: len(answers.drop_duplicates()) == len(answers))
    )
    assert distinct.all()
    ranked = report[report["status"] == "ok"]
    expected = fitted.auditor.expected(ranked["consensus"].to_numpy(), ranked["plausibility"].to_numpy())
    burden = ranked["cost"] + 0.12 * ranked["n_changed"]
    scores = (expected - burden / len(frame.columns)).groupby(level=0)
    assert scores.apply(lambda values: (values.diff().dropna() < 1e-9).all()).all()


def test_cheapest_ranks_what_the_auditor_accepts_by_cost(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    report = fitted.generate(denied.iloc[:40], n=3, select="cheapest", sparsify=False, **FEW).report
    accepted = report[report["audited"]]
    assert (accepted.groupby(level=0).size() > 1).any()
    assert accepted.groupby(level=0)["cost"].apply(lambda values: values.is_monotonic_increasing).all()


def test_the_auditor_learns_from_those_whom_the_classifier_approves(
    table: Table, classifier: Pipeline, small: dict[str, Any]
) -> None:
    frame, granted = table
    noisy = np.where(np.random.default_rng(0).random(len(frame)) < 0.3, 1 - granted, granted)
    generator = RecourseGenerator(**{**small, "backbone": "nearest", "backbone_options": {}})
    generator.fit(frame, noisy, classifier=classifier)
    rows, approved = generator.transform.encode(frame), probability(classifier, frame) > 0.5
    opinions = generator.auditor.consensus(rows), generator.auditor.plausibility(rows)
    other, same = (
        Auditor(generator.schema, **small["audit"]).fit(rows, noisy, seed=0, approved=flags).expected(*opinions)
        for flags in (None, approved)
    )
    np.testing.assert_array_equal(generator.auditor.expected(*opinions), same)
    assert np.abs(other - same).max() > 0.01


def test_changes_lead_from_the_factual_to_the_answer(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    found = fitted.generate(denied.iloc[:10], n=2, **FEW)
    changes, frame = found.changes(), found.to_frame()
    assert list(changes.columns) == ["factual", "rank", "feature", "from", "to"]
    counts = changes.groupby(["factual", "rank"]).size()
    assert (counts == found.report.loc[counts.index, "n_changed"]).all()
    for row in changes.to_dict("records"):
        assert row["from"] == denied.loc[row["factual"], row["feature"]]
        assert row["to"] == frame.loc[(row["factual"], row["rank"]), row["feature"]]
        assert row["from"] != row["to"]


def test_rules_given_to_fit_hold(
    table: Table, denied: pd.DataFrame, classifier: Pipeline, small: dict[str, Any]
) -> None:
    rules = Constraints(
        immutable=["owner", "region"], monotone={"age": "increase"}, max_changes=4, ranges={"late": (0, 5)}
    )
    with pytest.warns(UserWarning, match="no admissible partner"):
        generator = RecourseGenerator(**small).fit(*table, classifier=classifier, constraints=rules)
    assert generator.summary["factuals_without_partner"] > 0
    found = generator.generate(denied.iloc[:30], n=2, **FEW)
    check(found, denied.iloc[:30], table[0], classifier, 2, rules)
    assert len(found) > 30
    free = Constraints(allowed={"region": ["north"]})
    other = generator.generate(denied.iloc[:30], constraints=free, **FEW)
    check(other, denied.iloc[:30], table[0], classifier, 1, free)
    assert set(other.to_frame()["region"]) == {"north"}, "the constraints of a call replace those of fit"
    assert set(denied["region"]) > {"north"}


def test_each_status_occurs_where_it_should(fitted: RecourseGenerator, table: Table, classifier: Pipeline) -> None:
    frame, _ = table
    approved = probability(classifier, frame) > 0.5
    rules = Constraints(ranges={"income": (200.0, 300.0)})
    found = fitted.generate(frame.iloc[:30], constraints=rules, **FEW)
    status = found.report["status"].to_numpy()
    assert (status[approved[:30]] == "already_favourable").all()
    assert (status[~approved[:30]] == "infeasible").all()
    assert found.report["reason"][~approved[:30]].str.contains("income").all()
    np.testing.assert_allclose(found.report["probability"], probability(classifier, frame.iloc[:30]))
    assert len(found) == 0
    pd.testing.assert_series_equal(found.to_frame().dtypes, frame.dtypes)


def test_candidates_without_success_are_not_found(table: Table, small: dict[str, Any]) -> None:
    """A classifier that says yes to the training rows and never to anything new."""
    frame, granted = table
    known = {row: float(label) for row, label in zip(frame.itertuples(index=False, name=None), granted, strict=True)}

    def only_known(rows: pd.DataFrame) -> np.ndarray:
        return np.array([known.get(row, 0.0) for row in rows.itertuples(index=False, name=None)])

    generator = RecourseGenerator(**small).fit(frame, granted, classifier=only_known)
    found = generator.generate(frame[granted == 0].iloc[:12], n=2, candidates=4, max_candidates=10)
    assert set(found.report["status"]) == {"not_found"}
    assert set(found.report["candidates"]) == {10}
    assert found.report["reason"].str.contains("10 candidates").all()
    assert len(found.to_frame()) == 0
    assert found.best().isna().all().all()


def test_an_answer_depends_on_the_row_and_the_seed_alone(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    people = denied.iloc[:25]
    whole = fitted.generate(people, n=2, **FEW)
    for batch_size in (1, 3, 1000):
        assert_same(fitted.generate(people, n=2, batch_size=batch_size, **FEW), whole)
    shuffled = people.iloc[np.random.default_rng(0).permutation(25)]
    mixed = fitted.generate(shuffled, n=2, **FEW)
    pd.testing.assert_frame_equal(mixed.to_frame().sort_index(), whole.to_frame().sort_index())
    alone = fitted.generate(people.iloc[[7]], n=2, **FEW).to_frame()
    pd.testing.assert_frame_equal(alone, whole.to_frame().loc[[people.index[7]]])
    assert not fitted.generate(people, n=2, seed=5, **FEW).to_frame().equals(whole.to_frame())


def assert_same(one: Counterfactuals, other: Counterfactuals) -> None:
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame())
    pd.testing.assert_frame_equal(one.report, other.report)


def test_twins_get_the_same_advice(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    twins = pd.concat([denied.iloc[[4]], denied.iloc[:8], denied.iloc[[4]]]).reset_index(drop=True)
    frame = fitted.generate(twins, n=2, **FEW).to_frame()
    for other in (5, 9):
        pd.testing.assert_frame_equal(frame.loc[[0]].droplevel(0), frame.loc[[other]].droplevel(0))


def test_nothing_global_changes(
    table: Table, denied: pd.DataFrame, classifier: Pipeline, small: dict[str, Any]
) -> None:
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    given = table[0].copy(), denied.copy()
    RecourseGenerator(**small).fit(*table, classifier=classifier).generate(denied.iloc[:3], **FEW)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))  # noqa: NPY002
    pd.testing.assert_frame_equal(table[0], given[0])
    pd.testing.assert_frame_equal(denied, given[1])


def test_nobody_asked_nothing_answered(fitted: RecourseGenerator, table: Table, denied: pd.DataFrame) -> None:
    nobody, somebody = fitted.generate(denied.iloc[:0], n=2), fitted.generate(denied.iloc[:2], n=2, **FEW)
    pd.testing.assert_series_equal(nobody.to_frame().dtypes, table[0].dtypes)
    pd.testing.assert_series_equal(nobody.report.dtypes, somebody.report.dtypes)
    assert nobody.report.index.names == nobody.to_frame().index.names == ["factual", "rank"]
    assert len(nobody.report) == len(nobody) == len(nobody.changes()) == len(nobody.best()) == 0
    assert list(fitted.get_counterfactuals(denied.iloc[:0]).columns) == list(table[0].columns)


def test_the_benchmark_convention(fitted: RecourseGenerator, table: Table, classifier: Pipeline) -> None:
    frame = table[0].iloc[:20]
    answers = fitted.get_counterfactuals(frame)
    pd.testing.assert_index_equal(answers.index, frame.index)
    assert list(answers.columns) == list(frame.columns)
    found = fitted.generate(frame)
    expected = (found.report["status"] == "ok").to_numpy()
    assert 0 < expected.sum() < 20
    np.testing.assert_array_equal(answers.notna().all(axis=1), expected)
    assert answers[~expected].isna().all().all()
    np.testing.assert_array_equal(answers["income"][expected], found.to_frame()["income"])


def test_inputs_in_other_dtypes_and_orders_mean_the_same(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    people = denied.iloc[:12]
    expected = fitted.generate(people, **FEW)
    other = people[people.columns[::-1]].assign(
        region=people["region"].cat.remove_unused_categories(),
        late=people["late"].astype(float),
        age=people["age"].astype("int64"),
        owner=people["owner"].astype(object),
        job=people["job"].astype("category"),
    )
    pd.testing.assert_frame_equal(fitted.generate(other, **FEW).to_frame(), expected.to_frame())
    other["region"] = other["region"].astype(str)
    pd.testing.assert_frame_equal(fitted.generate(other, batch_size=5, **FEW).to_frame(), expected.to_frame())


def test_values_that_training_lacked_may_stay(
    fitted: RecourseGenerator, table: Table, denied: pd.DataFrame, classifier: Pipeline
) -> None:
    people = denied.iloc[:20].assign(savings=9000, age=np.int32(99))
    assert (probability(classifier, people) <= 0.5).sum() > 5
    for limits in (Constraints(immutable=["age", "savings"]), Constraints(max_changes=3)):
        found = fitted.generate(people, constraints=limits, n=2, **FEW)
        check(found, people, table[0], classifier, 2, limits)
        assert len(found) > 5


def test_confidence_is_a_floor(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    found = fitted.generate(denied.iloc[:20], confidence=0.9, audit=False, **FEW)
    assert len(found) > 10
    assert not found.report["audited"].any(), "nobody was asked"
    assert found.report.loc[found.to_frame().index, "probability"].min() >= 0.9


def test_policies_choose_what_they_say(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    exactly: dict[str, Any] = {"candidates": 30, "max_candidates": 30, "audit": False}
    cheap = fitted.generate(denied.iloc[:30], select="cheapest", **exactly).report
    sure = fitted.generate(denied.iloc[:30], select="confident", **exactly).report
    assert (cheap["status"] == sure["status"]).all()
    assert (cheap["cost"].fillna(0) <= sure["cost"].fillna(0) + 1e-9).all()
    assert (cheap["probability"] <= sure["probability"] + 1e-9).all()
    assert cheap["cost"].sum() < sure["cost"].sum()
    assert cheap["consensus"].isna().all()
    # Where no auditor is asked and nothing put back, the cost alone decides.
    plain = {**exactly, "sparsify": False}
    cheap, best = (fitted.generate(denied.iloc[:30], select=name, **plain).report for name in ("cheapest", "score"))
    pd.testing.assert_frame_equal(best, cheap)


def test_a_higher_cost_weight_stays_closer(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    once: dict[str, Any] = {"candidates": 8, "max_candidates": 8, "audit": False, "select": "confident"}
    near, far = (fitted.generate(denied, cost_weight=value, **once).report["cost"].mean() for value in (20.0, 2.0))
    assert near < far


def test_text_outcomes_and_the_classifiers_own_decisions(table: Table, small: dict[str, Any]) -> None:
    frame, granted = table
    text = np.where(granted == 1, "yes", "no")
    numbers = frame[["income", "savings", "late", "age"]]
    model = make_pipeline(LogisticRegression(max_iter=5000)).fit(numbers, text)
    small = {**small, "target_class": "yes"}
    people = numbers[model.predict(numbers) == "no"].iloc[:10]
    for y in (text, pd.Series(text, dtype="category"), None):
        found = RecourseGenerator(**small).fit(numbers, y, classifier=model).generate(people, **FEW)
        assert len(found) > 5
        assert (model.predict(found.to_frame()) == "yes").all()
    refusal = RecourseGenerator(**{**small, "target_class": "no"}).fit(numbers, text, classifier=model)
    favoured = numbers[model.predict(numbers) == "yes"].iloc[:10]
    assert (model.predict(refusal.generate(favoured, **FEW).to_frame()) == "no").all()


@pytest.mark.parametrize(
    ("trained", "used"), [(4.0, 4.0), ((2.0, 18.0), 18.0), ((2.0, 30.0), 20.0), ((22.0, 30.0), 22.0)]
)
def test_without_a_cost_weight_it_is_one_that_was_trained_on(
    table: Table, denied: pd.DataFrame, classifier: Pipeline, trained: Any, used: float
) -> None:
    pairs = {"top_k": 50, "cost_weight": trained}
    generator = RecourseGenerator("exact", pairs=pairs, audit={"n_estimators": 5, "n_jobs": 1})
    generator.fit(*table, classifier=classifier)
    # All that is drawn is answered, so that another law shows.
    some: dict[str, Any] = {"n": 32, "candidates": 32, "max_candidates": 32, "audit": False}
    silent = generator.generate(denied.iloc[:40], **some)
    pd.testing.assert_frame_equal(silent.report, generator.generate(denied.iloc[:40], cost_weight=used, **some).report)
    for factor in (0.9, 1.1):
        other = generator.generate(denied.iloc[:40], cost_weight=used * factor, **some)
        assert not silent.to_frame().equals(other.to_frame())
