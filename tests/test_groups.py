"""`Counterfactuals.by_group` counts who was helped, and at what price."""

import numpy as np
import pandas as pd
import pytest

from recourse_gen import Schema
from recourse_gen.counterfactuals import REPORT, Counterfactuals

PEOPLE = pd.DataFrame({"x": range(6)}, index=list("abcdef"))
STATUS = {
    "a": ("ok", "ok"),
    "b": ("already_favourable", "already_favourable"),
    "c": ("not_found", "ok"),
    "d": ("infeasible", "infeasible"),
    "e": ("ok", "not_found"),
    "f": ("already_favourable", "already_favourable"),
}


@pytest.fixture
def found():
    keys = pd.MultiIndex.from_product([PEOPLE.index, range(2)], names=["factual", "rank"])
    report = pd.DataFrame(np.nan, index=keys, columns=list(REPORT))
    report["status"] = [status for pair in STATUS.values() for status in pair]
    ok = report["status"] == "ok"
    report["probability"] = np.where(ok, 0.8, 0.1)  # a failure shows the factual's own
    report.loc[ok, "cost"] = [1.0, 9.0, 2.0, 4.0]
    report.loc[ok, "n_changed"] = [1, 9, 2, 6]
    return Counterfactuals(PEOPLE, report, Schema.infer(PEOPLE), pd.DataFrame({"x": range(4)}, index=keys[ok]))


def test_groups_count_people_denied_and_found_and_average_best_answers(found):
    table = found.by_group(pd.Series(["f", "f", "f", "m", "m", None], index=PEOPLE.index, name="sex"))
    assert table.index.name == "sex" and table.index[:2].tolist() == ["f", "m"] and pd.isna(table.index[2])
    assert table["people"].tolist() == [3, 2, 1]
    assert table["denied"].tolist() == [2, 2, 0]
    assert table["found"].tolist() == [2, 1, 0]
    np.testing.assert_array_equal(table["share_found"], [1.0, 0.5, np.nan])
    np.testing.assert_array_equal(table["cost"], [1.5, 4.0, np.nan])
    np.testing.assert_array_equal(table["n_changed"], [1.5, 6.0, np.nan])
    np.testing.assert_allclose(table["probability"], [0.8, 0.8, np.nan])


def test_a_series_goes_by_label_and_an_array_by_position(found):
    sex = pd.Series(["m", "f", "f", "m", "f", "m", "m"], index=list("fedcbaz"), name="sex")
    expected = found.by_group(sex)
    assert expected["people"].tolist() == [3, 3]
    ordered = sex[list("abcdef")]
    for groups in (ordered.to_numpy(), ordered.tolist(), pd.Categorical(ordered, categories=["f", "m", "x"])):
        table = found.by_group(groups)
        assert table.index.tolist() == ["f", "m"]
        np.testing.assert_array_equal(table, expected)
    assert found.by_group(np.ones(6)).index.name == "group"


def test_tuples_name_groups_too(found):
    pairs = [("f", 1), ("m", 1), ("f", 1), ("m", 2), ("m", 1), ("m", 1)]
    for groups in (pairs, pd.MultiIndex.from_tuples(pairs), pd.Series(pairs, index=PEOPLE.index)):
        table = found.by_group(groups)
        assert table["people"].to_dict() == {("f", 1): 2, ("m", 1): 3, ("m", 2): 1}
        assert table["found"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["f", "m"], "groups has 2 values for 6 people"),
        (pd.Series(["f"] * 6), "lacks 6 of the 6 people asked about, 'a' for one"),
        (pd.Series(["f"] * 7, index=list("abcdefa")), "index of groups repeats 'a'"),
        ("abcdef", "got str"),
        (PEOPLE, "got DataFrame"),
        (np.ones((6, 2)), "got ndarray"),
        (iter("abcdef"), "got str_.*iterator"),
        ([["f"]] * 6, "groups holds a value that cannot name a group: unhashable type: 'list'"),
        ([{}] * 6, "groups holds a value that cannot name a group: unhashable type: 'dict'"),
        (pd.Series([["f"]] * 6, index=PEOPLE.index), "cannot name a group: unhashable type: 'list'"),
    ],
)
def test_groups_that_do_not_belong_to_the_people_are_refused(found, groups, message):
    with pytest.raises(ValueError, match=message):
        found.by_group(groups)


def test_groups_of_a_real_result(fitted, table):
    people = table[0].head(40)
    found = fitted.generate(people, candidates=8)
    groups = found.by_group(table[0]["region"])
    assert groups["people"].sum() == 40
    assert groups["found"].sum() == len(found)
    assert groups["denied"].sum() == (found.report["status"] != "already_favourable").sum()
    assert (groups["cost"] * groups["found"]).sum() == pytest.approx(found.report["cost"].sum())
    nobody = fitted.generate(people[:0]).by_group(table[0]["region"])
    assert nobody.empty and list(nobody.columns) == list(groups.columns)
