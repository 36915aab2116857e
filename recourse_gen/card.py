"""A generator in words: what it was fitted with, what was measured, and what it gives away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recourse_gen import checkpoint, registry
from recourse_gen.schema import Feature

if TYPE_CHECKING:
    from recourse_gen.recourse import RecourseGenerator

_MEASURES = ("validity", "validity_judge", "plausibility", "cost", "score", "lead", "n_changed", "found")
_FEW = 8  # levels of a category that are named
_USE = """\
Suggests changes to the record of a person whom one given classifier turned down, after which that classifier approves.
For those who explain or review its decisions, and for people who want to know what would have to change. The
constraints below hold in every answer; others can be given with every call.

```python
from recourse_gen import RecourseGenerator

generator = RecourseGenerator.from_pretrained("FOLDER OR REPOSITORY", classifier=classifier)
found = generator.generate(denied)  # a frame with the columns below
print(found.describe(denied.index[0]))
```"""
_LIMITS = """\
- An answer says what the classifier would accept, not what causes what: acting on it need not bring the rest about, and
  it is no promise of a decision.
- It belongs to the classifier that it was fitted with, and to people like those in its training rows. When either
  changes, fit it anew.
- No constraint sees that a column stands for a protected one. Compare cost and success between groups
  (`found.by_group`) before anybody relies on it.
- The measures are of one split and one seed."""


def lines(folder: Path) -> list[str]:
    """A run folder: backbone, columns, constraints, training, measures, whose rows it holds, and its files.

    Raises ValueError if the folder is incomplete, damaged, altered or of another version. Names are as the folder has
    them, so they may hold anything.
    """
    saved = checkpoint.read(folder)
    config, summary = saved.config, saved.summary
    told: list[tuple[str, Any]] = [
        ("run", f"{saved.folder} (format {config['version']})"),
        ("backbone", f"{config['backbone']}: {_listed(config['backbone_options']) or 'no options'}"),
        ("seed", config["seed"]),
        ("favourable class", 1 if config["target_class"] is None else config["target_class"]),
        ("columns", len(saved.schema.features)),
        *(("", _column(feature)) for feature in saved.schema.features),
        ("constraints", _listed(config["constraints"]) or "none"),
        ("training", f"{summary.get('training_factuals')} factuals, {summary.get('partners')} partners"),
        ("", _listed(summary.get("training", {}))),
        ("measured", _listed({name: summary[name] for name in _MEASURES if name in summary}) or "nothing"),
        ("training rows", f"{checkpoint.AUDITOR} holds {saved.auditor().training_rows}, which its models favour"),
        *([("", f"{checkpoint.WEIGHTS} holds the partners")] if _keeps_partners(config["backbone"]) else []),
        ("classifier", "saved" if checkpoint.CLASSIFIER in saved.contents else "not saved, has to be given"),
    ]
    for i, path in enumerate(sorted(saved.folder.iterdir())):
        told.append(("" if i else "files", f"{path.name}, {path.lstat().st_size / 1000:,.1f} kB"))
    return [f"{name:<17} {value}" if name else f"{'':<19}{value}" for name, value in told]


def markdown(generator: RecourseGenerator) -> str:
    """The text of a model card: intended use, limits, data, constraints, training and measures.

    Raises ValueError if the generator is not fitted.
    """
    if generator.model is None:
        raise ValueError("a generator that is not fitted has no model card; call fit or load first")
    schema, summary, name = generator.schema, generator.summary, generator.backbone
    table = f"{_safe(summary['data'])}, " if "data" in summary else ""
    held = f"the {generator.auditor.training_rows} training rows that the auditor's models favour"
    held += ", and those that may be recommended" if _keeps_partners(name) else ""
    rules = [f"- {_safe(f'{key}: {value}')}" for key, value in generator.constraints.to_dict().items() if value]
    parts = {
        "Intended use": [_USE],
        "Limits": [_LIMITS],
        "Data": [
            f"{table}{len(schema.features)} columns. The files hold {held}: share them with those who may see these.",
            "\n".join(f"- {_safe(_column(feature))}" for feature in schema.features),
        ],
        "Constraints": ["\n".join(rules) or "None."],
        "Training": [
            f"{summary['training_factuals']} factuals, {summary['partners']} partners, seed {generator.seed}.",
            f"- {_safe(_listed(generator.backbone_options) or 'default options')}",
            f"- {_safe(_listed(summary.get('training', {})))}",
        ],
        "Measures": _measures(summary) or ["Nothing was measured."],
    }
    text = [line for heading, lines in parts.items() for line in (f"## {heading}", *lines)]
    return "\n\n".join([f"# Recourse by {_safe(name)}", *text]) + "\n"


def _measures(summary: Mapping[str, Any]) -> list[str]:
    """A table of the measures that the summary has, beside those of the nearest partner, and who judged."""
    nearest, known = summary.get("nearest", {}), [name for name in _MEASURES if name in summary]
    rows = [f"| {name} | {_number(summary[name])} | {_number(nearest.get(name))} |" for name in known]
    head = ["|  | this generator | nearest partner |", "| --- | --- | --- |"]
    told = [f"Judged by: {_safe(summary['judge'])}."] if "judge" in summary else []
    return ["\n".join(head + rows), *told] if rows else told


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else ""


def _safe(text: Any) -> str:
    """As text of one line of Markdown: names may hold anything."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    return "".join(f"\\{c}" if c in "\\`*_[]|#!<>" else c for c in plain)


def _keeps_partners(backbone: str) -> bool:
    try:
        return bool(registry.load(backbone).observed)
    except ValueError:
        return False  # of a plug-in that is not installed here, nobody knows


def _column(feature: Feature) -> str:
    price = "" if feature.weight == 1 else f", cost weight {feature.weight:g}"
    if feature.kind == "categorical":
        named = ", ".join(map(str, feature.levels[:_FEW]))
        return f"{feature.name}: categorical, {named}{', ...' if len(feature.levels) > _FEW else ''}{price}"
    assert feature.bounds is not None
    low, high = feature.bounds
    levels = f", {len(feature.levels)} levels" if feature.is_token else ""
    return f"{feature.name}: {feature.kind} ({feature.dtype}){levels}, {low:g} to {high:g}{price}"


def _listed(options: Any) -> str:
    if not isinstance(options, dict):
        return str(options)
    return ", ".join(f"{name}={f'{v:.4g}' if isinstance(v, float) else v}" for name, v in options.items())
