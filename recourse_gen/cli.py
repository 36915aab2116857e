"""``recourse-gen``: recommend, describe and list from the command line. docs/cli.md shows it at work."""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from recourse_gen import __version__, card, checkpoint, estimators, files, metrics, partition, parts, registry
from recourse_gen.constraints import Constraints
from recourse_gen.counterfactuals import STATUSES
from recourse_gen.data import tables
from recourse_gen.options import construct
from recourse_gen.partition import KEYS
from recourse_gen.processes import meet, processes
from recourse_gen.recourse import RecourseGenerator
from recourse_gen.schema import Schema
from recourse_gen.selection import POLICIES

_OPTIONS = (
    *("n", "candidates", "max_candidates", "select", "confidence", "cost_weight", "temperature", "seed"),
    *("batch_size", "time_budget", "change_price"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is ``sys.argv[1:]`` by default.

    Returns the exit code: 0 when the command did its work, whether or not everybody has an answer; 1 after an error,
    told in one sentence; 2 for a wrong command line; 130 after Ctrl-C; 141 where nobody reads what it prints any more.
    """
    try:
        given = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has spoken
        return int(ended.code or 0)
    with warnings.catch_warnings():
        if given.quiet:
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda message, *_args, **_kwargs: _say(f"note: {message}", sys.stderr)
        try:
            given.command(given)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
            return 141  # 128 + SIGPIPE
        except KeyboardInterrupt as stopped:
            _say(str(stopped) or "interrupted; nothing was written", sys.stderr)
            return 130
        except MemoryError:
            _say("error: not enough memory; a smaller --batch-size needs less", sys.stderr)
            return 1
        except (ValueError, RuntimeError, OSError) as error:
            _say(f"error: {' '.join(str(error).split())}", sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "recourse-gen", description="Changes that get people approved.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"recourse-gen {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], None], told: str) -> argparse.ArgumentParser:
        one = commands.add_parser(run.__name__, help=told, description=f"{told}.", allow_abbrev=False)
        one.add_argument("--quiet", action="store_true", help="say nothing but errors, and show no progress")
        one.set_defaults(command=run)
        return one

    one = command(generate, "recommend changes to the people in a table")
    _add_run(one)
    _add_people(one)
    one.add_argument("--output", type=Path, required=True, metavar="FILE", help="answers, .csv, .csv.gz or .parquet")
    one.add_argument("--report", type=Path, metavar="FILE", help="one row for each answer asked for, found or not")
    one.add_argument("--constraints", type=Path, metavar="FILE", help="YAML, in place of those of the training")
    one.add_argument("--n", type=int, help="answers for each person (1)")
    one.add_argument("--candidates", type=int, help="samples for each person (64)")
    one.add_argument("--max-candidates", type=int, help="samples where fewer than n will do (8 x candidates)")
    one.add_argument("--select", choices=sorted(POLICIES), help="which of the valid ones (score)")
    one.add_argument("--confidence", type=float, help="least probability of a yes (0.5)")
    one.add_argument("--cost-weight", type=float, help="higher stays closer (20)")
    one.add_argument("--temperature", type=float, help="1 is the learned law, more gives more choice (1.5)")
    one.add_argument("--seed", type=int, help="in place of the generator's")
    one.add_argument("--batch-size", type=int, help="people at a time, for memory (1024)")
    one.add_argument("--time-budget", type=float, metavar="SECONDS", help="end by then, and say who was not served")
    one.add_argument("--no-audit", dest="audit", action="store_false", help="do not ask the auditor")
    one.add_argument("--change-price", type=float, help="of a changed column, for score; the higher, the fewer (0.12)")
    one.add_argument("--no-sparsify", dest="sparsify", action="store_false", help="do not put changes back")

    one = command(evaluate, "measure the answers in a table, whoever gave them")
    _add_run(one)
    _add_people(one)
    one.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help="with a column 'factual', or row by row"
    )
    one.add_argument("--reference", type=Path, metavar="FILE", help="rows that count as plausible: approved ones")
    one.add_argument("--constraints", type=Path, metavar="FILE", help="YAML, in place of those of the training")
    one.add_argument("--output", type=Path, metavar="FILE", help="the measures of each answer")

    command(backbones, "list the generators that are installed")
    one = command(describe, "say what a run folder holds")
    one.add_argument("run", type=Path, metavar="RUN", help="folder that train.py or RecourseGenerator.save wrote")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that train.py or RecourseGenerator.save wrote")
    told = "model.skops, or module:attribute of your own code (default: the run's own, if it has one)"
    parser.add_argument("--classifier", metavar="FILE", help=told)


def _add_people(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="people: .csv, .csv.gz or .parquet")
    parser.add_argument("--id", metavar="COLUMN", help="column that names each person (default: row numbers from 0)")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="COLUMN", help="columns of the input to leave out")


def generate(given: argparse.Namespace) -> None:
    """Answers, and a report, as tables."""
    for path in (given.output, given.report):
        if path is not None:
            _check_output(path, given.input)
    if given.report is not None and given.report.resolve() == given.output.resolve():
        raise ValueError(f"--output and --report are both {given.output}")
    generator = RecourseGenerator.load(given.run, classifier=_classifier(given.classifier))
    partition.check_keys(generator.schema)
    rules = None if given.constraints is None else _constraints(given.constraints)
    options = {name: getattr(given, name) for name in _OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    answer: Any = partial(generator.generate, **options, audit=given.audit, sparsify=given.sparsify, constraints=rules)
    started, state = time.perf_counter(), processes()
    if given.time_budget is not None and state.num_processes > 1:
        raise ValueError("--time-budget is for one process: what several find in a time is not what one does")
    if given.time_budget is None and parts.wanted(given.input, state.num_processes, given.output, given.report):
        asked = {name: getattr(given, name) for name in (*_OPTIONS, "audit", "sparsify", "id", "ignore", "classifier")}
        asked.pop("batch_size")  # changes nothing
        behind = {"run": given.run / checkpoint.METRICS, "constraints": given.constraints, "model": given.classifier}
        asked |= {name: parts.digest(path and Path(path)) for name, path in behind.items()}
        whole = parts.Parts(given.input, given.output, asked, state.process_index, state.num_processes)
        whole.open(given.id)
        meet()
        with _bar(whole.people, given.quiet) as progress:
            whole.answer(partial(answer, progress=progress), given.id, given.ignore)
        told = "" if whole.process else _summary(whole.join(given.report))
    else:
        people = _people(given, generator.schema, least=0)
        with _bar(len(people), given.quiet) as progress:
            found = answer(people, progress=progress)
        _write(found.to_frame(), given.output)
        if given.report is not None:
            _write(found.report, given.report)
        told = _summary([found.report["status"]])
    if told and not given.quiet:
        _say(f"{told}; {given.output}, {time.perf_counter() - started:.1f} s", sys.stderr)


def evaluate(given: argparse.Namespace) -> None:
    """Means on stdout, and the measures of each answer as a table."""
    if given.output is not None:
        _check_output(given.output, given.input, given.answers)
    generator = RecourseGenerator.load(given.run, classifier=_classifier(given.classifier))
    schema = generator.schema
    people = generator.transform.check(_people(given, schema))
    denied = people[generator.classifier.probability(people) <= 0.5]
    if denied.empty:
        raise ValueError(f"the classifier favours everybody in {given.input}, so there is nobody to answer")
    answers = _answers(given.answers, people, schema)
    measured = metrics.evaluate(
        denied,
        answers[~answers.index.get_level_values(0).isin(people.index.difference(denied.index))],
        classifier=generator.classifier,
        reference=None if given.reference is None else _table(given.reference, schema),
        constraints=generator.constraints if given.constraints is None else _constraints(given.constraints),
        schema=schema,
    )
    if not given.quiet and len(denied) < len(people):
        _say(f"{len(people) - len(denied)} of {len(people)} people are left out: they are favoured already", sys.stderr)
    for name, value in measured.summary.items():
        _say(f"{name:<13} {value:.6g}")
    if given.output is not None:
        _write(measured.rows, given.output)


def backbones(given: argparse.Namespace) -> None:
    """Names, where they come from, the first line of what they say of themselves, and their options."""
    for name in registry.names():
        try:
            _say(f"{name}: {registry.origin(name)}")
            backbone = registry.load(name)
        except ValueError as error:
            _say(f"    cannot be used: {' '.join(str(error).split())}")
            continue
        except Exception as error:  # a plug-in may fail in any way, and the others are still there
            _say(f"    cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        _say(f"    {(inspect.getdoc(backbone) or 'says nothing of itself').splitlines()[0]}")
        options = list(inspect.signature(backbone).parameters.values())[1:]
        _say("    " + (", ".join(str(option.replace(annotation=option.empty)) for option in options) or "no options"))


def describe(given: argparse.Namespace) -> None:
    """A run folder in words."""
    for line in card.lines(given.run):
        _say(line)


def _classifier(given: str | None) -> Any:
    """A model from a skops file or an import path; None where none is given."""
    if given is None:
        return None
    if given.endswith(".skops"):
        return estimators.load_classifier(Path(given))
    module, colon, attribute = given.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"--classifier is a .skops file or module:attribute, not {given!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own code lies where the command is given
    try:
        found = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # of the user's own code, which may fail in any way
        raise ValueError(f"--classifier {given}: {type(error).__name__}: {error}") from error
    return found


def _people(given: argparse.Namespace, schema: Schema, least: int = 1) -> pd.DataFrame:
    """The people of ``--input``, under their names."""
    frame = _table(given.input, schema, given.id, least)
    return partition.named(frame, given.id, given.ignore, given.input)


def _answers(path: Path, people: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Under (factual, rank) where the file has such columns; else row by row, as many as there are people."""
    frame = _table(path, schema, KEYS[0])
    text = frame.select_dtypes(["object", "string"])
    frame[text.columns] = text.mask(text == "")  # a cell without text is one without an answer
    keys = [name for name in KEYS if name in frame.columns]
    if "factual" in keys:
        if tables.kind_of(path) != ".parquet" and not pd.api.types.is_numeric_dtype(people.index.dtype):
            frame["factual"] = frame["factual"].astype(str)  # some of the names may be numbers to a CSV file
        return frame.set_index(keys)
    if len(frame) != len(people):
        raise ValueError(f"{path} has no column 'factual', and {len(frame)} rows for {len(people)} people")
    return frame.set_axis(people.index)


def _table(path: Path, schema: Schema, names: str | None = None, least: int = 1) -> pd.DataFrame:
    words = [f.name for f in schema.features if f.kind == "categorical" and all(isinstance(v, str) for v in f.levels)]
    frame = tables.read_table(path, least=least, text=words, names=names)
    # Without rows, a CSV file does not tell the types of its columns.
    return frame if len(frame) else frame.astype({f.name: f.storage for f in schema.features if f.name in frame})


def _constraints(path: Path) -> Constraints:
    """From YAML, of which the keys are those of `Constraints`."""
    try:
        rules = yaml.safe_load(files.read(path, checkpoint.LIMITS[checkpoint.CONFIG]).decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not readable YAML") from error
    if not isinstance(rules or {}, dict):
        raise ValueError(f"{path} must map the names of constraints, {', '.join(f.name for f in fields(Constraints))}")
    return construct(Constraints, "constraints", rules)


@contextmanager
def _bar(people: int, quiet: bool) -> Iterator[Callable[[int], Any]]:
    """Progress on a terminal, and nowhere else."""
    with tqdm(total=people, unit="people", file=sys.stderr, leave=False, disable=True if quiet else None) as bar:
        yield bar.update


def _summary(reports: Iterable[pd.Series]) -> str:
    """reports: statuses by person; a person's are all in one of them."""
    people = (each.groupby(level=0, sort=False, dropna=False) for each in reports)
    best = [person.agg(lambda one: min(one, key=STATUSES.index)) for person in people]
    counts = Counter(itertools.chain.from_iterable(best))
    others = [f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES[1:] if counts[status]]
    told = f"{counts['ok']} of {counts.total()} people have an answer"
    return told + (f" ({', '.join(others)})" if others else "")


def _check_output(path: Path, *sources: Path) -> None:
    """Raise ValueError before anything is computed that could not be written."""
    tables.kind_of(path)
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}")
    if path.resolve() in [source.resolve() for source in sources]:
        raise ValueError(f"{path} is an input, and would be overwritten")


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Whole or not at all; the keys become the first columns."""
    frame = partition.flat(frame)
    write = frame.to_parquet if tables.kind_of(path) == ".parquet" else frame.to_csv
    files.replace_file(path, partial(write, index=False))


def _say(text: str, file: Any = None) -> None:
    """Print a line; what a terminal would take for a command is shown instead (names come from files)."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print(shown, file=file or sys.stdout)
