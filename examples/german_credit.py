"""Who was turned down for a loan, and what would get each of them one: German credit with a scikit-learn pipeline.

python examples/german_credit.py [FOLDER]     writes german_credit.html and german_credit.png there, by default here
"""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from recourse_gen import Constraints, RecourseGenerator, data

# What the bank asks for. It leaves out sex and nationality, which are in the table too.
FORM = [
    "credit_amount",
    "duration_in_month",
    "savings",
    "account_check_status",
    "present_emp_since",
    "other_debtors",
    "housing",
    "age",
]
# From today's value to where it may end; a value that is not named stays. In these data those without an account, or
# with unknown savings, repay best, but to close an account is no advice.
ACCOUNT = {"< 0 DM": ["< 0 DM", "0 <= ... < 200 DM"]}
SAVINGS = {"... < 100 DM": ["... < 100 DM", "100 <= ... < 500 DM", "500 <= ... < 1000 DM ", ".. >= 1000 DM "]}
DIRECTIONS = Constraints(
    monotone={"credit_amount": "decrease"}, allowed={"account_check_status": ACCOUNT, "savings": SAVINGS}
)
RULES = replace(DIRECTIONS, immutable=["age", "present_emp_since"], max_changes=3)


def main(folder: Path) -> None:
    # 1. A frame, and a pipeline with the encoding inside: nothing here is prepared for recourse-gen.
    german = data.load("german")
    train, test = german.train[FORM], german.test[FORM]
    text = make_column_selector(dtype_exclude="number")
    encode = make_column_transformer((OneHotEncoder(), text), remainder=StandardScaler())
    model = make_pipeline(encode, LogisticRegression(class_weight="balanced")).fit(train, german.y_train)
    denied = test[model.predict(test) == 0].head(8)
    print(f"{(model.predict(test) == 0).sum()} of {len(test)} held-out applicants are turned down; here are 8")

    # 2. Learn once, answer for everybody. A budget in steps, not in minutes, makes the run reproducible; a confidence
    # above 0.5 keeps answers off the border, where the next model, or a small slip, would say no.
    warnings.filterwarnings("ignore", message=".*partners are fewer than")  # the table is small
    generator = RecourseGenerator("ar", seed=0, training={"steps": 200, "minutes": 30})
    # It learns from real people whom an applicant may become, so directions are told now; nearly nobody is as old as
    # somebody else to the year, so what has to stay as it is comes with the question.
    generator.fit(train, german.y_train, classifier=model, constraints=DIRECTIONS)
    found = generator.generate(denied, constraints=RULES, confidence=0.6)

    # 3. What came of it: a row for everybody, ...
    print(
        "\n" + found.report[["status", "probability_before", "probability", "cost", "n_changed"]].round(2).to_string()
    )
    # ... what changes, ...
    print("\n" + found.changes().to_string(index=False))
    # ... in words, ...
    print("\n" + "\n".join(found.describe(person) for person in denied.index))
    # ... and the rows themselves: as many columns as the training frame, with its dtypes, approved by the pipeline.
    answers = found.to_frame()
    assert (answers.dtypes == train.dtypes).all() and (model.predict(answers) == 1).all()
    print("\n" + answers[["credit_amount", "duration_in_month", "savings"]].to_string())

    # 4. A page for whoever has to explain them, and a picture of one.
    found.to_html(folder / "german_credit.html")
    person = found.report["n_changed"].idxmax()[0]
    found.plot(person).savefig(folder / "german_credit.png", dpi=80)
    print(f"\ngerman_credit.html is the page for the caseworker, german_credit.png shows applicant {person}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
