"""`exact` and `nearest` behind the estimator: nothing is trained, training rows are answers, and folders load."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator, training
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.selection import POLICIES
from tests.sealing import reseal

Table = tuple[pd.DataFrame, np.ndarray]
RULES = Constraints(immutable=["owner"], monotone={"age": "increase"}, ranges={"income": (None, 70.0)})


@pytest.fixture(scope="module", params=["exact", "nearest"])
def generator(request: pytest.FixtureRequest, table: Table, classifier: Pipeline, small: dict[str, Any]) -> Any:
    settings = {**small, "backbone": request.param, "backbone_options": {}}
    return RecourseGenerator(**settings).fit(*table, classifier=classifier, constraints=RULES)


def test_nothing_is_trained(generator: RecourseGenerator) -> None:
    trained = generator.summary["training"]
    assert trained == {"steps": 0, "seconds": 0.0, "best_loss": None, "best_step": 0}
    json.dumps(generator.summary, allow_nan=False)
    assert generator.model is not None
    assert not generator.model.training
    rows = generator.pairs.factuals if generator.pairs else None
    with pytest.raises(NotImplementedError, match="nothing to train"):
        generator.model(rows, rows, torch.ones(1))


@pytest.mark.parametrize("select", sorted(POLICIES))
def test_every_policy_answers_with_training_rows(
    generator: RecourseGenerator, table: Table, denied: pd.DataFrame, select: str
) -> None:
    frame, granted = table
    found = generator.generate(denied.iloc[:40], n=2, select=select, candidates=8, sparsify=False)
    answers = found.to_frame()
    assert len(answers) > 40
    before = denied.loc[answers.index.get_level_values(0)]
    assert not RULES.violations(before, answers).any()
    whole = answers.drop(columns="income").astype(object)
    known = frame[granted == 1].drop(columns="income").astype(object)
    assert set(whole.itertuples(index=False, name=None)) <= set(known.itertuples(index=False, name=None))


FEW = [
    Constraints(max_changes=1),
    Constraints(max_changes=2, together=[("job", "owner")], immutable=["age"]),
    Constraints(max_changes=2, ranges={"income": (20, 45)}, allowed={"job": ["full"]}),
    Constraints(max_changes=2, ordered=[("late", "age")]),
]


@pytest.mark.parametrize("rules", FEW, ids=str)
def test_whom_few_changes_leave_no_training_row_gets_a_part_of_one(
    generator: RecourseGenerator, denied: pd.DataFrame, rules: Constraints
) -> None:
    people = denied.iloc[:30]
    found = generator.generate(people, constraints=rules, sparsify=False, candidates=64)
    possible = found.report["status"] != "infeasible"
    assert (found.report["status"][possible] == "ok").mean() > 0.5
    answers = found.to_frame()
    assert not rules.violations(people.loc[answers.index.get_level_values(0)], answers).any()
    alone = generator.generate(people.iloc[[7]], constraints=rules, sparsify=False, candidates=64)
    pd.testing.assert_frame_equal(alone.report, found.report.loc[[people.index[7]]])


def test_a_part_of_a_row_depends_on_its_number_alone(generator: RecourseGenerator, denied: pd.DataFrame) -> None:
    people, model = denied.iloc[:10], generator.model
    assert model is not None
    device, rows = training.processes().device, generator.transform.encode(people)
    feasible = Constraints(max_changes=1).compile(generator.schema, people, rows).to(device)
    rows = rows.to(device)

    def drawn(count: int, first: int) -> Rows:
        noise, weight = Noise.of(rows, 0, first_sample=first), torch.full((10,), 5.0, device=device)
        return model.sample(rows, num_samples=count, cost_weight=weight, feasible=feasible, noise=noise)

    whole, parts = drawn(12, 0), [drawn(5, 0), drawn(7, 5)]
    assert whole.cat.equal(torch.cat([part.cat for part in parts], 1))
    assert whole.num.equal(torch.cat([part.num for part in parts], 1))
    moved = (whole.cat != rows.cat[:, None]).sum(2) + (whole.num != rows.num[:, None]).sum(2)
    assert moved.max() == 1


def test_more_candidates_are_new_ones(table: Table, classifier: Pipeline, small: dict[str, Any]) -> None:
    """`nearest` goes on where the search stopped: asked bit by bit, it finds what it finds at once."""
    settings = {**small, "backbone": "nearest", "backbone_options": {}}
    generator = RecourseGenerator(**settings).fit(*table, classifier=classifier)
    people = table[0][classifier.predict_proba(table[0])[:, 1] <= 0.5].iloc[:20]
    little = generator.generate(people, n=20, candidates=3, max_candidates=48, audit=False, sparsify=False)
    large = generator.generate(people, n=20, candidates=48, max_candidates=48, audit=False, sparsify=False)
    pd.testing.assert_frame_equal(little.to_frame(), large.to_frame())


def test_a_saved_generator_answers_the_same(
    generator: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline, tmp_path: Path
) -> None:
    folder = generator.save(tmp_path / "run")
    again = RecourseGenerator.load(folder, classifier=classifier)
    before, after = (one.generate(denied.iloc[:20], n=3, candidates=16) for one in (generator, again))
    pd.testing.assert_frame_equal(after.to_frame(), before.to_frame())
    pd.testing.assert_frame_equal(after.report, before.report)
    assert again.summary == generator.summary


DAMAGE: dict[str, Any] = {
    "a level that does not exist": lambda state: state["partner_cat"].fill_(99),
    "a column too few": lambda state: state.update(partner_cat=state["partner_cat"][:, 1:].contiguous()),
    "other numbers of rows": lambda state: state.update(partner_num=state["partner_num"][1:].contiguous()),
    "a number in place of rows": lambda state: state.update(partner_num=torch.tensor(1.0)),
    "no K": lambda state: state["top_k"].fill_(0),
    "nothing": lambda state: state.clear(),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_partners_that_do_not_fit_are_refused(
    generator: RecourseGenerator, classifier: Pipeline, tmp_path: Path, case: str
) -> None:
    path = generator.save(tmp_path / "run") / "model.safetensors"
    state = load_file(path)
    DAMAGE[case](state)
    save_file(state, path)
    reseal(path.parent)
    with pytest.raises(ValueError, match="belongs to another network"):
        RecourseGenerator.load(path.parent, classifier=classifier)
