"""A fitted generator as one folder: text files and safetensors, nothing that executes on loading."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recourse_gen.backbone import Backbone
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

VERSION = 1
CONFIG, SCHEMA, TRANSFORM = "config.yaml", "schema.json", "transform.json"
WEIGHTS, METRICS, LOG = "model.safetensors", "metrics.json", "metrics.jsonl"


def is_finished(folder: str | Path) -> bool:
    """Whether the folder holds a complete run: metrics.json is written last."""
    return (Path(folder) / METRICS).exists()


def reopen(folder: Path) -> None:
    """Make the folder, or an earlier run's folder unfinished again, so that a run cut short is never taken for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, LOG):
        (folder / name).unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place: readers never see half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        draft = Path(folder) / path.name
        write(draft)
        os.replace(draft, path)


def write_text(path: Path, text: str) -> None:
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_weights(folder: Path, model: Backbone) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    replace_file(folder / WEIGHTS, lambda draft: save_file(state, draft))


def write_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Write metrics.json, strict JSON (what is not finite becomes null): the last file of a finished run."""
    text = json.dumps(_finite(_plain(record)), indent=1, allow_nan=False) + "\n"
    write_text(folder / METRICS, text)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(_plain({"version": VERSION, **config}), sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, text)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a saved generator. Raises ValueError if the folder is none, or of another version."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not a saved generator: {CONFIG} is missing")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML") from error
    if not isinstance(config, dict) or config.get("version") != VERSION:
        version = config.get("version") if isinstance(config, dict) else None
        raise ValueError(f"{path} has version {version}, this release reads version {VERSION}; fit the generator anew")
    return config


def read_table(folder: Path) -> tuple[Schema, TableTransform]:
    """Schema and transform of a saved generator. Raises ValueError if either file is missing or damaged."""
    for name in (SCHEMA, TRANSFORM):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a complete generator: {name} is missing")
    try:
        schema = Schema.from_json((folder / SCHEMA).read_text(encoding="utf-8"))
        return schema, TableTransform.from_json(schema, (folder / TRANSFORM).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{SCHEMA} or {TRANSFORM} in {folder} is damaged: {error}") from error


def read_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json holds. Raises ValueError if it is missing (the run was cut short) or damaged."""
    path = folder / METRICS
    if not path.is_file():
        raise ValueError(f"{folder} is not a complete generator: {METRICS}, which is written last, is missing")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} is damaged: it holds no mapping")
    return metrics


def read_weights(folder: Path, model: Backbone) -> None:
    """Load the weights into `model`. Raises ValueError if the file is missing, damaged or of another network."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} is not a complete generator: {WEIGHTS} is missing")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point()):
        raise ValueError(f"{path} holds weights that are not finite")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # names or shapes that differ, or what the backbone itself refuses
        raise ValueError(f"{path} belongs to another network than {CONFIG} and {SCHEMA} describe") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """What text files write without naming a Python class: numbers as Python's, tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else str(value) if isinstance(value, Path) else value
