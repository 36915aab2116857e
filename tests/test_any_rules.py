"""Whatever the table, the people and the rules of each of them: what `generate` promises, for every backbone.

At least 540 cases of a person, the rules of that person and a backbone: 12 tables for each of five backbones, with nine
people each. Tables from which nothing can be learned are drawn again, so they do not count. Every way to choose takes
turns, and everybody is asked for in batches of 1, 7 and 1000.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from strategies import Table, constraints, tables

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator, Schema
from recourse_gen.constraints import changed_cells
from recourse_gen.metrics import coordinates
from recourse_gen.selection import POLICIES

EXAMPLES = 12  # tables for each backbone; every one has PEOPLE people under up to RULES different rules
PEOPLE, RULES = 9, 4
TINY: dict[str, dict[str, Any]] = {
    "ar": {"width": 8, "heads": 1, "encoder_layers": 1, "decoder_layers": 1, "bins": 8},
    "flow": {"width": 8, "heads": 1, "layers": 1, "steps": 4},
    "diffusion": {"width": 8, "heads": 1, "layers": 1, "steps": 4},
    "exact": {},
    "nearest": {},
}
FEW: dict[str, Any] = {"candidates": 12, "max_candidates": 24, "cost_weight": 2.0}
OPTIONS = [option.name for option in dataclasses.fields(Constraints)]
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes
)


class Linear:
    """Approves two in five of the training rows, by a random sum over their columns."""

    def __init__(self, table: Table, seed: int) -> None:
        self.schema: Schema = table.schema
        points = coordinates(table.frame, table.schema)
        self.weights = np.random.default_rng(seed).normal(size=points.shape[1])
        self.middle = np.quantile(points @ self.weights, 0.6)

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        # Rounded, or a row on the boundary would be approved in some batches and turned down in others.
        points = np.round(coordinates(frame, self.schema) @ self.weights - self.middle, 9)
        return 1 / (1 + np.exp(-8 * points))


def fitted(backbone: str, table: Table, rules: Constraints, seed: int) -> RecourseGenerator:
    """A generator after one step of training; another example if nobody can be helped or nothing can be learned."""
    generator = RecourseGenerator(
        backbone,
        seed=seed,
        backbone_options=TINY[backbone],
        pairs={"top_k": 10, "gamma": 0.5},
        training={"steps": 1, "batch_size": 8, "validation_pairs": 8},
        audit={"n_estimators": 2, "n_jobs": 1},
        schema=table.schema,
    )
    try:
        return generator.fit(table.frame, classifier=Linear(table, seed), constraints=rules)
    except ValueError as error:
        assume(not any(part in str(error) for part in ("nobody to learn", "favourable", "leave no turned-down")))
        raise


def loosened(rules: Constraints, rng: np.random.Generator) -> Constraints:
    """About half of the options, so that somebody is left who can be helped."""
    return Constraints(**{name: getattr(rules, name) for name in OPTIONS if rng.random() < 0.5})


def people_of(table: Table, approve: Linear, rng: np.random.Generator) -> pd.DataFrame:
    """Rows that are turned down, until some of their numbers are moved between and beyond what training held."""
    denied = table.frame[approve(table.frame) <= 0.5]
    people = denied.iloc[rng.integers(0, len(denied), PEOPLE)].set_axis([f"p{i}" for i in range(PEOPLE)])
    for feature in table.schema.features:
        if feature.kind == "categorical" or rng.random() < 0.4:
            continue
        assert feature.bounds is not None
        spread = rng.choice([0.0, 0.0, 0.1, 0.6], PEOPLE) * rng.normal(size=PEOPLE)
        values = people[feature.name].to_numpy(dtype=np.float64) + spread * (feature.bounds[1] - feature.bounds[0])
        if feature.storage.kind in "iu":
            info = np.iinfo(feature.storage)
            values = np.rint(values).clip(info.min, info.max)
        people[feature.name] = pd.Series(values, index=people.index).astype(table.frame[feature.name].dtype)
    return people


def check(
    found: Counterfactuals, people: pd.DataFrame, table: Table, given: Mapping[str, Constraints], approve: Linear
) -> None:
    frame, report = found.to_frame(), found.report
    assert dict(frame.dtypes) == dict(table.frame.dtypes)
    assert list(frame.columns) == list(table.frame.columns)
    assert not frame.isna().any().any()
    assert report[["status", "reason", "probability", "audited", "candidates", "forced"]].notna().all().all()
    assert report.loc[report["status"] == "ok", ["cost", "n_changed"]].notna().all().all()
    assert len(frame) == 0 or (approve(frame) > 0.5).all()
    for label, rules in given.items():
        mine = frame[frame.index.get_level_values(0) == label]
        assert not rules.violations(people.loc[[label] * len(mine)], mine).any(), rules.to_dict()
        if report.loc[(label, 0), "status"] == "infeasible":
            told = people.loc[label].to_dict(), rules.to_dict(), report.loc[(label, 0), "reason"]
            assert nothing_obeys(people.loc[[label]], table, rules), told


def nothing_obeys(person: pd.DataFrame, table: Table, rules: Constraints) -> bool:
    """Whether no blend of the person's own values and the training rows' obeys the rules, of some that are tried, but
    what is so today."""
    rng, count = np.random.default_rng(0), 60
    here, there = (table.transform.encode(frame) for frame in (person, table.frame))
    columns = {}
    for (_, t, _), name in zip(table.schema.places, table.schema.names, strict=True):
        # A number that training lacked stands in for the nearest level, which is out of its reach.
        out = there.cat[:, t].numpy() == here.cat[0, t].item() if t is not None else np.zeros(len(table.frame), bool)
        values = pd.concat([person[name], table.frame[name][~out]])
        own = rng.random(count) < 0.5
        columns[name] = values.iloc[np.where(own, 0, rng.integers(0, len(values), count))].reset_index(drop=True)
    blends, today = pd.DataFrame(columns), person.iloc[[0] * count]
    return bool((rules.violations(today, blends) | ~changed_cells(today, blends).any(1)).all())


def test_there_are_enough_cases() -> None:
    assert EXAMPLES * PEOPLE * len(TINY) >= 540


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.filterwarnings("ignore::UserWarning")
@many
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_every_promise_holds_in_every_batch(backbone: str, data: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = data.draw(tables(min_columns=2, max_columns=5, min_rows=20, max_rows=40))
    kinds = [loosened(data.draw(constraints(table)), rng) for _ in range(RULES)]
    generator = fitted(backbone, table, kinds[0] if rng.random() < 0.3 else Constraints(), seed % 1000)
    approve = Linear(table, seed % 1000)
    people = people_of(table, approve, rng)
    given = {label: kinds[rng.integers(RULES)] for label in people.index}
    options: dict[str, Any] = {
        **FEW,
        "n": int(rng.integers(1, 4)),
        "select": str(rng.choice(sorted(POLICIES))),
        "sparsify": bool(rng.random() < 0.6),
        "audit": bool(rng.random() < 0.6),
        "constraints": given,
    }
    found = generator.generate(people, batch_size=1000, **options)
    check(found, people, table, given, approve)
    for batch_size, some in ((1, people), (7, people.iloc[rng.permutation(PEOPLE)])):
        again = generator.generate(some, batch_size=batch_size, **options)
        asked = [key for key in found.report.index if key[0] in some.index]
        pd.testing.assert_frame_equal(again.report.loc[asked], found.report.loc[asked], rtol=1e-3)
        held = [key for key in found.to_frame().index if key[0] in some.index]
        pd.testing.assert_frame_equal(again.to_frame().loc[held], found.to_frame().loc[held], rtol=1e-4)
