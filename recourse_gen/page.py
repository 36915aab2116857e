"""Recommendations as one page for the people who have to explain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from recourse_gen.sentences import Value, approval, named, pieces, right_to_left, side_by_side, text

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded and no script runs, whatever a cell says
NOTE = (
    "Approval is the classifier's probability of the favourable outcome, from 0 to 1; above 0.50 it says yes. In the "
    "bars, today's approval is orange, what the recommendation adds is blue, and the mark stands at 0.50. The lines of "
    "this table tell of each person's first recommendation."
)
STYLE = """
html { font: 15px/1.5 system-ui, sans-serif; color: #1d2733 }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 0 }
h3 { font-size: 1rem; margin: 1.2rem 0 0 }
p { margin: .4rem 0; overflow-wrap: anywhere }
a { color: #1f5fa8 }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e3e7ec; vertical-align: top }
thead th { font-size: .8rem; color: #5b6775; border-bottom: 2px solid #c7ced6 }
tbody th { font-weight: normal }
.counts { width: auto } .people td { white-space: nowrap } .people th { overflow-wrap: anywhere }
.values { table-layout: fixed; overflow-wrap: anywhere } .values thead th:first-child { width: 42% }
.values .after { font-weight: 600; color: #1f5fa8 }
section { border: 1px solid #d5dbe2; border-radius: .5rem; padding: 1rem 1.2rem; margin: 1rem 0 }
.outcome { float: right; font-size: .8rem; padding: .1rem .6rem; border-radius: 1rem; background: #eceff3 }
.ok { background: #dcefe2; color: #14532d } .infeasible, .not_found { background: #fbe6dd; color: #7c2d12 }
.note { color: #5b6775; font-size: .9rem } .warning { color: #9a3412 }
.bar { position: relative; height: .6rem; margin: .7rem 0; border-radius: .3rem; background: #eceff3; overflow: hidden }
.bar span { position: absolute; left: 0; top: 0; bottom: 0 }
.bar .then { background: #7fb0de } .bar .now { background: #e59866 }
.bar .half { left: 50%; width: 2px; background: #1d2733 }
summary { cursor: pointer; color: #5b6775; font-size: .9rem }
@media print {
  html { font-size: 11px; print-color-adjust: exact; -webkit-print-color-adjust: exact }
  body { max-width: none; margin: 0; padding: 0 }
  .option, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  a { color: inherit; text-decoration: none }
  details:not([open]) { display: none }
}
"""


def render(factuals: pd.DataFrame, report: pd.DataFrame, told: Mapping[int, Sequence[Value]]) -> str:
    """HTML text: a summary, then a section for each factual.

    factuals, report: of a `Counterfactuals`. told: the columns of each answer, by its row in the report.

    The text is built as a tree, which escapes whatever the frames hold.
    """
    page = ET.Element("html", lang="en")
    head, body = ET.SubElement(page, "head"), ET.SubElement(page, "body")
    _add(head, "meta", charset="utf-8")
    ET.SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _add(head, "title", "Recommendations")
    _add(head, "style", STYLE)
    _add(body, "h1", "Recommendations")
    n, entries = len(report) // max(len(factuals), 1), report.to_dict("records")
    today = side_by_side(factuals, factuals)
    people = [
        _Person(label, [(entries[row], told.get(row, today[at])) for row in range(at * n, at * n + n)])
        for at, label in enumerate(factuals.index)
    ]
    _summarise(body, report, people)
    for at, person in enumerate(people):
        _write(ET.SubElement(body, "section", id=f"person-{at}"), person)
    ET.indent(page, "")
    return f"<!DOCTYPE html>\n{ET.tostring(page, encoding='unicode', method='html')}\n"


class _Person:
    """A factual's label, and its rows of the report, each with the columns in words."""

    def __init__(self, label: Any, rows: Sequence[tuple[Mapping[Any, Any], Sequence[Value]]]) -> None:
        self.label, self.rows = label, rows
        self.answers = [(rank, *row) for rank, row in enumerate(rows) if row[0]["status"] == "ok"]
        # What stands for the person: the best answer, or why there is none.
        self.entry = self.answers[0][1] if self.answers else rows[0][0]


def _summarise(body: ET.Element, report: pd.DataFrame, people: Sequence[_Person]) -> None:
    """How many people and answers of which kind, and a line for everybody."""
    statuses = pd.Series([person.entry["status"] for person in people], dtype=object).value_counts()
    answers = report[report["status"] == "ok"]
    counts = [("People", f"{len(people)}"), ("With a recommendation", f"{statuses.get('ok', 0)}")]
    counts += [(_outcome(name).capitalize(), f"{statuses[name]}") for name in statuses.index if name != "ok"]
    counts.append(("Recommendations in all", f"{len(answers)}"))
    if answers["plausibility"].notna().any():
        counts.append(("Accepted by the audit", f"{int(answers['audited'].sum())}"))
    if len(answers):
        counts.append(("Columns that change, median", f"{np.median(answers['n_changed']):g}"))
    table = _table(body, "counts")
    for name, count in counts:
        _row(table, (name, count))
    _add(body, "p", NOTE, class_="note")
    table = _table(body, "people", ("Applicant", "Outcome", "Approval", "Changes", "Audit"))
    for at, person in enumerate(people):
        entry, found = person.entry, bool(person.answers)
        before, after = approval(entry)
        outcome = _outcome(entry["status"])
        several = f"{len(person.answers)} {outcome}s" if len(person.answers) > 1 else outcome
        cells = ("", several, f"{before} → {after}" if found else before)
        row = _row(table, (*cells, f"{entry['n_changed']:.0f}" if found else "", _verdict(entry) if found else ""))
        _add(row[0], "a", text(person.label), href=f"#person-{at}")


def _write(section: ET.Element, person: _Person) -> None:
    status = person.entry["status"]
    _add(section, "span", _outcome(status), class_=f"outcome {status}")
    _add(section, "h2", named(person.label))
    for rank, entry, values in person.answers:
        option = _add(section, "div", class_="option")
        if len(person.rows) > 1:
            _add(option, "h3", f"Option {rank + 1}")
        _say(option, pieces(named(person.label, rank, len(person.rows)), entry, values))
        _write_answer(option, entry, values)
    if not person.answers:
        _say(section, pieces(named(person.label), person.entry))
        _write_rest(section, person.rows[0][1], "All {} columns as they are today")


def _write_answer(option: ET.Element, entry: Mapping[Any, Any], values: Sequence[Value]) -> None:
    before, after = approval(entry)
    bar = _add(option, "div", class_="bar")
    for name, share in (("then", entry["probability"]), ("now", entry["probability_before"])):
        _add(bar, "span", class_=name, style=f"width: {share:.1%}")
    _add(bar, "span", class_="half")
    table = _table(option, "values", ("Column", "Today", "Recommended"))
    for value in (Value("approval", before, after, True), *values):
        if value.changed:
            _row(table, (value.feature, value.before, value.after))[2].set("class", "after")
    audit = f"Audit: {_verdict(entry)}. Cost of the change: {entry['cost']:.2f} columns."
    rejected = not entry["audited"] and not np.isnan(entry["plausibility"])
    _add(option, "p", audit, class_="note warning" if rejected else "note")
    _write_rest(option, [value for value in values if not value.changed], "{} columns stay as they are")


def _write_rest(section: ET.Element, values: Sequence[Value], title: str) -> None:
    """Columns that do not change, to be unfolded."""
    if values:
        details = _add(section, "details")
        _add(details, "summary", title.format(len(values)))
        table = _table(details, "values", ("Column", "Today"))
        for value in values:
            _row(table, (value.feature, value.before))


def _say(parent: ET.Element, told: Sequence[str]) -> None:
    """A paragraph of `sentences.pieces`, in which names and values from right to left leave the rest in order."""
    node = _add(parent, "p")
    for at, piece in enumerate(told):
        if at % 2 and right_to_left(piece):
            _add(node, "bdi", piece)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + piece
        else:
            node.text = (node.text or "") + piece


def _outcome(status: str) -> str:
    return "recommendation" if status == "ok" else status.replace("_", " ")


def _verdict(entry: Mapping[Any, Any]) -> str:
    if np.isnan(entry["plausibility"]):
        return "not asked"
    return "accepted" if entry["audited"] else "not accepted"


def _table(parent: ET.Element, name: str, titles: Sequence[str] = ()) -> ET.Element:
    """The body of a new table with those titles."""
    table = _add(parent, "table", class_=name)
    if titles:
        row = _add(_add(table, "thead"), "tr")
        for title in titles:
            _add(row, "th", title, scope="col")
    return _add(table, "tbody")


def _row(table: ET.Element, cells: Sequence[str]) -> ET.Element:
    row = _add(table, "tr")
    for place, cell in enumerate(cells):
        _add(row, "td" if place else "th", cell, **({} if place else {"scope": "row"}))
    return row


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    """A new child; an attribute that is a Python keyword ends in an underscore here."""
    node = ET.SubElement(parent, tag, {name.rstrip("_"): value for name, value in attributes.items()})
    node.text = text
    return node
