"""The auditor agrees with clear labels, knows what lies far off, and survives the disk without pickle."""

import pickle
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from recourse_gen.audit import FILE, VERSION, Auditor
from recourse_gen.estimators import TRUSTED
from recourse_gen.outliers import OutlierFactor
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform


def table(size: int = 400, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Income decides, the rest is noise; every kind of column occurs."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.uniform(0, 100, size),
            "age": rng.integers(20, 40, size),
            "job": rng.choice(["clerk", "nurse", "smith"], size),
            "owner": rng.random(size) < 0.5,
        }
    )
    return frame, (frame["income"] > 50).to_numpy().astype(int)


def schema_of(frame: pd.DataFrame) -> Schema:
    return Schema.infer(frame, kinds={"income": "continuous"})


@pytest.fixture(scope="module")
def transform() -> TableTransform:
    frame, _ = table()
    return TableTransform(schema_of(frame)).fit(frame)


@pytest.fixture(scope="module")
def fitted(transform: TableTransform) -> Auditor:
    frame, target = table()
    return Auditor(transform.schema, n_estimators=50).fit(transform.encode(frame), target, seed=3)


def test_consensus_follows_separable_labels(fitted: Auditor, transform: TableTransform) -> None:
    frame, target = table(seed=1)
    clear = ((frame["income"] - 50).abs() > 15).to_numpy()
    consensus = fitted.consensus(transform.encode(frame[clear]))
    assert consensus.dtype == np.float64
    assert (consensus[target[clear] == 1] > 0.8).all()
    assert (consensus[target[clear] == 0] < 0.2).all()


def test_the_base_rate_does_not_show(transform: TableTransform) -> None:
    """Labels that nothing explains, one in ten favourable: weighed equally, the best probability is a half."""
    frame, _ = table(2000)
    favourable = (np.arange(len(frame)) % 10 == 0).astype(int)
    auditor = Auditor(transform.schema, n_estimators=5).fit(transform.encode(frame), favourable, seed=0)
    assert 0.35 < auditor.consensus(transform.encode(table(1000, seed=8)[0])).mean() < 0.65


def test_consensus_is_accepted_where_others_share_it(transform: TableTransform) -> None:
    """From 95 % on, but no more is asked for than half of the favourable rows have; noise leaves only the latter."""
    frame, target = table()
    rows, noise = transform.encode(frame), np.random.default_rng(0).permutation(target)
    clear, unclear = (
        Auditor(transform.schema, n_estimators=20).fit(rows, labels, seed=0) for labels in (target, noise)
    )
    usual = [np.median(each.consensus(rows)[labels == 1]) for each, labels in ((clear, target), (unclear, noise))]
    threshold = clear.consensus_threshold
    assert threshold is not None and 0.5 <= threshold < usual[0]
    assert threshold == 0.5 or clear._agreement.favoured(logit(threshold)) == pytest.approx(0.95)
    assert unclear.consensus_threshold == pytest.approx(usual[1])


def test_the_centre_is_plausible_and_a_far_row_is_not(fitted: Auditor, transform: TableTransform) -> None:
    frame, target = table()
    favourable = transform.encode(frame[target == 1])
    plausibility = fitted.plausibility(favourable)
    far = Rows(favourable.num + 5.0, favourable.cat)
    assert np.median(plausibility) > 0
    assert (fitted.plausibility(far) == -1.0).all()


def test_plausibility_looks_at_favourable_rows_only() -> None:
    """Two tight groups; the unfavourable one is crowded with training rows and still implausible."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.1, 0.01, 200), rng.normal(0.9, 0.01, 40)])
    frame = pd.DataFrame({"a": values, "b": rng.permutation(values)})
    frame["b"] = frame["a"] + rng.normal(0, 0.01, len(frame))
    transform = TableTransform(Schema.infer(frame, tokenize="none")).fit(frame)
    auditor = Auditor(transform.schema, n_estimators=5)
    auditor.fit(transform.encode(frame), (values > 0.5).astype(int), seed=0)
    unfavourable, favourable = (
        auditor.plausibility(transform.encode(pd.DataFrame({"a": [v], "b": [v]})))[0] for v in (0.1, 0.9)
    )
    assert unfavourable < 0 < favourable


def test_answers_do_not_depend_on_the_batch_or_the_cores(fitted: Auditor, transform: TableTransform) -> None:
    frame, _target = table(60, seed=4)
    rows = transform.encode(frame)
    alone = [rows.take(torch.tensor([i])) for i in range(10)]
    np.testing.assert_array_equal(fitted.consensus(rows)[:10], np.concatenate([fitted.consensus(row) for row in alone]))
    np.testing.assert_array_equal(
        fitted.plausibility(rows)[:10], np.concatenate([fitted.plausibility(row) for row in alone])
    )
    train, labels = table()
    single = Auditor(transform.schema, n_estimators=50, n_jobs=None).fit(transform.encode(train), labels, seed=3)
    many = transform.encode(table(1300, seed=4)[0])
    np.testing.assert_array_equal(fitted.consensus(many), single.consensus(many))


def test_no_rows_no_answers(fitted: Auditor, transform: TableTransform) -> None:
    nothing = transform.encode(table()[0].iloc[:0])
    assert fitted.consensus(nothing).shape == fitted.plausibility(nothing).shape == (0,)
    assert fitted.expected(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)


def test_accepts_asks_for_both(transform: TableTransform) -> None:
    auditor = Auditor(transform.schema, consensus_threshold=0.6, plausibility_threshold=0.1)
    accepted = auditor.accepts(np.array([0.6, 0.59, 0.9]), np.array([0.1, 0.5, 0.0]))
    assert accepted.tolist() == [True, False, False]


def test_more_is_expected_of_a_clear_case_than_of_a_close_one_and_least_of_an_outlier(
    fitted: Auditor, transform: TableTransform
) -> None:
    frame = table()[0].iloc[[0, 0]].assign(income=[80.0, 50.5], age=30)
    rows = transform.encode(frame)
    clear, close = fitted.expected(fitted.consensus(rows), fitted.plausibility(rows))
    far = Rows(rows.num[:1] + 5.0, rows.cat[:1])
    (outlier,) = fitted.expected(fitted.consensus(far), fitted.plausibility(far))
    assert 2 >= clear > close > outlier >= 0


def test_what_is_expected_depends_on_whom_the_classifier_approves(transform: TableTransform) -> None:
    """Where it approves the clear cases only, a panel's doubts about the others are not counted against it."""
    rng = np.random.default_rng(5)
    frame, _ = table(2000, seed=5)
    noisy = (rng.random(len(frame)) < frame["income"] / 100).astype(int).to_numpy()
    rows, clear = transform.encode(frame), (frame["income"] > 60).to_numpy()
    everybody = Auditor(transform.schema, n_estimators=20).fit(rows, noisy, seed=0)
    some = Auditor(transform.schema, n_estimators=20).fit(rows, noisy, seed=0, approved=clear)
    np.testing.assert_array_equal(everybody.consensus(rows), some.consensus(rows))
    consensus, plausibility = np.array([0.55]), np.array([0.3])
    assert some.expected(consensus, plausibility) > everybody.expected(consensus, plausibility)


# Both opinions over the whole of their ranges, as pools hold them, and what is expected where nothing was measured.
CONSENSUS, PLAUSIBILITY = np.meshgrid(np.linspace(0.001, 0.999, 21), np.linspace(-1.0, 1.0, 11))
UNMEASURED = CONSENSUS + expit(10 * PLAUSIBILITY)


def test_more_of_either_opinion_lets_more_be_expected(fitted: Auditor) -> None:
    expected = fitted.expected(CONSENSUS, PLAUSIBILITY)
    assert expected.dtype == np.float64
    assert expected.shape == CONSENSUS.shape
    assert (np.diff(expected, axis=0) > 0).all(), "more plausible, at any consensus"
    assert (np.diff(expected, axis=1) > 0).all(), "more consensus, at any plausibility"


def test_where_nobody_is_approved_opinions_are_taken_at_their_word(transform: TableTransform) -> None:
    frame, target = table()
    nobody, everybody, silent = (
        Auditor(transform.schema, n_estimators=20).fit(transform.encode(frame), target, seed=0, **options)
        for options in ({"approved": target < 0}, {"approved": target >= 0}, {})
    )
    np.testing.assert_allclose(nobody.expected(CONSENSUS, PLAUSIBILITY), UNMEASURED)
    measured = everybody.expected(CONSENSUS, PLAUSIBILITY)
    assert np.abs(measured - UNMEASURED).max() > 0.1
    np.testing.assert_array_equal(silent.expected(CONSENSUS, PLAUSIBILITY), measured)


def test_save_and_load_give_the_same_answers(fitted: Auditor, transform: TableTransform, tmp_path: Path) -> None:
    rows = transform.encode(table(80, seed=6)[0])
    path = fitted.save(tmp_path)
    loaded = Auditor.load(tmp_path, transform.schema)
    assert loaded.options == fitted.options
    np.testing.assert_array_equal(loaded.consensus(rows), fitted.consensus(rows))
    np.testing.assert_array_equal(loaded.plausibility(rows), fitted.plausibility(rows))
    expected = fitted.expected(CONSENSUS, PLAUSIBILITY)
    np.testing.assert_array_equal(loaded.expected(CONSENSUS, PLAUSIBILITY), expected)
    assert np.abs(expected - UNMEASURED).max() > 0.1, "what is kept was measured"
    assert set(skops.io.get_untrusted_types(file=path)) <= set(TRUSTED)


class Intruder:
    pass


@pytest.mark.parametrize("member", [Intruder(), np.testing.assert_equal, Path("x")])
def test_a_file_with_another_type_is_refused(fitted: Auditor, tmp_path: Path, member: object) -> None:
    skops.io.dump({"version": 1, "schema": "", "options": {}, "models": [member], "critic": None}, tmp_path / FILE)
    with pytest.raises(ValueError, match="holds types that an auditor never has, and is refused"):
        Auditor.load(tmp_path, fitted.schema)


def test_pickles_and_other_files_are_refused(fitted: Auditor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing; the folder holds no auditor"):
        Auditor.load(tmp_path, fitted.schema)
    (tmp_path / FILE).write_bytes(pickle.dumps({"version": 1}))
    with pytest.raises(ValueError, match="is not an auditor file"):
        Auditor.load(tmp_path, fitted.schema)
    state = {
        "version": VERSION,
        "schema": "",
        "options": {},
        "models": [LogisticRegression()],
        "critic": asdict(OutlierFactor.fit(np.eye(4), 2)),
        "others": [],
        "agreement": {},
    }
    for content, message in (
        ([1, 2], "is not an auditor file"),
        ({"version": VERSION}, "is not an auditor file"),
        ({**state, "options": {"colour": "red"}}, "is not an auditor file"),
        ({**state, "agreement": {"colour": {"slope": 1.0, "intercept": 0.0}}}, "is not an auditor file"),
        ({**state, "agreement": {"inlier": {"slope": 1.0}}}, "is not an auditor file"),
        ({"version": 1, "models": [], "critic": None}, "of version 1; this release reads version 5"),
        (state, "holds other models"),
    ):
        skops.io.dump(content, tmp_path / FILE)
        with pytest.raises(ValueError, match=message):
            Auditor.load(tmp_path, fitted.schema)


def test_an_auditor_of_another_schema_is_refused(fitted: Auditor, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    other = schema_of(table(seed=7)[0])
    with pytest.raises(ValueError, match="another schema"):
        Auditor.load(tmp_path, other)


def test_few_favourable_rows_shrink_the_neighbourhood(transform: TableTransform) -> None:
    frame, _ = table()
    rows = transform.encode(frame)
    labels = np.zeros(len(frame), dtype=int)
    labels[:3] = 1
    auditor = Auditor(transform.schema, n_estimators=5, n_neighbors=10).fit(rows, labels, seed=0)
    assert np.isfinite(auditor.plausibility(rows)).all()
    labels[1:3] = 0
    with pytest.raises(ValueError, match="at least two favourable training rows, got 1"):
        Auditor(transform.schema).fit(rows, labels, seed=0)


def test_repeated_rows_are_no_reason_to_warn(transform: TableTransform) -> None:
    frame, target = table(40)
    repeated = pd.concat([frame] * 12, ignore_index=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auditor = Auditor(transform.schema, n_estimators=5)
        auditor.fit(transform.encode(repeated), np.tile(target, 12), seed=0)
    assert np.isfinite(auditor.plausibility(transform.encode(frame))).all()


@pytest.mark.parametrize("labels", [np.zeros(400), np.ones(400), np.arange(400) % 3])
def test_targets_must_hold_zero_and_one(transform: TableTransform, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the target must hold both 0 and 1"):
        Auditor(transform.schema).fit(transform.encode(table()[0]), labels, seed=0)


def test_wrong_options_are_named(transform: TableTransform) -> None:
    for option, value in (
        ("consensus_threshold", 1.5),
        ("consensus_threshold", float("nan")),
        ("plausibility_threshold", float("nan")),
        ("n_neighbors", 0),
        ("n_estimators", True),
        ("n_jobs", 0),
        ("n_jobs", "2"),
    ):
        with pytest.raises(ValueError, match=option):
            Auditor(transform.schema, **{option: value})  # type: ignore[arg-type]


def test_an_unfitted_auditor_says_so(transform: TableTransform) -> None:
    with pytest.raises(ValueError, match="not fitted"):
        Auditor(transform.schema).consensus(transform.encode(table()[0]))
