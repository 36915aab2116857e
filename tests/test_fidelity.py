"""The distance to Q is 0 for Q itself, agrees with brute force, and sees what it should see."""

import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.pipeline import Pipeline
from stubs import fit, in_place_of
from torch import Tensor

from recourse_gen import Constraints, RecourseGenerator, fidelity
from recourse_gen.rows import Rows

Table = tuple[pd.DataFrame, np.ndarray]


def at_cost_weight(generator: RecourseGenerator, value: float) -> RecourseGenerator:
    """Draws from Q at this λ, whichever is asked for."""
    model = generator.model
    assert model is not None

    def draw(factual: Rows, **options: Any) -> Rows:
        return model.sample(factual, **{**options, "cost_weight": torch.full_like(options["cost_weight"], value)})

    return in_place_of(generator, draw)


@pytest.fixture(scope="module")
def mixed(table: Table, classifier: Pipeline, small: dict[str, Any]) -> RecourseGenerator:
    """Continuous columns beside tokens, and constraints of every kind."""
    rules = Constraints(
        immutable=["owner"],
        monotone={"age": "increase"},
        max_changes=5,
        ordered=[("late", "age")],
        ranges={"late": (0, 4)},
    )
    return fit(table, classifier, schema=small["schema"], rules=rules)


@pytest.fixture(scope="module")
def tokens(table: Table, classifier: Pipeline) -> RecourseGenerator:
    frame, granted = table
    return fit(
        (frame, granted),
        classifier,
        schema={"tokenize": "all", "max_levels": 9},
        rules=Constraints(immutable=["owner"]),
    )


@pytest.mark.parametrize("name", ["mixed", "tokens"])
def test_q_itself_has_skill_one(name: str, denied: pd.DataFrame, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(name)
    rows = fidelity.measure(generator, denied, cost_weights=(2.0, 9.0), samples=64, seed=3)
    for row, value in zip(rows, (2.0, 9.0), strict=True):
        assert row["cost_weight"] == value
        assert row["skill"] == pytest.approx(1.0, abs=max(5 * row["skill_se"], 0.01))
        assert row["joint_skill"] == pytest.approx(1.0, abs=0.02)
        assert row["effective_cost_weight"] == pytest.approx(value, rel=0.08)
        assert row["cost"] == pytest.approx(row["cost_q"], rel=0.02)
        assert row["unchanged"] == pytest.approx(row["unchanged_q"], abs=0.01)
        assert row["off_support"] == 0.0
        assert row["energy_distance_uniform"] > 0
        assert row["kl"] == (None if name == "mixed" else pytest.approx(0.0, abs=1e-4))
    assert rows[1]["cost_q"] < rows[0]["cost_q"]


def test_uniform_partners_have_skill_zero(mixed: RecourseGenerator, denied: pd.DataFrame) -> None:
    for row in fidelity.measure(at_cost_weight(mixed, 1e-6), denied, samples=64):
        assert row["skill"] == pytest.approx(0.0, abs=max(5 * row["skill_se"], 0.01))
        assert row["joint_skill"] == pytest.approx(0.0, abs=0.05)
        assert row["energy_distance"] == pytest.approx(row["energy_distance_uniform"], rel=0.05)
        assert row["effective_cost_weight"] < 0.2


def test_the_effective_cost_weight_is_that_of_the_draws(mixed: RecourseGenerator, denied: pd.DataFrame) -> None:
    for value in (3.0, 8.0):
        for row in fidelity.measure(at_cost_weight(mixed, value), denied, samples=64):
            assert row["effective_cost_weight"] == pytest.approx(value, rel=0.08)

    def stays(factual: Rows, num_samples: int, **_: Any) -> Rows:
        return Rows(*(part[:, None].expand(-1, num_samples, -1) for part in factual))

    stay = in_place_of(mixed, stays)
    assert all(row["effective_cost_weight"] == math.inf for row in fidelity.measure(stay, denied))


def test_a_wrong_law_has_less_skill_the_farther_it_is(mixed: RecourseGenerator, denied: pd.DataFrame) -> None:
    near, far = (fidelity.measure(at_cost_weight(mixed, value), denied, cost_weights=[6.0])[0] for value in (4.0, 2.0))
    assert 0 < far["skill"] < near["skill"] < 1
    assert 0 < far["joint_skill"] < near["joint_skill"] < 1


def test_the_divergence_sees_the_cost_weight(tokens: RecourseGenerator, denied: pd.DataFrame) -> None:
    other = at_cost_weight(tokens, 4.0)
    log_prob = tokens.model.log_prob  # type: ignore[union-attr]
    other.model.log_prob = lambda a, b, cost_weight, feasible=None: log_prob(a, b, 0 * cost_weight + 4.0, feasible)
    rows = fidelity.measure(other, denied, cost_weights=[4.0, 8.0, 12.0])
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert 0.01 < rows[1]["kl"] < rows[2]["kl"]


def test_only_the_joint_skill_sees_how_columns_go_together() -> None:
    """(1, 3) or (3, 1), never (1, 1): drawing each column by its own law is told apart in √C alone."""
    cells = [(0, 0)] * 20 + [(1, 3), (3, 1)] * 10 + [(9, 9)] * 20
    frame = pd.DataFrame(cells, columns=["a", "b"])
    with pytest.warns(UserWarning, match="fewer than"):
        generator = fit((frame, None), lambda rows: np.where(rows["a"] + rows["b"] > 3, 0.9, 0.1))
    model = generator.model
    assert model is not None

    def apart(factual: Rows, **options: Any) -> Rows:
        rows = model.sample(factual, **options)
        return Rows(rows.num, torch.stack([rows.cat[:, :, 0], rows.cat[:, :, 1].roll(1, 1)], 2))

    (whole,) = fidelity.measure(generator, frame.iloc[:20], cost_weights=[5.0], samples=500)
    (split,) = fidelity.measure(in_place_of(generator, apart), frame.iloc[:20], cost_weights=[5.0], samples=500)
    assert whole["joint_skill"] == pytest.approx(1.0, abs=0.01)
    assert split["skill"] == pytest.approx(1.0, abs=0.01)
    assert split["joint_skill"] < 0.95
    assert split["off_support"] == pytest.approx(0.5, abs=0.1)


def test_people_without_a_partner_do_not_count(table: Table, classifier: Pipeline, denied: pd.DataFrame) -> None:
    rules = Constraints(monotone={"age": "increase"}, immutable=["job", "region", "owner"])
    with pytest.warns(UserWarning, match="no admissible partner"):
        generator = fit(table, classifier, rules=rules, pairs={"top_k": 20})
    assert generator.pairs is not None
    kept = generator.pairs.of(denied).has_partner.cpu().numpy()
    assert 0 < kept.sum() < len(denied)
    (row,) = fidelity.measure(generator, denied, cost_weights=[5.0], limit=len(denied))
    assert row["factuals"] == kept.sum()
    assert row["skill"] == pytest.approx(1.0, abs=0.02)
    assert fidelity.measure(generator, denied[~kept]) == []
    assert fidelity.measure(generator, denied.iloc[:0]) == []
    assert fidelity.table([]).row_count == 0


def test_without_a_choice_there_is_no_skill(table: Table, classifier: Pipeline, denied: pd.DataFrame) -> None:
    generator = fit(table, classifier, pairs={"top_k": 1})
    (row,) = fidelity.measure(generator, denied, cost_weights=[5.0])
    assert row["skill"] is row["skill_se"] is row["joint_skill"] is None
    assert row["energy_distance"] == pytest.approx(0.0, abs=1e-6)


def test_a_table_of_numbers_has_neither_divergence_nor_support(table: Table, classifier: Pipeline) -> None:
    frame = table[0][["income", "savings"]]

    def rich(rows: pd.DataFrame) -> np.ndarray:
        return np.where(rows["income"] > 50, 0.8, 0.2)

    generator = fit((frame, table[1]), rich, schema={"tokenize": "none"})
    rows = fidelity.measure(generator, frame[frame["income"] <= 50])
    assert all(row["kl"] is None and row["off_support"] is None for row in rows)
    assert all(row["skill"] == pytest.approx(1.0, abs=max(0.01, 5 * row["skill_se"])) for row in rows)


def test_blocks_change_nothing_and_bound_the_memory(
    tokens: RecourseGenerator, denied: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fidelity.measure(tokens, denied)
    largest, cdist = [], torch.cdist

    def measured(a: Tensor, b: Tensor, **options: Any) -> Tensor:
        found = cdist(a, b, **options)
        largest.append(found.numel() if a.dim() == 3 else 0)
        return found

    monkeypatch.setattr(torch, "cdist", measured)
    monkeypatch.setattr(fidelity, "DISTANCES", 3 * 50**2)
    monkeypatch.setattr(fidelity, "DRAFTS", 320)
    parts = fidelity.measure(tokens, denied)
    assert max(largest) == 3 * 50**2
    for one, other in zip(whole, parts, strict=True):
        assert list(one) == list(other)
        assert list(other.values()) == pytest.approx(list(one.values()), abs=1e-5)


def test_the_seed_decides(tokens: RecourseGenerator, denied: pd.DataFrame) -> None:
    before = torch.random.get_rng_state()
    one, two, three = (fidelity.measure(tokens, denied, limit=30, seed=seed) for seed in (1, 1, 2))
    assert one == two != three
    assert fidelity.measure(tokens, denied, limit=30) == fidelity.measure(tokens, denied, limit=30, seed=tokens.seed)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_table_shows_every_row(mixed: RecourseGenerator, denied: pd.DataFrame) -> None:
    rows = fidelity.measure(mixed, denied, limit=20, cost_weights=(5, 10))
    json.dumps(rows, allow_nan=False)
    console = Console(width=132, record=True, file=io.StringIO())
    console.print(fidelity.table(rows))
    text = console.export_text()
    assert "20 held-out people" in text
    lines = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    assert [line[1].strip() for line in lines] == ["5", "10"]
    assert [line[2].strip() for line in lines] == [f"{row['skill']:.3f}" for row in rows]
    assert all(line[5].strip() == "" for line in lines), "what could not be measured stays empty"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no λ": ({"cost_weights": []}, "cost_weights must list at least one"),
    "λ not in a list": ({"cost_weights": 5.0}, "cost_weights must list at least one"),
    "λ as text": ({"cost_weights": "5"}, "cost_weights must list at least one"),
    "λ of zero": ({"cost_weights": [5, 0]}, "cost_weights must be a number"),
    "λ without end": ({"cost_weights": [math.inf]}, "cost_weights must be a number"),
    "one sample": ({"samples": 1}, "samples must be a whole number of at least 2"),
    "nobody": ({"limit": 0}, "limit must be a whole number"),
    "a seed of text": ({"seed": "x"}, "seed must be a whole number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_named(tokens: RecourseGenerator, denied: pd.DataFrame, case: str) -> None:
    options, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        fidelity.measure(tokens, denied, **options)


def test_what_cannot_be_measured_is_refused(
    tokens: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline, tmp_path: Any
) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        fidelity.measure(RecourseGenerator("exact"), denied)
    loaded = RecourseGenerator.load(tokens.save(tmp_path / "run"), classifier=classifier)
    with pytest.raises(ValueError, match="a loaded generator no longer holds"):
        fidelity.measure(loaded, denied)
    with pytest.raises(ValueError, match="column 'age' is missing"):
        fidelity.measure(tokens, denied.drop(columns="age"))
