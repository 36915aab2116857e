"""A run folder in words: what it was fitted with, what was measured, and what it gives away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recourse_gen import checkpoint, registry
from recourse_gen.schema import Feature

_MEASURES = ("validity", "validity_judge", "plausibility", "cost", "score", "lead", "n_changed", "found")
_FEW = 8  # levels of a category that are named


def lines(folder: Path) -> list[str]:
    """Backbone, columns, constraints, training, measures, whose rows it holds, and its files.

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
