import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from recourse_gen import checkpoint, evaluation, metrics
from recourse_gen.constraints import Constraints
from recourse_gen.counterfactuals import REPORT, Counterfactuals
from recourse_gen.judge import GoldJudge
from recourse_gen.pairs import PairOptions, PairSupervision
from recourse_gen.schema import Schema
from recourse_gen.sentences import words
from recourse_gen.transform import TableTransform


class Linear:
    """Approves where debts are few and income is high."""

    def probability(self, frame):
        assert not frame.isna().any(axis=None)
        merit = frame["income"].to_numpy(dtype=float) / 10 - frame["debts"].to_numpy(dtype=float)
        return 1 / (1 + np.exp(-merit))


def answers_of(factuals, frame):
    """A result that holds these answers, and whose report knows the probabilities."""
    before = factuals.loc[frame.index.get_level_values(0)]
    report = pd.DataFrame(index=frame.index, columns=list(REPORT)).assign(status="ok", reason="")
    report = report.assign(probability_before=Linear().probability(before), probability=Linear().probability(frame))
    return Counterfactuals(factuals, report, Schema.infer(factuals), frame)


class RaiseIncome:
    """Stands in for a fitted generator: raises everybody's income by 5·k, but finds nothing for renters."""

    def __init__(self, train, constraints=None):
        # Encoding keeps continuous values, so the nearest partner is the cheapest one to the last digit.
        self.schema = Schema.infer(train, kinds={"income": "continuous"})
        self.transform = TableTransform(self.schema).fit(train)
        self.classifier, self.constraints, self.calls = Linear(), constraints or Constraints(), []
        partners = train[self.classifier.probability(train) > 0.7]
        self.pairs = PairSupervision(
            train[:5],
            self.transform.encode(partners),
            transform=self.transform,
            constraints=self.constraints,
            options=PairOptions(),
        )
        self.partners = partners

    def generate(self, factuals, n=1, candidates=4, **options):
        self.calls.append({"candidates": candidates, **options})
        found = factuals[factuals["home"] != "rent"]
        ranks = [found.assign(income=found["income"] + 5.0 * candidates + rank) for rank in (0, 1)]
        frame = pd.concat(ranks, keys=[0, 1]).swaplevel().sort_index(level=1, ascending=True, sort_remaining=False)
        return answers_of(factuals, frame)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "debts": rng.integers(0, 8, 400),
            "income": rng.uniform(0, 60, 400).round(1),
            "home": rng.choice(["own", "rent", "parents"], 400),
        },
        index=np.arange(1000, 1400),
    )
    target = (rng.random(400) < Linear().probability(frame)).astype(int)
    judge = GoldJudge(Schema.infer(frame), n_estimators=10).fit(frame, target)
    return frame, judge


@pytest.fixture(scope="module")
def evaluated(world):
    frame, judge = world
    generator = RaiseIncome(frame[:300], Constraints(immutable=["home"]))
    factuals = evaluation.select_factuals(frame[300:], generator.classifier, n=30, seed=0)
    return generator, evaluation.run(generator, factuals, judge=judge, candidates=4), judge


def test_factuals_are_denied_rows_drawn_by_seed(world):
    frame, _ = world
    chosen = evaluation.select_factuals(frame, Linear(), n=20, seed=1)
    assert len(chosen) == 20
    assert (Linear().probability(chosen) <= 0.5).all()
    pd.testing.assert_frame_equal(chosen, frame.loc[chosen.index])
    pd.testing.assert_frame_equal(chosen, evaluation.select_factuals(frame, Linear(), n=50, seed=1)[:20])
    assert list(chosen.index) != list(evaluation.select_factuals(frame, Linear(), n=20, seed=2).index)
    everyone = evaluation.select_factuals(frame, Linear(), n=10_000, seed=1)
    assert set(everyone.index) == set(frame.index[Linear().probability(frame) <= 0.5])
    with pytest.raises(ValueError, match="nobody to recommend"):
        evaluation.select_factuals(frame.assign(debts=0, income=60.0), Linear(), seed=0)


def test_shares_count_missing_answers_as_failures_and_means_do_not(world):
    frame, judge = world
    factuals = evaluation.select_factuals(frame, Linear(), n=40, seed=0)
    answers = factuals.assign(debts=0, income=60.0)
    options = {"classifier": Linear(), "judge": judge, "schema": Schema.infer(frame)}
    full = evaluation.evaluate_frames(factuals, answers, **options)
    half = evaluation.evaluate_frames(factuals, answers.iloc[:20].reindex(factuals.index), **options)
    first = evaluation.evaluate_frames(factuals[:20], answers[:20], **options)
    assert (full["found"], full["validity"], half["found"], half["validity"]) == (1.0, 1.0, 0.5, 0.5)
    assert half["cost"] == pytest.approx(first["cost"])
    assert half["n_changed"] == pytest.approx(first["n_changed"])
    for key in ("validity_judge", "plausibility"):
        assert half[key] == pytest.approx(first[key] / 2)
    assert full["score"] == pytest.approx(full["validity_judge"] + full["plausibility"] - full["cost"] / 3)
    nobody = evaluation.evaluate_frames(factuals, answers.iloc[:0].reindex(factuals.index), **options)
    assert (nobody["cost"], nobody["n_changed"], nobody["found"], nobody["score"]) == (None, None, 0.0, 0.0)


def test_violations_are_counted(world):
    frame, judge = world
    factuals = frame[:10]
    answers = factuals.assign(home=["own"] * 5 + list(factuals["home"][5:]))
    options = {"classifier": Linear(), "judge": judge, "schema": Schema.infer(frame)}
    row = evaluation.evaluate_frames(factuals, answers, constraints=Constraints(immutable=["home"]), **options)
    assert row["constraint_violations"] == (factuals["home"][:5] != "own").sum() > 0


def test_frames_must_share_their_index_and_hold_somebody(world):
    frame, judge = world
    options = {"classifier": Linear(), "judge": judge, "schema": Schema.infer(frame)}
    with pytest.raises(ValueError, match="index of the factuals"):
        evaluation.evaluate_frames(frame[:5], frame[5:10], **options)
    with pytest.raises(ValueError, match="no factuals"):
        evaluation.evaluate_frames(frame[:0], frame[:0], **options)


def test_nearest_partner_is_the_cheapest_admissible_one(evaluated):
    generator, result, _ = evaluated
    factuals = result.factuals
    nearest = evaluation.nearest_partners(generator, factuals)
    assert nearest.index.equals(factuals.index)
    for person in factuals.index:
        same_home = generator.partners[generator.partners["home"] == factuals.loc[person, "home"]]
        copies = factuals.loc[[person] * len(same_home)]
        best = metrics.cost(copies, same_home, generator.schema).min()
        found = metrics.cost(factuals.loc[[person]], nearest.loc[[person]], generator.schema)[0]
        assert found == pytest.approx(best, abs=1e-5)


def test_factuals_without_a_partner_have_an_empty_row(world):
    frame, _ = world
    train = frame[:300].copy()
    train.loc[train["home"] == "rent", "debts"] = 7
    train.loc[train["home"] == "rent", "income"] = 0.0
    generator = RaiseIncome(train, Constraints(immutable=["home"]))
    factuals = evaluation.select_factuals(frame[300:], Linear(), n=30, seed=0)
    nearest = evaluation.nearest_partners(generator, factuals)
    assert (metrics.answered(nearest) == (factuals["home"] != "rent")).all()
    generator.pairs = None
    with pytest.raises(ValueError, match="no longer holds"):
        evaluation.nearest_partners(generator, factuals)


def test_run_takes_the_best_rank_and_leads_over_the_nearest_partner(evaluated):
    _, result, _ = evaluated
    has_home = (result.factuals["home"] != "rent").to_numpy()
    assert (metrics.answered(result.counterfactuals) == has_home).all()
    raised = result.counterfactuals["income"] - result.factuals["income"]
    np.testing.assert_allclose(raised[has_home], 20.0)
    assert result.ours["found"] == has_home.mean()
    assert result.ours["n_factuals"] == len(has_home)
    assert result.ours["n_changed"] == 1.0
    assert result.ours["constraint_violations"] == 0
    assert result.ours["lead"] == pytest.approx(result.ours["score"] - result.nearest["score"])
    assert result.nearest["lead"] == 0.0
    assert result.ours["rows_per_second"] > 0


def test_sweep_varies_one_setting_at_a_time(evaluated):
    generator, result, judge = evaluated
    generator.calls.clear()
    options = {"judge": judge, "candidates": (4, 1), "cost_weights": (2, 20), "limit": 10, "options": {"seed": 5}}
    points = evaluation.sweep(generator, result.factuals, **options)
    assert [point["sweep"] for point in points] == ["cost_weight", "cost_weight", "candidates", "candidates"]
    assert [point["value"] for point in points] == [2, 20, 1, 4]
    assert all(point["n_factuals"] == 10 for point in points)
    assert [call.get("cost_weight") for call in generator.calls] == [2, 20, None, None]
    assert all(call["seed"] == 5 for call in generator.calls)
    assert points[2]["cost"] < points[3]["cost"]
    assert evaluation.sweep(generator, result.factuals, **{**options, "max_seconds": -1.0}) == []


def test_examples_show_the_best_answer_before_and_after():
    factuals = pd.DataFrame(
        {"debts": [4, 6, 2], "income": [32.0, 41.25, 10.0], "home": ["rent", "own", "own"]}, index=[17, 3, 8]
    )
    index = pd.MultiIndex.from_tuples([(17, 0), (17, 1), (3, 0)], names=["factual", "rank"])
    answers = pd.DataFrame(
        {"debts": [2, 1, 2], "income": [32.0, 32.0, 41.5], "home": ["own", "rent", "own"]}, index=index
    )
    found = answers_of(factuals, answers)
    people = evaluation.examples(found)
    assert list(people["person"].unique()) == [17, 3]
    assert len(people) == 2 * (1 + 3)
    assert people[people["changed"] == "yes"]["feature"].tolist() == ["debts", "home", "debts", "income"]
    assert people[people["person"] == 17].iloc[0].tolist() == [17, "approval", "0.31", "0.77", ""]
    assert list(evaluation.examples(found, n=1)["person"].unique()) == [17]
    assert evaluation.examples(answers_of(factuals, answers[:0])).empty


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (4, 2, ("4", "2")),
        (71.0, 54.0, ("71", "54")),
        (0.123456, 0.2, ("0.123", "0.2")),
        (12345.678, 12345.9, ("12345.7", "12345.9")),
        (1.00001, 1.00002, ("1.00001", "1.00002")),
        (-3.14159, 0.0, ("-3.14", "0")),
        (True, False, ("True", "False")),
        ("clerk", "nurse", ("clerk", "nurse")),
        (np.int64(5), 5.5, ("5", "5.5")),
        (0.1, np.nextafter(0.1, 1), ("0.1", "0.10000000000000002")),
    ],
)
def test_words_are_short_but_never_hide_a_change(before, after, expected):
    first, second = words(before, after)
    assert first != second
    assert (first, second) == expected


def test_the_run_folder_holds_strict_json_readable_examples_and_a_picture(evaluated, tmp_path):
    generator, result, judge = evaluated
    points = evaluation.sweep(generator, result.factuals, judge=judge, candidates=(1, 4), cost_weights=(5,), limit=10)
    points.append({**points[-1], "value": 64, "cost": None})
    evaluation.write_pictures(tmp_path, result, points=points, name="ar")
    seconds = {"fit": np.float32(1.5), "generate": float("nan")}
    context = {"data": "toy", "backbone": "ar", "seed": np.int64(0)}
    measures = evaluation.record(result, judge=judge, points=points, seconds=seconds, context=context)
    checkpoint.write_metrics(tmp_path, measures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.csv", "metrics.json", "tradeoff.png"]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    for key in (*evaluation.COLUMNS, "n_factuals"):
        assert isinstance(record[key], (int, float)), key
        assert isinstance(record["nearest"][key], (int, float)), key
    assert record["seconds"] == {"fit": 1.5, "generate": None}
    assert (record["data"], record["backbone"], record["seed"]) == ("toy", "ar", 0)
    assert record["judge"]["seed"] == judge.seed
    assert len(record["tradeoff"]) == 4
    assert (tmp_path / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    people = pd.read_csv(tmp_path / "examples.csv")
    assert list(people.columns) == ["person", "feature", "before", "after", "changed"]
    assert people["person"].nunique() == 5


def test_a_failed_write_leaves_the_old_file(evaluated, tmp_path, monkeypatch):
    _, result, _ = evaluated
    (tmp_path / "tradeoff.png").write_text("old")

    def fail(path, *_):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(evaluation, "draw_tradeoff", fail)
    with pytest.raises(OSError, match="disk full"):
        evaluation.write_pictures(tmp_path, result, points=[], name="ar")
    assert (tmp_path / "tradeoff.png").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.csv", "tradeoff.png"]


def test_the_table_shows_every_method_and_leaves_unknown_cells_empty(evaluated):
    _, result, _ = evaluated
    console = Console(file=io.StringIO(), width=200)
    console.print(evaluation.table({"ar": result.ours, "nearest partner": result.nearest, "other": {"cost": 0.5}}))
    text = console.file.getvalue()
    lines = {name: next(line for line in text.splitlines() if f" {name} " in line) for name in ("ar", "other")}
    assert f"{result.ours['lead']:+.3f}" in lines["ar"]
    assert "nearest partner" in text
    assert "0.500" in lines["other"]
    assert lines["other"].count(".") == 1
