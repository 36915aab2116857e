"""Writing rules down: what is refused, and how they are kept in YAML."""

import numpy as np
import pandas as pd
import pytest
import yaml

from recourse_gen.constraints import Constraints
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

FRAME = pd.DataFrame(
    {
        "age": [20, 30, 40, 60],
        "income": [0.0, 10.5, 25.0, 50.0],
        "limit": [5.0, 20.0, 30.0, 60.0],
        "owner": [True, False, True, False],
        "job": ["clerk", "nurse", "smith", "clerk"],
    }
)
SCHEMA = Schema.infer(FRAME, kinds={"income": "continuous"})
ROWS = TableTransform(SCHEMA).fit(FRAME).encode(FRAME)


@pytest.mark.parametrize("of", [np.array, pd.Series, pd.Index, pd.Categorical, tuple])
def test_allowed_values_may_come_in_any_kind_of_list(of):
    plain, given = ({"age": f([20, 30]), "job": {"clerk": f(["nurse"])}} for f in (list, of))
    assert Constraints(allowed=given).to_dict() == {"allowed": plain}
    plain, given = (Constraints(allowed=allowed).compile(SCHEMA, FRAME, ROWS) for allowed in (plain, given))
    assert plain.tokens.equal(given.tokens)


def test_to_dict_holds_plain_values_only():
    rules = Constraints(
        immutable=("age",), allowed={"age": np.array([20, 30])}, ranges={"income": (np.float64(0), np.int64(9))}
    )
    assert rules.to_dict() == {"immutable": ["age"], "allowed": {"age": [20, 30]}, "ranges": {"income": [0.0, 9]}}
    assert yaml.safe_load(yaml.safe_dump(rules.to_dict())) == rules.to_dict()
    assert Constraints().to_dict() == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"immutable": "age"}, "immutable must be a list of column names, got the text 'age'"),
        ({"monotone": ["age"]}, "monotone must be a mapping from column names, got .'age'."),
        ({"monotone": {"age": "up"}}, r"monotone\['age'\] must be 'increase' or 'decrease', got 'up'"),
        ({"ranges": {"age": (3, 1)}}, r"ranges\['age'\] must be \(low, high\) with low ≤ high, got \(3, 1\)"),
        ({"ranges": {"age": 3}}, r"ranges\['age'\] must be \(low, high\)"),
        ({"ranges": {"age": (1, 2, 3)}}, r"ranges\['age'\] must be \(low, high\)"),
        ({"ranges": {"age": ("1", 3)}}, r"ranges\['age'\] must be \(low, high\)"),
        ({"ranges": {"age": (float("nan"), 3)}}, r"ranges\['age'\] must be \(low, high\)"),
        ({"allowed": {"job": "clerk"}}, r"allowed\['job'\] must list values, or map values to lists, got 'clerk'"),
        ({"allowed": {"job": {"clerk": "nurse"}}}, r"allowed\['job'\] must list values, or map values to lists"),
        ({"ordered": ("used", "limit")}, r"ordered must list pairs of columns \(a, b\) with a ≤ b, got 'used'"),
        ({"ordered": [("a", "b", "c")]}, "ordered must list pairs of columns"),
        ({"ordered": [("a", "b"), ("b", "c"), ("c", "a")]}, "ordered runs in a circle through 'a'"),
        ({"ordered": [("a", "a")]}, "ordered runs in a circle through 'a'"),
        ({"together": ["age"]}, "together must list groups of two columns or more, got 'age'"),
        ({"together": [("age",)]}, "together must list groups of two columns or more"),
        ({"together": [("age", "age")]}, "together must list groups of two columns or more"),
        ({"together": [["age", ["job"]]]}, "together must list groups of two columns or more"),
        ({"together": [[["age"], ["job"]]]}, "together must list groups of two columns or more"),
        ({"ordered": [["age", ["job"]]]}, "ordered must list pairs of columns"),
        ({"allowed": {"job": np.array("clerk")}}, r"allowed\['job'\] must list values, or map values to lists"),
        ({"allowed": {"job": ["clerk", pd.NA]}}, r"allowed\['job'\] lists a missing value"),
        ({"allowed": {"job": pd.Series(["clerk", None])}}, r"allowed\['job'\] lists a missing value"),
        ({"allowed": {"age": pd.array([20, None], dtype="Int64")}}, r"allowed\['age'\] lists a missing value"),
        ({"allowed": {"job": {"clerk": [np.nan]}}}, r"allowed\['job'\] lists a missing value"),
        ({"allowed": {"job": {pd.NA: ["clerk"]}}}, r"allowed\['job'\] lists a missing value"),
        ({"max_changes": 0}, "max_changes must be a whole number of at least 1, got 0"),
        ({"max_changes": 1.5}, "max_changes must be a whole number of at least 1, got 1.5"),
        ({"max_changes": True}, "max_changes must be a whole number of at least 1, got True"),
    ],
)
def test_rules_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Constraints(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"immutable": ["wage"]}, "immutable names column 'wage'; columns are age, income, limit, owner, job"),
        ({"monotone": {"wage": "increase"}}, "monotone names column 'wage'"),
        ({"ordered": [("age", "wage")]}, "ordered names column 'wage'"),
        ({"together": [("age", "wage")]}, "together names column 'wage'"),
        ({"monotone": {"job": "increase"}}, "monotone needs a numeric column, but 'job' is categorical"),
        ({"ranges": {"owner": (0, 1)}}, "ranges needs a numeric column, but 'owner' is categorical"),
        ({"ordered": [("age", "job")]}, "ordered needs a numeric column, but 'job' is categorical"),
        ({"allowed": {"income": [1.0]}}, "allowed needs a column of levels, but 'income' is continuous; use ranges"),
        ({"allowed": {"job": ["pilot"]}}, r"allowed\['job'\] lists 'pilot', a value the training rows lack"),
        ({"allowed": {"job": {"clerk": ["pilot"]}}}, r"allowed\['job'\] lists 'pilot', a value the training rows lack"),
        ({"allowed": {"job": {"pilot": ["clerk"]}}}, r"allowed\['job'\] lists 'pilot', a value the training rows lack"),
        ({"allowed": {"age": [33]}}, r"allowed\['age'\] lists 33, a value the training rows lack"),
    ],
)
def test_rules_that_do_not_fit_the_table_are_refused(options, sentence):
    rules = Constraints(**options)
    with pytest.raises(ValueError, match=f"constraints: {sentence}"):
        rules.check(SCHEMA)
    with pytest.raises(ValueError, match=f"constraints: {sentence}"):
        rules.compile(SCHEMA, FRAME, ROWS)


def test_rules_outlive_the_iterators_that_they_come_from():
    columns = ["age"]
    rules = Constraints(
        immutable=(name for name in columns), ordered=iter([("income", "limit")]), together=iter([["owner", "job"]])
    )
    columns.append("job")
    for _ in range(2):
        rules.check(SCHEMA)
        assert rules.to_dict() == {
            "immutable": ["age"],
            "ordered": [["income", "limit"]],
            "together": [["owner", "job"]],
        }
    after = FRAME.assign(age=[20, 31, 40, 60])
    for _ in range(2):
        assert rules.violations(FRAME, after).tolist() == [False, True, False, False]


@pytest.mark.parametrize("option", ["immutable", "ordered", "together"])
def test_what_is_no_list_is_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be a list, got None"):
        Constraints(**{option: None})
    with pytest.raises(ValueError, match="ordered must list pairs"):
        Constraints(ordered=[1])
