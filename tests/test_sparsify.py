"""Putting changes back: only towards the factual, only while an answer gains by it, never against a rule."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, RecourseGenerator
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema
from recourse_gen.selection import Pool, policy
from recourse_gen.sparsify import sparsify

FEW: dict[str, Any] = {"candidates": 16, "max_candidates": 64, "cost_weight": 5.0}
SCHEMA = Schema(
    (
        Feature("colour", "categorical", "str", ("red", "green", "blue")),
        Feature("level", "ordinal", "int64", tuple(range(9)), (0.0, 8.0)),
        Feature("x", "continuous", "float64", (), (0.0, 1.0), (0.0, 1.0)),
    )
)


def pool(cat: np.ndarray, num: np.ndarray, good: np.ndarray, own: Rows, price: float = 0.0) -> Pool:
    """Answers ``(A, ·)``; the cost of a changed category is 1, of numbers their distance on their range."""
    steps = np.abs(cat - own.cat.numpy()) / [1, 8]
    steps[:, 0] = steps[:, 0] > 0
    cost = steps.sum(1) + np.abs(num - own.num.numpy()).sum(1)
    changed = (cat != own.cat.numpy()).sum(1) + (num != own.num.numpy()).sum(1)
    nothing = np.full((len(cat), 1), np.nan)
    return Pool(
        rows=Rows(torch.from_numpy(num).float()[:, None], torch.from_numpy(cat)[:, None]),
        probability=good[:, None] * 1.0,
        cost=cost[:, None],
        burden=(cost + price * changed)[:, None],
        valid=good[:, None],
        consensus=nothing,
        plausibility=nothing,
        expected=np.zeros((len(cat), 1)),
        accepted=good[:, None],
    )


class Asked:
    """Scores candidates by a rule on (colour, level, x), and counts them."""

    def __init__(self, rule: Any, own: Rows) -> None:
        self.rule, self.own, self.rows = rule, own, 0

    def __call__(self, drawn: Rows, at: np.ndarray) -> Pool:
        self.rows += len(at)
        cat, num = drawn.cat.numpy(), drawn.num.numpy().astype(np.float64)
        return pool(cat, num, self.rule(cat[:, 0], cat[:, 1], num[:, 0]), self.own.take(torch.from_numpy(at)))


def factual(rows: int) -> Rows:
    return Rows(torch.full((rows, 1), 0.125), torch.tensor([[0, 1]]).repeat(rows, 1))


def after(rule: Any, cat: Any, num: Any, together: Any = (), **rivals: int) -> tuple[list[list[float]], int]:
    """(colour, level, x) of each answer after it was made sparse, and how many rows were asked about."""
    own = factual(len(cat))
    asked = Asked(rule, own)
    start = asked(Rows(torch.tensor(num), torch.tensor(cat)), np.arange(len(cat)))
    asked.rows = 0
    done = sparsify(start, own, SCHEMA, policy("cheapest"), asked, together, **rivals)
    assert done.valid.tolist() == start.valid.tolist()
    return torch.cat([done.rows.cat, done.rows.num], 2)[:, 0].tolist(), asked.rows


def test_what_the_answer_does_not_need_goes_back() -> None:
    assert after(lambda colour, level, x: level >= 7, [[2, 7]], [[0.625]])[0] == [[0, 7, 0.125]]


def test_the_dearest_goes_back_first_and_the_rest_stays_if_one_of_the_two_is_needed() -> None:
    assert after(lambda colour, level, x: (colour == 2) | (x > 0.5), [[2, 7]], [[0.625]])[0] == [[0, 1, 0.625]]


def test_numbers_go_part_of_the_way_and_categories_do_not() -> None:
    answer, _ = after(lambda colour, level, x: (level >= 4) & (x >= 0.5) & (colour == 2), [[2, 7]], [[1.125]])
    # Half way first; a quarter of what is left is too far for the level.
    assert answer == [[2, 4, 0.5]]


def test_columns_that_change_together_go_back_together() -> None:
    def alone(colour: np.ndarray, level: np.ndarray, x: np.ndarray) -> np.ndarray:
        return (level >= 3) & ((colour == 0) == (x == 0.125))

    assert after(alone, [[2, 7]], [[0.625]])[0] == [[2, 3, 0.3125]], "x goes half of the way, then a quarter"
    assert after(alone, [[2, 7]], [[0.625]], [(0, 2)])[0] == [[0, 3, 0.125]]
    needed, _ = after(lambda *cells: alone(*cells) & (cells[2] >= 0.5), [[2, 7]], [[1.125]], [(0, 2)])
    assert needed == [[2, 3, 0.5]], "one by one, they still go part of the way"


def plainly(rule: Any, start: list[float]) -> list[float]:
    """One answer (colour, level, x), one move after the other, as `sparsify` promises."""
    own, kinds = np.array([0.0, 1.0, 0.125]), "cno"

    def asked(cells: np.ndarray) -> tuple[bool, float]:
        colour, level, x = (np.array([cell]) for cell in cells)
        price = float(colour[0] != 0) + abs(level[0] - 1) / 8 + abs(x[0] - 0.125)
        return bool(rule(colour, level, x)[0]), price

    now, share = np.array(start), np.ones(3)
    valid, price = asked(now)
    while valid:
        share[now == own] = 0
        moves = []
        for d in np.flatnonzero(share):
            left = (now[d] - own[d]) * (1 - share[d])
            cells = now.copy()
            cells[d] = own[d] + (np.trunc(left) if kinds[d] != "o" else left)
            moves.append((d, cells, *asked(cells)))
        if not moves:
            break
        good = [move for move in moves if move[2] and move[3] < price]
        made = set()
        if good:
            d, now, _, price = min(good, key=lambda move: move[3])
            made = {d}
        failed = {d for d, *_ in moves} - {d for d, *_ in good}
        for d in made | failed:
            share[d] = share[d] / 2 if kinds[d] != "c" and share[d] > 0.25 else 0
    return now.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_all_answers_at_once_are_those_of_one_move_after_the_other(seed: int) -> None:
    """Values and shares are powers of two, so that no price is rounded."""
    rng = np.random.default_rng(seed)
    cat = np.stack([rng.integers(0, 3, 300), rng.integers(0, 9, 300)], 1)
    num = rng.integers(0, 9, (300, 1)) / 8
    weight, bound = rng.integers(1, 4, 3), rng.integers(2, 9)

    def rule(colour: np.ndarray, level: np.ndarray, x: np.ndarray) -> np.ndarray:
        return weight[0] * (colour == 2) * 3 + weight[1] * level + weight[2] * 8 * (x - (colour == 1)) > bound

    found, _ = after(rule, cat.tolist(), num.tolist())
    starts = np.concatenate([cat, num], 1).tolist()
    assert found == [plainly(rule, start) for start in starts]
    assert sum(one != start for one, start in zip(found, starts, strict=True)) > 40


def test_only_the_best_of_several_answers_go_on() -> None:
    """After the first round the second answer is the cheapest, and the first the next."""
    cat, num = [[2, 7], [1, 6], [2, 8]], [[0.625]] * 3

    def rule(colour: np.ndarray, level: np.ndarray, x: np.ndarray) -> np.ndarray:
        return level >= 4

    alone, rows = after(rule, cat, num)
    assert alone == [[0, 4, 0.125], [0, 4, 0.125], [0, 4, 0.125]]
    third = [0, 8, 0.625]
    assert after(rule, cat, num, rivals=3, keep=2)[0] == [*alone[:2], third]
    assert after(rule, cat, num, rivals=3, keep=1)[0] == [[0, 7, 0.625], alone[1], third]
    assert after(rule, cat, num, rivals=3, keep=3) == (alone, rows) == after(rule, cat, num, rivals=1, keep=1)
    assert after(rule, cat, num, rivals=3, keep=2)[1] < rows


def test_an_invalid_answer_stays_as_it_is() -> None:
    assert after(lambda colour, level, x: level > 8, [[2, 7]], [[0.625]]) == ([[2, 7, 0.625]], 0)


def test_answers_do_not_depend_on_their_company() -> None:
    rng = np.random.default_rng(0)
    cat = np.stack([rng.integers(0, 3, 50), rng.integers(0, 9, 50)], 1).tolist()
    num = rng.random((50, 1)).tolist()

    def rule(colour: np.ndarray, level: np.ndarray, x: np.ndarray) -> np.ndarray:
        return level / 8 + x + (colour == 1) > 0.9

    together, rows = after(rule, cat, num)
    alone = [after(rule, [c], [n]) for c, n in zip(cat, num, strict=True)]
    assert together == [answer for (answer,), _ in alone]
    assert rows == sum(asked for _, asked in alone) > 100
    for (colour, level, x), before, (was,) in zip(together, cat, num, strict=True):
        assert colour in (0, before[0])
        assert min(1, before[1]) <= level <= max(1, before[1])
        assert min(0.125, np.float32(was)) <= x <= max(0.125, np.float32(was))


@pytest.mark.parametrize("select", ["score", "cheapest", "confident", "diverse"])
def test_answers_are_sparser_and_no_worse(fitted: RecourseGenerator, denied: pd.DataFrame, select: str) -> None:
    asked = denied.iloc[:40]
    plain, sparse = (fitted.generate(asked, select=select, sparsify=wanted, **FEW).report for wanted in (False, True))
    np.testing.assert_array_equal(plain["status"], sparse["status"])
    held = plain["status"] == "ok"
    assert held.sum() > 20
    plain, sparse = plain[held], sparse[held]
    if select != "score":
        assert (sparse["audited"] >= plain["audited"]).all()
    if select == "confident":
        assert (sparse["probability"] >= plain["probability"]).all()
    else:
        assert sparse["cost"].mean() < 0.9 * plain["cost"].mean()
        assert sparse["n_changed"].mean() < 0.9 * plain["n_changed"].mean()


def test_the_price_of_a_changed_column_is_what_decides(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    """The higher, the fewer columns change. At 0 only the cost counts."""
    asked = denied.iloc[:60]
    changed = []
    for price in (0.0, 0.12, 5.0):
        report = fitted.generate(asked, change_price=price, **FEW).report
        changed.append(report["n_changed"].mean())
    assert changed[0] > changed[1] > changed[2], changed
    pd.testing.assert_frame_equal(
        fitted.generate(asked, **FEW).report, fitted.generate(asked, change_price=0.12, **FEW).report
    )


def test_several_answers_stay_several(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    asked = denied.iloc[:40]
    plain, sparse = (fitted.generate(asked, n=5, sparsify=wanted, **FEW) for wanted in (False, True))
    np.testing.assert_array_equal(plain.report["status"], sparse.report["status"])
    frame = sparse.to_frame().reset_index()
    assert not frame.drop(columns="rank").duplicated().any()


def test_rules_hold_and_batches_do_not_matter(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    rules = Constraints(immutable=["job"], monotone={"age": "increase"}, max_changes=3)
    asked = denied.iloc[:30]
    found = fitted.generate(asked, n=2, constraints=rules, **FEW)
    frame = found.to_frame()
    assert len(frame) > 20
    assert not rules.violations(asked.loc[frame.index.get_level_values(0)], frame).any()
    again = fitted.generate(asked, n=2, constraints=rules, batch_size=4, **FEW)
    pd.testing.assert_frame_equal(frame, again.to_frame())


def test_the_classifier_is_asked_about_what_is_returned(
    fitted: RecourseGenerator, denied: pd.DataFrame, classifier: Pipeline
) -> None:
    found = fitted.generate(denied.iloc[:20], confidence=0.7, **FEW)
    held = found.report["probability"][found.report["status"] == "ok"]
    np.testing.assert_allclose(held, classifier.predict_proba(found.to_frame())[:, 1], atol=1e-9)
    assert (held >= 0.7).all()


def test_putting_a_column_back_does_not_part_what_goes_together() -> None:
    """Two columns that rise together: nobody has the one without the other, and no answer may."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-0.5, 0.5, 900)
    frame = pd.DataFrame({"a": first, "b": first + rng.uniform(-0.02, 0.02, 900)})
    labels = (rng.random(900) < 1 / (1 + np.exp(-8 * (frame["a"] + frame["b"])))).astype(int)
    model = LogisticRegression().fit(frame, labels)
    generator = RecourseGenerator("exact", audit={"n_estimators": 20, "n_jobs": 1}).fit(frame, labels, classifier=model)
    turned_down = frame[model.predict(frame) == 0]
    found = generator.generate(turned_down.iloc[:60])
    answers = found.to_frame()[["a", "b"]]
    assert len(answers) == 60
    assert (answers["a"] - answers["b"]).abs().max() < 0.05
