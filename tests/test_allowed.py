"""Transitions: from today's value to the values that it may become, for text, booleans and whole numbers alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator

Table = tuple[pd.DataFrame, np.ndarray]
STEPS: dict[str, Any] = {
    "job": {"none": ["part", "none"], "part": ["full"]},
    "owner": {False: [True]},
    "late": {5: [4, 3], 4: [3, 4], 3: [0, 1, 2, 3]},
}
WRITTEN = "{job:{none:[part,none],part:[full]},owner:{false:[true]},late:{5:[4,3],4:[3,4],3:[0,1,2,3]}}"


def by_line() -> Constraints:
    configs = Path(__file__).resolve().parents[1] / "configs"
    with initialize_config_dir(config_dir=str(configs), version_base="1.3"):
        config = compose(config_name="train", overrides=["+constraints.allowed=" + WRITTEN])
    plain: Any = OmegaConf.to_container(config.constraints)
    return Constraints(**plain)


ROUTES = {
    "as given": lambda: Constraints(allowed=STEPS),
    "through YAML": lambda: Constraints(**yaml.safe_load(yaml.safe_dump(Constraints(allowed=STEPS).to_dict()))),
    "by the command line": by_line,
}


def check(before: pd.DataFrame, after: pd.DataFrame) -> None:
    for name, steps in STEPS.items():
        moves = set(zip(before[name].tolist(), after[name].tolist(), strict=True))
        due = {(a, b) for a, ends in steps.items() for b in ends}
        due |= {(a, a) for a in before[name].tolist() if a not in steps}
        assert moves <= due, name
        assert any(a != b for a, b in moves), name
    assert dict(after.dtypes) == dict(before.dtypes)


@pytest.mark.parametrize("route", ROUTES)
def test_transitions_hold_in_every_answer(fitted: RecourseGenerator, denied: pd.DataFrame, route: str) -> None:
    rules = ROUTES[route]()
    assert rules.to_dict() == {"allowed": STEPS}
    found = fitted.generate(denied, constraints=rules, candidates=16, max_candidates=64, cost_weight=5.0)
    after = found.to_frame().droplevel(1)
    assert len(after) > 60
    check(denied.loc[after.index], after)
    owners = found.report["forced"].str.contains("owner")
    assert owners.groupby(level=0).first().equals(~denied["owner"]), "who owns nothing may not stay so"


def test_transitions_hold_for_partners_and_after_loading(table: Table, classifier: Pipeline, tmp_path: Path) -> None:
    generator = RecourseGenerator("exact", audit={"n_estimators": 2, "n_jobs": 1})
    with pytest.warns(UserWarning, match="fewer than"):
        generator.fit(*table, classifier=classifier, constraints=Constraints(allowed=STEPS))
    pairs = generator.pairs
    assert pairs is not None
    near = generator.transform.decode(pairs.nearest())
    check(generator.transform.decode(pairs.factuals), near)
    again = RecourseGenerator.load(generator.save(tmp_path / "run"), classifier=classifier)
    assert again.constraints == generator.constraints
    people = table[0].iloc[:40]
    pd.testing.assert_frame_equal(again.generate(people).to_frame(), generator.generate(people).to_frame())
