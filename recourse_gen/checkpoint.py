"""A fitted generator as one folder: text files and safetensors, nothing that executes on loading."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recourse_gen.backbone import Backbone
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

VERSION = 1
CONFIG, SCHEMA, TRANSFORM, WEIGHTS, METRICS = "config.yaml", "schema.json", "transform.json", "model.safetensors", "metrics.json"


def is_finished(folder: str | Path) -> bool:
    """Whether the folder holds a complete run: metrics.json is written last."""
    return (Path(folder) / METRICS).exists()


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


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({"version": VERSION, **config}, sort_keys=False, allow_unicode=True)
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
    schema = Schema.from_json((folder / SCHEMA).read_text(encoding="utf-8"))
    return schema, TableTransform.from_json(schema, (folder / TRANSFORM).read_text(encoding="utf-8"))


def read_weights(folder: Path, model: Backbone) -> None:
    """Load the weights into `model`. Raises ValueError if the file is missing, damaged or of another network."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} is not a complete generator: {WEIGHTS} is missing")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != expected:
        raise ValueError(f"{path} belongs to another network than {CONFIG} and {SCHEMA} describe")
    if not all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point()):
        raise ValueError(f"{path} holds weights that are not finite")
    model.load_state_dict(state)
