"""``recourse-gen``: recommend, describe and list from the command line. docs/cli.md shows it at work."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from recourse_gen import __version__, checkpoint, estimators, files, registry
from recourse_gen.constraints import Constraints
from recourse_gen.counterfactuals import STATUSES, Counterfactuals
from recourse_gen.data import tables
from recourse_gen.options import construct
from recourse_gen.recourse import RecourseGenerator
from recourse_gen.schema import Feature, Schema
from recourse_gen.selection import POLICIES

KEYS = ("factual", "rank")  # the first columns of an answer: who it is for, and which of theirs it is
_MEASURES = ("validity", "validity_judge", "plausibility", "cost", "score", "lead", "n_changed", "found")
_OPTIONS = ("n", "candidates", "max_candidates", "select", "confidence", "cost_weight", "temperature", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is ``sys.argv[1:]`` by default.

    Returns the exit code: 0 when the command did its work, whether or not everybody has an answer; 1 after an error,
    told in one sentence; 2 for a wrong command line; 130 after Ctrl-C.
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
        except KeyboardInterrupt:
            _say("interrupted; nothing was written", sys.stderr)
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
    one.add_argument("--batch-size", type=int, help="people at a time, for memory (512)")
    one.add_argument("--no-audit", dest="audit", action="store_false", help="do not ask the auditor")
    one.add_argument("--no-sparsify", dest="sparsify", action="store_false", help="do not put changes back")

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
    taken = [name for name in KEYS if name in generator.schema.names]
    if taken:
        raise ValueError(f"the run has a column {taken[0]!r}, which is the name of a column of the answers")
    people = _people(given, generator.schema)
    rules = None if given.constraints is None else _constraints(given.constraints)
    options = {name: getattr(given, name) for name in (*_OPTIONS, "batch_size")}
    options = {name: value for name, value in options.items() if value is not None}
    started = time.perf_counter()
    with _bar(len(people), given.quiet) as progress:
        found = generator.generate(
            people, **options, audit=given.audit, sparsify=given.sparsify, constraints=rules, progress=progress
        )
    _write(found.to_frame(), given.output)
    if given.report is not None:
        _write(found.report, given.report)
    if not given.quiet:
        _say(f"{_summary(found)}; {given.output}, {time.perf_counter() - started:.1f} s", sys.stderr)


def backbones(given: argparse.Namespace) -> None:
    """Names, where they come from, the first line of what they say of themselves, and their options."""
    for name in registry.names():
        _say(f"{name}: {registry.origin(name)}")
        try:
            backbone = registry.load(name)
        except Exception as error:  # a plug-in may fail in any way, and the others are still there
            _say(f"    cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        _say(f"    {(inspect.getdoc(backbone) or 'says nothing of itself').splitlines()[0]}")
        options = list(inspect.signature(backbone).parameters.values())[1:]
        _say("    " + (", ".join(str(option.replace(annotation=option.empty)) for option in options) or "no options"))


def describe(given: argparse.Namespace) -> None:
    """A run folder in words. Nothing of it is trusted, and no classifier is asked."""
    saved = checkpoint.read(given.run)
    config, summary = saved.config, saved.summary
    lines: list[tuple[str, Any]] = [
        ("run", f"{saved.folder} (format {config['version']})"),
        ("backbone", f"{config['backbone']}: {_listed(config['backbone_options']) or 'no options'}"),
        ("seed", config["seed"]),
        ("favourable class", 1 if config.get("target_class") is None else config["target_class"]),
        ("columns", len(saved.schema.features)),
        *(("", _column(feature)) for feature in saved.schema.features),
        ("constraints", _listed(config["constraints"]) or "none"),
        ("training", f"{summary.get('training_factuals')} factuals, {summary.get('partners')} partners"),
        ("", _listed(summary.get("training", {}))),
        ("measured", _listed({name: summary[name] for name in _MEASURES if name in summary}) or "nothing"),
        ("training rows", f"{checkpoint.AUDITOR} holds {saved.auditor().training_rows}, which its models favour"),
    ]
    if _keeps_partners(config["backbone"]):
        lines.append(("", f"{checkpoint.WEIGHTS} holds the partners"))
    lines.append(("classifier", "saved" if checkpoint.CLASSIFIER in saved.contents else "not saved, has to be given"))
    lines += [
        ("files" if not i else "", f"{path.name}, {path.lstat().st_size / 1000:,.1f} kB")
        for i, path in enumerate(sorted(saved.folder.iterdir()))
    ]
    for name, value in lines:
        _say(f"{name:<17} {value}" if name else f"{'':<19}{value}")


def _keeps_partners(backbone: str) -> bool:
    try:
        return bool(registry.load(backbone).observed)
    except ValueError:
        return False  # of a plug-in that is not installed here, nobody knows


def _column(feature: Feature) -> str:
    price = "" if feature.weight == 1 else f", cost weight {feature.weight:g}"
    if feature.kind == "categorical":
        few = [str(level) for level in feature.levels[:8]]
        return f"{feature.name}: categorical, {', '.join(few)}{', ...' if len(feature.levels) > 8 else ''}{price}"
    assert feature.bounds is not None
    low, high = feature.bounds
    levels = f", {len(feature.levels)} levels" if feature.is_token else ""
    return f"{feature.name}: {feature.kind} ({feature.dtype}){levels}, {low:g} to {high:g}{price}"


def _listed(options: Any) -> str:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in dict(options).items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


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


def _people(given: argparse.Namespace, schema: Schema) -> pd.DataFrame:
    """The people of ``--input``, under their names."""
    words = [f.name for f in schema.features if f.kind == "categorical" and all(isinstance(v, str) for v in f.levels)]
    frame = tables.read_table(given.input, least=1, text=words)
    for name in [*given.ignore, *([given.id] if given.id else [])]:
        if name not in frame.columns:
            raise ValueError(f"{given.input} has no column {name!r}; its columns are {tables.quoted(frame.columns)}")
    frame = frame.drop(columns=given.ignore)
    if given.id is None:
        return frame
    names = frame.pop(given.id)
    if names.isna().any() or names.duplicated().any():
        raise ValueError(f"column {given.id!r} of {given.input} must name everybody, and nobody twice")
    return frame.set_axis(pd.Index(names))


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


def _summary(found: Counterfactuals) -> str:
    best = found.report["status"].groupby(level=0, sort=False).agg(lambda each: min(each, key=STATUSES.index))
    counts = best.value_counts()
    others = [f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES[1:] if status in counts]
    return f"{counts.get('ok', 0)} of {len(best)} people have an answer" + (f" ({', '.join(others)})" if others else "")


def _check_output(path: Path, source: Path) -> None:
    """Raise ValueError before anything is computed that could not be written."""
    tables.kind_of(path)
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}")
    if path.resolve() == source.resolve():
        raise ValueError(f"{path} is the input, and would be overwritten")


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Whole or not at all; the keys become the first columns."""
    frame = frame.rename_axis(list(KEYS)).reset_index()
    write = frame.to_parquet if tables.kind_of(path) == ".parquet" else frame.to_csv
    files.replace_file(path, partial(write, index=False))


def _say(text: str, file: Any = None) -> None:
    """Print a line; what a terminal would take for a command is shown instead (names come from files)."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print(shown, file=file or sys.stdout)
