"""What a user does with a result: read it in words, see it, hand it on as a page, and trust its report."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stubs
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from sklearn.pipeline import Pipeline

from recourse_gen import Constraints, Counterfactuals, RecourseGenerator, Schema, metrics, training
from recourse_gen.metrics import cost
from recourse_gen.rows import Rows

FEW: dict[str, Any] = {"candidates": 16, "max_candidates": 64, "cost_weight": 5.0}
Table = tuple[pd.DataFrame, np.ndarray]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; whatever is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def mixed(fitted: RecourseGenerator, table: Table) -> Counterfactuals:
    """Three answers asked for each of 24 people, some of whom are approved already, and some can become nothing."""
    stuck = Constraints(allowed={"job": {"none": [], "part": ["part", "full"]}})
    return fitted.generate(table[0].iloc[:24], n=3, constraints=stuck, **FEW)


def people(found: Counterfactuals, status: str) -> list[Any]:
    return found.report.index[found.report["status"] == status].unique(0).tolist()


@pytest.fixture
def two() -> Counterfactuals:
    """Two answers asked for each of three people: one has two of them, one has one, one has none."""
    factuals = pd.DataFrame(
        {"debts": [4, 6, 2], "income": [32.0, 41.25, 10.0], "home": ["rent", "own", "own"]}, index=[17, 3, 8]
    )
    keys = pd.MultiIndex.from_product([factuals.index, range(2)], names=["factual", "rank"])
    status = ["ok", "ok", "ok", "not_found", "infeasible", "infeasible"]
    report = pd.DataFrame({"status": status, "reason": ["", "the auditor objects", "", "", *["no way"] * 2]}, keys)
    report["probability_before"], report["probability"] = 0.3149, [0.77, 0.6, 0.31490001, 0.3149, 0.3149, 0.3149]
    report["cost"], report["plausibility"], report["audited"] = 1.0, 0.5, True
    answers = pd.DataFrame({"debts": [2, 1, 2], "income": [32.0, 32.0, 41.5], "home": ["own", "rent", "own"]}, keys[:3])
    report["n_changed"] = 2.0
    return Counterfactuals(factuals, report, Schema.infer(factuals), answers)


def test_recommendations_in_words(two: Counterfactuals) -> None:
    assert two.describe(17).splitlines() == [
        "Applicant 17, option 1: debts 4 → 2, home rent → own; approval 0.31 → 0.77",
        "Applicant 17, option 2: debts 4 → 1; approval 0.31 → 0.60 (the auditor objects)",
    ]
    assert two.describe(3) == (
        "Applicant 3, option 1: debts 6 → 2, income 41.2 → 41.5; approval 0.31490000 → 0.31490001"
    )
    assert two.describe(8) == "Applicant 8: no recommendation (infeasible: no way); approval 0.31"
    first = two.report.index.get_level_values(1) == 0
    single = replace(two, report=two.report[first], _answers=two.to_frame().xs(0, level=1, drop_level=False))
    assert single.describe(17) == "Applicant 17: debts 4 → 2, home rent → own; approval 0.31 → 0.77"


@pytest.mark.parametrize("label", [99, "17", [17], None, slice(0, 2)])
def test_an_unknown_person_is_named(two: Counterfactuals, label: Any) -> None:
    for ask in (two.describe, two.plot, *([two.plot_tradeoff] if label is not None else [])):
        with pytest.raises(ValueError, match="not an index label of the factuals, which are 17, 3, 8"):
            ask(label)


def test_words_agree_with_the_result(mixed: Counterfactuals) -> None:
    counts = mixed.changes().groupby(["factual", "rank"]).size()
    for factual in people(mixed, "ok"):
        lines = mixed.describe(factual).splitlines()
        assert [line.count("→") - 1 for line in lines] == counts.loc[factual].tolist()
    for status, words in (
        ("already_favourable", "no change is needed"),
        ("infeasible", "no admissible value for 'job'"),
    ):
        assert all(words in mixed.describe(factual) for factual in people(mixed, status))
        assert len(people(mixed, status)) > 2


def test_pictures_need_no_pyplot_and_show_in_notebooks(mixed: Counterfactuals, tmp_path: Path) -> None:
    factual = people(mixed, "ok")[0]
    known = pyplot.get_fignums()
    for figure in (mixed.plot(factual, rank=1), mixed.plot_tradeoff(), mixed.plot_tradeoff(factual)):
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
        figure.savefig(tmp_path / "figure.svg")
    assert pyplot.get_fignums() == known


def test_the_picture_shows_both_values_of_every_change(mixed: Counterfactuals) -> None:
    factual = people(mixed, "ok")[0]
    axes = mixed.plot(factual).axes[0]
    changed = mixed.changes().query("factual == @factual and rank == 0")["feature"].tolist()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[: len(changed)] == changed
    assert sorted(names) == sorted(mixed.factuals.columns)
    said = [text.get_text() for text in axes.texts if "→" in text.get_text()]
    assert len(said) == len(changed)
    assert all(text in mixed.describe(factual).splitlines()[0] for text in said)


def test_the_tradeoff_shows_every_answer(mixed: Counterfactuals) -> None:
    drawn = [line.get_xydata() for line in mixed.plot_tradeoff().axes[0].lines if line.get_marker() == "o"]
    points = mixed.report.loc[mixed.to_frame().index, ["cost", "probability"]].to_numpy(dtype=float)
    np.testing.assert_allclose(np.sort(np.concatenate(drawn), axis=0), np.sort(points, axis=0))


def test_what_cannot_be_drawn_says_why(two: Counterfactuals, mixed: Counterfactuals) -> None:
    with pytest.raises(ValueError, match=r"nothing to draw at rank 1: Applicant 8, option 2: .*no way"):
        two.plot(8, rank=1)
    for rank in (2, -1, 0.0):
        with pytest.raises(ValueError, match="rank must be"):
            two.plot(17, rank=rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no answer to draw: Applicant 8: no recommendation"):
        two.plot_tradeoff(8)
    with pytest.raises(ValueError, match="no answer to draw$"):
        replace(mixed, report=mixed.report.assign(status="not_found")).plot_tradeoff()


def test_the_page_says_what_the_result_says(mixed: Counterfactuals, tmp_path: Path) -> None:
    text = mixed.to_html()
    page = Page(text)
    for factual in mixed.factuals.index:
        assert all(line in page.text for line in mixed.describe(factual).splitlines())
    assert page.tags.count("section") == len(mixed.factuals)
    for tag, count in (("div", 2 * len(mixed)), ("details", len(mixed) + 24 - len(people(mixed, "ok")))):
        assert page.tags.count(tag) == count
    links = [value for name, value in page.attributes if name == "href"]
    assert {f"#{value}" for name, value in page.attributes if name == "id"} == set(links)
    mixed.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match="folder that does not exist"):
        mixed.to_html(tmp_path / "nowhere" / "page.html")


def test_a_page_about_nobody(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    found = fitted.generate(denied.iloc[:0])
    assert "section" not in Page(found.to_html()).tags
    assert found.diversity().empty


def test_nothing_in_a_table_becomes_part_of_the_page(two: Counterfactuals) -> None:
    name, value, label = "</td><script>alert(1)</script> $\\frac", '"><img src=x onerror="alert(2)">', "<b>&amp;</b>"
    factuals = two.factuals.rename({17: label}).rename(columns={"home": name}).replace("rent", value)
    answers = two.to_frame().rename({17: label}).rename(columns={"home": name}).replace("rent", value)
    report = two.report.rename({17: label}).replace("no way", "<iframe src='//x'></iframe>")
    hostile = Counterfactuals(factuals, report, Schema.infer(factuals), answers)
    page, tame = Page(hostile.to_html()), Page(two.to_html())
    assert page.tags == tame.tags
    assert [key for key, _ in page.attributes] == [key for key, _ in tame.attributes]
    assert not {"script", "img", "iframe", "link", "b"} & set(page.tags)
    for text in (name, value, f"Applicant {label}", "<iframe src='//x'></iframe>"):
        assert text in page.text
    assert "http" not in hostile.to_html().replace("http-equiv", "")
    hostile.plot(label)._repr_png_()  # type: ignore[attr-defined]


def test_diversity_is_the_mean_cost_between_answers(mixed: Counterfactuals) -> None:
    diversity = mixed.diversity()
    pd.testing.assert_index_equal(diversity.index, mixed.factuals.index)
    answers = mixed.to_frame()
    for factual in mixed.factuals.index:
        ranks = answers.loc[[factual]] if factual in people(mixed, "ok") else answers[:0]
        pairs = [(a, b) for a in range(len(ranks)) for b in range(a)]
        gaps = [cost(ranks.iloc[[a]], ranks.iloc[[b]], mixed.schema)[0] for a, b in pairs]
        np.testing.assert_allclose(diversity[factual], np.mean(gaps) if gaps else np.nan)
    assert diversity.notna().sum() > 2


def test_the_report_knows_todays_probability(mixed: Counterfactuals, classifier: Pipeline) -> None:
    today = classifier.predict_proba(mixed.factuals)[:, 1].repeat(3)
    np.testing.assert_allclose(mixed.report["probability_before"], today, atol=1e-9)


@pytest.mark.parametrize("sparsify", [True, False])
def test_log_likelihood_is_that_of_the_backbone(
    fitted: RecourseGenerator, denied: pd.DataFrame, sparsify: bool
) -> None:
    found = fitted.generate(denied.iloc[:9], n=2, batch_size=4, sparsify=sparsify, **FEW)
    answers = found.to_frame()
    factuals = denied.loc[answers.index.get_level_values(0)]
    device = training.processes().device
    rows = [fitted.transform.encode(frame).to(device) for frame in (factuals, answers)]
    with torch.no_grad():
        expected = fitted.model.log_prob(*rows, torch.full((len(answers),), 5.0, device=device)).cpu()  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(found.report.loc[answers.index, "log_likelihood"], expected, rtol=1e-3)


def test_log_likelihood_follows_the_constraints_where_the_backbone_does(table: Table, classifier: Pipeline) -> None:
    generator = stubs.fit(table, classifier, pairs={"top_k": 5}, schema={"kinds": {"income": "continuous"}})
    asked = table[0][classifier.predict(table[0]) == 0].iloc[:20]
    rules = Constraints(immutable=["region", "owner"])
    found = generator.generate(asked, n=2, constraints=rules, sparsify=False, temperature=1.0, **FEW)
    told = found.report.loc[found.to_frame().index, "log_likelihood"]
    assert len(told) > 10
    assert (np.exp(told) > 0).all() and (np.exp(told) <= 1 + 1e-6).all()


def half(right: pd.Series, generator: RecourseGenerator) -> Callable[..., Rows]:
    """Draws one approved row at even places, and the factual at odd ones."""
    approved = generator.transform.encode(right.to_frame().T.astype(generator.transform.dtypes))

    def draw(factual: Rows, *, num_samples: int, **_: Any) -> Rows:
        even = (torch.arange(num_samples) % 2 == 0)[None, :, None]
        shape = (factual.batch_size, num_samples, -1)
        return Rows(
            *(torch.where(even, a[:, None], b[:, None]).expand(shape) for a, b in zip(approved, factual, strict=True))
        )

    return draw


def test_acceptance_counts_every_round_and_every_draw(
    fitted: RecourseGenerator, table: Table, denied: pd.DataFrame, classifier: Pipeline
) -> None:
    frame = table[0]
    best = frame.iloc[int(classifier.predict_proba(frame)[:, 1].argmax())]
    odd = stubs.in_place_of(fitted, half(best, fitted))
    report = odd.generate(denied.iloc[:5], n=2, candidates=4, max_candidates=16, audit=False, sparsify=False).report
    assert set(report["candidates"]) == {16}
    assert set(report["acceptance"]) == {0.5}
    assert report["log_likelihood"].isna().all(), "this backbone has no log_prob"
    assert set(report.xs(1, level=1)["reason"]) == {"no other answer among 16 candidates"}


def test_results_are_equal_when_they_say_the_same(fitted: RecourseGenerator, denied: pd.DataFrame) -> None:
    one, same, other = (fitted.generate(denied.iloc[:5], **FEW, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other and one != 3
    assert one != replace(one, report=one.report.assign(cost=0.0))


def test_half_a_surrogate_pair_is_written_as_its_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = pd.Series(rng.choice(["\udfff", "b"], 200), dtype=object)
    frame = pd.DataFrame({"w": words, "x": rng.integers(0, 5, 200)})
    labels = pd.Index([f"\ud801{i}" for i in range(200)], dtype=object)
    if len(pd.factorize(labels)[1]) == 200:  # to pandas before 3.1 they are all one
        frame = frame.set_axis(labels)

    def approves(rows: pd.DataFrame) -> np.ndarray:
        return ((rows["w"] == "b") & (rows["x"] > 1)).to_numpy() * 0.8 + 0.1

    options: dict[str, Any] = {"pairs": {"top_k": 50}, "audit": {"n_estimators": 10, "n_jobs": 1}}
    generator = RecourseGenerator("exact", **options).fit(frame, classifier=approves)
    asked = frame[approves(frame) < 0.5].head(20)
    found = RecourseGenerator.load(generator.save(tmp_path / "run"), classifier=approves).generate(asked, **FEW)
    assert len(found) > 10 and found == generator.generate(asked, **FEW)
    assert (metrics.evaluate(asked, found.to_frame(), classifier=approves, schema=found.schema).rows["validity"]).all()
    found.to_html(tmp_path / "page.html")
    person = found.changes().query("feature == 'w'")["factual"].iloc[0]
    said = found.describe(person)
    assert "w \\udfff → b" in said and said in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    found.plot(person).savefig(tmp_path / "change.png")
    found.plot_tradeoff(person).savefig(tmp_path / "answers.png")
