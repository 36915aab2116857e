"""The paper's comparison: the protocol's cells, made once, and what the page says of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from bench import baselines, methods, page, paper, protocol
from bench.cells import read
from bench.frontier import points
from bench.protocol import DATA, PUBLISHED


class Copycat(baselines.Baseline):
    """Answers the first half of the people with one favourable training row, the others not at all."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, world: train.World) -> "Copycat":
        self.row = world.train.iloc[world.judge.probability(world.train).argmax()]
        return self

    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        answers = factuals.astype(float)
        answers.iloc[:] = self.row.to_numpy()
        answers.iloc[len(answers) // 2 :] = np.nan
        return answers


class Refuser(Copycat):
    def fit(self, world: train.World) -> "Copycat":
        raise ValueError("this classifier has no gradient")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        baselines, "METHODS", {"copycat": "tests.test_bench_paper:Copycat", "refuser": "tests.test_bench_paper:Refuser"}
    )


def test_small_comparison_from_the_command_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: None
) -> None:
    monkeypatch.setitem(methods.QUICK, "ar", 5)
    monkeypatch.setattr(methods, "CONFIDENCES", (0.7,))
    monkeypatch.setattr(protocol, "REPEATS", 1)
    out, written = tmp_path / "results" / "paper.jsonl", tmp_path / "docs" / "paper.md"
    command = ["--quick", "--data", "moons", "--factuals", "10", "--out", str(out), "--page", str(written)]
    command += ["--set", "threads=1", "classifier=logistic", "data.n_rows=300", "generate.candidates=8"]
    command += ["training.batch_size=16", "training.validation_pairs=32", "evaluation.fidelity.samples=4", "--methods"]
    paper.main([*command, "exact", "ar", "nearest partner", "copycat", "refuser"])
    rows = {row["method"]: row for row in read(out)}
    assert list(rows) == ["exact", "ar", "nearest partner", "copycat", "refuser"]
    assert rows["refuser"]["refused"] == "this classifier has no gradient" and "score" not in rows["refuser"]
    assert rows["nearest partner"]["lead"] == 0
    assert rows["ar"]["steps"] == 5 and rows["ar"]["diversity"] > 0
    assert [point["confidence"] for point in rows["exact"]["frontier"]] == [0.5, 0.7]
    copied = rows["copycat"]
    assert copied["found"] == copied["validity_judge"] == 0.5 and copied["second_critic"] in (0, 0.5)
    for name in ("exact", "ar", "copycat"):
        row = rows[name]
        assert row["score"] == pytest.approx(row["validity_judge"] + row["plausibility"] - row["cost"] / row["d"])
        assert row["score"] - row["lead"] == pytest.approx(rows["nearest partner"]["score"])
        assert all(0 <= row[key] <= 1 for key in ("second_critic", "retrained", "other_models"))
        assert row["n_factuals"] == 10 and row["seconds_per_factual"] > 0
    fewest = rows["exact"]["fewest"]
    assert fewest["n_changed"] <= rows["exact"]["n_changed"] and fewest["n_factuals"] == 10
    text = written.read_text()
    assert "`refuser` cannot work here: this classifier has no gradient" in text
    assert f"| `exact, fewest changes` | {fewest['cost']:.3f} |" in text.replace("**", "")
    assert f"Made with torch {torch.__version__.split('+')[0]}" in text
    assert "`results/paper.jsonl`" in text and "python -m bench.paper --quick" in text
    assert (written.parent / "paper-moons.png").read_bytes()[:4] == b"\x89PNG"

    before = out.read_bytes()
    out.write_bytes(before + b'{"data": "moons", "seed')
    monkeypatch.setattr(methods, "cell", None)  # nothing is computed again
    paper.main([*command, "exact", "copycat"])
    assert out.read_bytes().startswith(before) and written.read_text() == text


def test_a_crash_loses_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(method: str, *_: object, **__: object) -> dict[str, object]:
        asked.append(method)
        if asked == ["exact", "flow"]:
            raise KeyboardInterrupt
        return {"refused": "for the sake of the example"}

    monkeypatch.setattr(methods, "cell", measured)
    where = ["--out", str(tmp_path / "paper.jsonl"), "--page", str(tmp_path / "paper.md")]
    command = ["--data", "moons", "--seeds", "0", "--factuals", "5", "--methods", "exact", "flow", "diffusion", *where]
    command += ["--set", "threads=1", "classifier=logistic", "data.n_rows=300"]
    with pytest.raises(KeyboardInterrupt):
        paper.main(command)
    paper.main(command)
    assert asked == ["exact", "flow", "flow", "diffusion"]


def test_more_minutes_are_for_the_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: dict[str, object] = {}

    def measured(method: str, _: object, config: dict[str, dict[str, object]], **__: object) -> dict[str, object]:
        trained[method] = config["training"]["minutes"], config["training"]["steps"]
        return {"refused": "for the sake of the example"}

    monkeypatch.setattr(methods, "cell", measured)
    command = ["--data", "moons", "--seeds", "0", "--factuals", "5", "--methods", "ar", methods.PAPER]
    command += ["--out", str(tmp_path / "paper.jsonl"), "--page", str(tmp_path / "paper.md")]
    command += ["--set", "threads=1", "classifier=logistic", "data.n_rows=300", "training.minutes=2"]
    paper.main([*command, "--minutes", "9"])
    assert trained == {"ar": (2, 5000), methods.PAPER: (9.0, 10**9)}
    trained.clear()
    paper.main([*command, "--minutes", "9"])
    assert not trained
    paper.main(command)
    assert trained == {methods.PAPER: (2, 5000)}


def cell(method: str, seed: int = 0, **measures: object) -> dict[str, object]:
    about = {"data": "compas", "split": "own", "factuals": 9, "quick": False, "settings": [], "d": 7, "command": "c"}
    usual = {"cost": 0.5, "validity_judge": 1.0, "plausibility": 0.9, "score": 1.8, "lead": 0.1, "found": 1.0}
    return {**about, **usual, "n_changed": 2.0, "method": method, "seed": seed, **measures}


def test_the_page_says_where_ours_do_not_lead() -> None:
    rows = pd.DataFrame([cell("ar", score=1.7, cost=0.4, lead=-0.1), cell("exact"), cell("rival", score=1.9)])
    said = "\n".join(page.verdicts(rows))
    assert "score: **ours do not lead.** `rival` has 1.900, `exact` 1.800." in said
    assert "cost: `ar` leads with 0.400; best of the others is `rival`, 0.500." in said
    assert "valid, judge: level, 1.000" in said
    assert "**Behind the nearest partner** by score: `ar` (-0.100)." in said


def test_a_method_that_answers_few_has_not_the_best_cost() -> None:
    rows = pd.DataFrame([cell("ar"), cell("rival", cost=0.01, found=0.2, score=0.5), cell("other", cost=0.6)])
    (section,) = page.sections(rows.to_dict("records"))
    text = page.section(section, "picture.png")
    assert "cost: `ar` leads with 0.500; best of the others is `other`, 0.600." in text
    assert "| `rival` | 0.010 |" in text and "| `ar` | **0.500** |" in text


def test_the_judges_choice_is_shown_but_competes_with_nobody() -> None:
    best = cell(methods.CEILING, score=1.98, cost=0.1, lead=0.2)
    (section,) = page.sections([cell("ar"), best, cell("rival", cost=0.6, score=1.7)])
    text = page.section(section, "picture.png")
    assert "| *the judge's choice* | 0.100 | 1.000 | 0.900 | 1.980 | +0.200 |" in text
    assert "score: `ar` leads with 1.800; best of the others is `rival`, 1.700." in text and "**1.980**" not in text
    rows = text[text.index("| `ar` |") :].splitlines()
    assert [row.split("|")[1].strip(" `*") for row in rows[:3]] == ["ar", "rival", methods.CEILING]


def test_the_judges_choice_is_not_made_unless_asked_for() -> None:
    assert methods.CEILING not in paper.parse([]).methods
    assert paper.parse(["--methods", methods.CEILING]).methods == [methods.CEILING]


def test_means_spreads_and_missing_seeds() -> None:
    rows = [cell("ar", 0, cost=0.4, steps=400), cell("ar", 1, cost=0.6, steps=800), cell("rival", 0, cost=0.8)]
    (section,) = page.sections(rows)
    text = page.section(section, "picture.png")
    assert "| `ar` | **0.500** ± 0.141 |" in text
    assert "| `rival` (1 of 2 seeds) | 0.800 |" in text and "| `ar` | 400–800 |" in text
    published = "| *GenRe, published notebook* | 0.510 | 0.990 | 0.970 | 1.890 |"
    assert published in text


def test_cells_of_different_protocols_share_no_table() -> None:
    rows = [cell("ar", quick=True), cell("ar", settings=["schema=x"]), cell("ar", split="paper"), cell("exact")]
    found = page.sections(rows)
    assert sorted(len(rows) for rows in found) == [1, 1, 1, 1]
    assert found[-1]["quick"].all()


def test_trainings_of_any_length_share_a_table_and_those_like_the_last_count() -> None:
    short, long = ["threads=1", "training.steps=4"], ["+training.steps=8"]
    rows = [cell("ar", seed, settings=short, cost=0.4) for seed in (0, 1)]
    (section,) = page.sections([*rows, cell("rival", settings=short), cell("ar", settings=long, cost=0.3)])
    assert dict(zip(section["method"], section["cost"], strict=True)) == {"rival": 0.5, "ar": 0.3}


def test_ours_do_not_lead_by_a_few_seeds() -> None:
    few = cell("exact", 1, cost=0.1)
    rows = [few, *(cell("ar", seed, cost=0.6) for seed in (0, 1)), *(cell("rival", s, cost=0.5) for s in (0, 1))]
    text = page.section(page.sections(rows)[0], "picture.png")
    assert "cost: **ours do not lead.** `rival` has 0.500, `ar` 0.600" in text
    assert "| `exact` (1 of 2 seeds) | 0.100 |" in text and "| `rival` | **0.500** ± 0.000 |" in text


def test_the_fewest_changes_are_a_row_of_their_own_and_count_as_ours() -> None:
    few = {key: cell("")[key] for key in ("cost", "validity_judge", "plausibility", "score", "lead", "found")}
    rows = [cell("exact", fewest={**few, "n_changed": 1.375, "lead": 0.05}), cell("rival", n_changed=1.5)]
    (section,) = page.sections([*rows, cell(methods.PAPER, fewest=None)])
    text = page.section(section, "picture.png")
    shown = [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")]
    assert shown[:4] == ["exact", methods.PAPER, "exact, fewest changes", "rival"]
    assert "changes: `exact, fewest changes` leads with 1.38; best of the others is `rival`, 1.50." in text


def test_a_method_whose_package_was_missing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"refused": "pip install it", "retry": True}, {"refused": "no gradient", "retry": False}])
    monkeypatch.setattr(methods, "cell", lambda *_, **__: next(answers))
    out, written = tmp_path / "paper.jsonl", tmp_path / "paper.md"
    command = ["--data", "moons", "--seeds", "0", "--factuals", "5", "--methods", "exact", "--out", str(out)]
    command += ["--page", str(written), "--set", "threads=1", "classifier=logistic", "data.n_rows=300"]
    for told in ("pip install it", "no gradient", "no gradient"):  # the third time, nothing is asked
        paper.main(command)
        assert f"`exact` cannot work here: {told}" in written.read_text()
    assert len(read(out)) == 2


def test_published_scores_are_their_own_sum() -> None:
    for data, d in (("adult", 13), ("compas", 7), ("heloc", 21)):
        row = PUBLISHED[data]
        total = row["validity_judge"] + row["plausibility"] - row["cost"] / d
        assert row["score"] == pytest.approx(total, abs=0.011)
    assert set(PUBLISHED) <= set(DATA)


def test_the_frontier_holds_what_no_point_beats() -> None:
    usual = {"retrained": 0.5, "validity_judge": 0.9, "plausibility": 0.9, "found": 1.0}
    lines = {
        "cheap": [
            {"confidence": 0.5, **usual, "cost": 0.1, "validity_judge": 0.5},
            {"confidence": 0.7, **usual, "cost": 0.4},
            {"confidence": 0.9, **usual, "cost": 0.2, "found": 0.3},
        ],
        "dear": [{**usual, "cost": 0.5}],
        "sure": [{**usual, "cost": 0.5, "validity_judge": 1.0}],
        "selective": [{**usual, "cost": 0.6, "validity_judge": 0.3, "found": 0.3}],
        "silent": [{**usual, "cost": None}],
    }
    frame = points(pd.DataFrame({"method": lines.keys(), "frontier": lines.values()}))
    found = {(row.method, row.cost): row.best for row in frame.itertuples()}
    assert found == {
        ("cheap", 0.1): True,
        ("cheap", 0.4): True,
        ("dear", 0.5): False,
        ("sure", 0.5): True,
        ("selective", 0.6): False,
    }


def test_options_that_are_not_given_are_those_of_the_paper_or_quick() -> None:
    full, quick = paper.parse([]), paper.parse(["--quick"])
    assert (full.data, full.seeds, full.factuals) == (list(DATA), [0, 1, 2], 200)
    assert (quick.data, quick.seeds, quick.factuals) == (["compas"], [0], 50)
    assert full.methods == quick.methods == methods.names()
    assert set(methods.QUICK_OPTIONS) <= set(methods.names())
    assert json.dumps(methods.settings("flow", quick=True)) != json.dumps(methods.settings("flow", quick=False))
