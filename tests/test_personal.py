"""One `Constraints` per person at `generate`: everybody gets what their own constraints alone would have given."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator, evaluation, metrics
from recourse_gen.judge import GoldJudge
from recourse_gen.personal import PersonalConstraints, rules_for
from recourse_gen.testing.tables import random_frame, table_of

Table = tuple[pd.DataFrame, np.ndarray]
FEW: dict[str, Any] = {"candidates": 8, "max_candidates": 16, "cost_weight": 5.0}
KINDS = [
    Constraints(),
    Constraints(max_changes=2, immutable=["job"]),
    Constraints(max_changes=2, monotone={"age": "increase"}),
    Constraints(together=[("job", "owner")], ranges={"income": (None, 55)}),
    Constraints(ordered=[("late", "age")]),
    Constraints(ranges={"income": (500, None)}, immutable=["income"]),
]


def spread(people: pd.Index) -> dict[Any, Constraints]:
    """All kinds in turn; equal ones are not always one object."""
    return {label: Constraints(**KINDS[i % len(KINDS)].to_dict()) for i, label in enumerate(people)}


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_everybody_gets_the_answer_to_their_own_constraints(
    fitted: RecourseGenerator, denied: pd.DataFrame, batch_size: int
) -> None:
    asked = denied.iloc[:30]
    given = spread(asked.index)
    found = fitted.generate(asked, n=2, constraints=given, batch_size=batch_size, **FEW)
    assert list(found.report.index) == [(label, rank) for label in asked.index for rank in range(2)]
    for k, rules in enumerate(KINDS):
        alone = fitted.generate(asked.iloc[k :: len(KINDS)], n=2, constraints=rules, **FEW)
        mine = found.report.loc[list(alone.report.index)]
        pd.testing.assert_frame_equal(mine, alone.report, rtol=1e-4)
        pd.testing.assert_frame_equal(found.to_frame().loc[list(alone.to_frame().index)], alone.to_frame(), rtol=1e-4)
    assert found.report["status"].value_counts()["infeasible"] == 10
    assert list(found.to_frame().index) == list(found.report.index[found.report["status"] == "ok"])
    assert (found.changes()["factual"].drop_duplicates() == found.best().dropna().index).all()


def test_a_series_is_matched_by_label_and_may_hold_others(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    asked = denied.iloc[:12]
    given = spread(denied.index)
    series = pd.Series(given).sample(frac=1.0, random_state=0)
    one, two = (fitted.generate(asked, constraints=rules, **FEW) for rules in (given, series))
    pd.testing.assert_frame_equal(one.report, two.report)
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda people: {}, "or one for each row of X: 10.. has none"),
        (lambda people: dict.fromkeys(people[1:], Constraints()), "or one for each row of X: 10.. has none"),
        (lambda people: pd.Series(Constraints(), index=[*people, people[0]]), "the index of constraints repeats 10"),
        (lambda people: dict.fromkeys(people, ("age",)), "for 10.., constraints must be a Constr.*tuple"),
        (lambda people: dict.fromkeys(people), "for 10.., constraints must be a Constraints object, got NoneType"),
        (lambda people: dict.fromkeys(people, Constraints(immutable=["wage"])), "for 10.., constraints: immutable nam"),
        (lambda people: [Constraints()] * len(people), "constraints must be a Constraints object, got list"),
    ],
)
def test_whoever_lacks_constraints_is_named(
    fitted: RecourseGenerator, denied: pd.DataFrame, given: Any, sentence: str
) -> None:
    asked = denied.iloc[:5]
    with pytest.raises(ValueError, match=sentence):
        fitted.generate(asked, constraints=given(asked.index.tolist()))


def test_fit_takes_one_for_all(table: Table, classifier: Pipeline, small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="constraints must be a Constraints object, got Series"):
        RecourseGenerator(**small).fit(*table, classifier=classifier, constraints=pd.Series(KINDS))


def test_nobody_needs_no_constraints(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    found = fitted.generate(denied.iloc[:0], constraints={}, **FEW)
    assert len(found) == len(found.report) == 0
    assert list(found.to_frame().columns) == list(denied.columns)


def test_violations_and_masks_are_those_of_each_person() -> None:
    table = table_of(random_frame(["text", "int8", "steps", "float"], 60, 0))
    frame, names = table.frame, table.schema.names
    kinds = [
        Constraints(immutable=[names[0]]),
        Constraints(ordered=[(names[1], names[2])]),
        Constraints(ranges={names[3]: (0, 3)}, monotone={names[1]: "increase"}),
        Constraints(max_changes=1),
        Constraints(together=[names[:2]]),
    ]
    given = {label: kinds[i % 5] for i, label in enumerate(frame.index)}
    rules = rules_for(given, table.schema, frame.index)
    assert isinstance(rules, PersonalConstraints)
    after = frame.sample(frac=1.0, random_state=1).set_axis(frame.index)
    alone = np.array([given[i].violations(frame.loc[[i]], after.loc[[i]])[0] for i in frame.index])
    np.testing.assert_array_equal(rules.violations(frame, after), alone)
    assert 0 < alone.sum() < len(alone)
    # Columns that are no concern of theirs need not be there.
    for rule in [kinds[0], kinds[2], kinds[4]]:
        assert rule.concerns(names) == [name for name in names if name in str(rule)]
    mixed = {label: kinds[i % 3] for i, label in enumerate(frame.index)}
    for some in (*kinds, rules_for(mixed, table.schema, frame.index)):
        few = some.concerns(names)
        np.testing.assert_array_equal(some.violations(frame[few], after[few]), some.violations(frame, after))
    assert Constraints().concerns(names) == [] and kinds[3].concerns(names) == list(names)
    np.testing.assert_array_equal(
        metrics.violations(frame, after.mask(np.repeat(alone[:, None], 4, 1)), rules), np.zeros(60, dtype=bool)
    )
    alike = rules.alike(frame)
    assert [len(at) for at in alike] == [24, 12, 12, 12]
    some = frame.iloc[alike[0]]
    feasible = rules.compile(table.schema, some, table.transform.encode(some))
    for i, label in enumerate(some.index):
        one = frame.loc[[label]]
        expected = given[label].compile(table.schema, one, table.transform.encode(one))
        mine = feasible.take(np.array([i]))
        for name in ("tokens", "low", "high", "stay", "raw", "reasons"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(expected, name))


def test_an_evaluation_counts_what_breaks_each_persons_own(
    fitted: RecourseGenerator, table: Table, denied: pd.DataFrame
) -> None:
    asked, given = denied.iloc[:20], spread(denied.index)
    judge = GoldJudge(fitted.schema, seed=0).fit(*table)
    ours = evaluation.run(fitted, asked, judge=judge, constraints=given, **FEW).ours
    assert ours["constraint_violations"] == 0
    assert ours["found"] > 0.3
