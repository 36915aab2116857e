"""Rules that are given when asking, for everybody or for one person, and what they change. Nothing is trained twice.

python examples/constraints_at_call_time.py
"""

import warnings
from dataclasses import replace

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator, data

FORM = ["credit_amount", "duration_in_month", "savings", "account_check_status", "present_emp_since", "other_debtors"]
FORM += ["housing", "age"]


def trained() -> tuple[RecourseGenerator, pd.DataFrame]:
    """A generator that was told no rules at all, and five people whom the model turns down."""
    german = data.load("german")
    train, test = german.train[FORM], german.test[FORM]
    text = make_column_selector(dtype_exclude="number")
    encode = make_column_transformer((OneHotEncoder(), text), remainder=StandardScaler())
    model = make_pipeline(encode, LogisticRegression(class_weight="balanced")).fit(train, german.y_train)
    generator = RecourseGenerator("ar", seed=0, training={"steps": 200, "minutes": 30})
    return generator.fit(train, german.y_train, classifier=model), test[model.predict(test) == 0].head(5)


def tell(title: str, found: Counterfactuals) -> None:
    """The answers in words."""
    print(title)
    for person in found.factuals.index:
        print("  " + found.describe(person))
    print()


def main() -> None:
    warnings.filterwarnings("ignore", message=".*partners are fewer than")  # the table is small
    generator, denied = trained()
    tell("No rules:", generator.generate(denied))

    # Years do not pass at will, and to close an account is no advice: it may only come out of the red.
    account = {"< 0 DM": ["< 0 DM", "0 <= ... < 200 DM"]}  # from today's value to where it may end
    rules = Constraints(immutable=["age"], allowed={"account_check_status": account})
    for_all = generator.generate(denied, constraints=rules)
    tell("Rules for everybody:", for_all)

    # One of them needs the whole loan, another has to have paid it back within half a year.
    needy, hasty = denied.index[1], denied.index[4]
    own = {person: rules for person in denied.index}
    own[needy] = replace(rules, immutable=["age", "credit_amount"])
    own[hasty] = replace(rules, ranges={"duration_in_month": (None, 6)})
    for_each = generator.generate(denied, constraints=own)
    tell(f"Rules of their own for {needy} and {hasty}:", for_each)
    others = denied.index.drop([needy, hasty])
    before, after = (a[a.index.isin(others, level="factual")] for a in (for_all.to_frame(), for_each.to_frame()))
    print("Nobody else's answer moved:", after.equals(before))
    print(f"What {hasty} cannot leave as it is:", for_each.report.loc[(hasty, 0), "forced"])

    # λ is a dial too. Where rules leave little room, the answer is farther away: a smaller λ looks there.
    tell(f"\n{needy} again, with λ = 5:", generator.generate(denied.loc[[needy]], constraints=own, cost_weight=5))

    # What cannot be done is told apart from what was not found.
    older = replace(rules, ranges={"age": (80, None)})
    print(generator.generate(denied.head(1), constraints=older).report[["status", "reason"]].to_string())


if __name__ == "__main__":
    main()
