"""A fitted generator as one folder: text files, safetensors and skops, nothing that executes on loading.

Whoever wrote a folder may mean harm: every file is read whole, up to a limit, and compared with the SHA-256 that
metrics.json has of it; sizes that a text file declares are checked before anything of that size is made.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml

from recourse_gen import audit, estimators, files, resumption
from recourse_gen.backbone import Backbone
from recourse_gen.budget import Budget, check_schema
from recourse_gen.files import MEGABYTE, replace_file, writing
from recourse_gen.options import SEEDS
from recourse_gen.schema import Schema
from recourse_gen.transform import TableTransform

VERSION = 2
CONFIG, SCHEMA, TRANSFORM = "config.yaml", "schema.json", "transform.json"
WEIGHTS, METRICS, LOG = "model.safetensors", "metrics.json", resumption.LOG
AUDITOR, CLASSIFIER, STATE = audit.FILE, "classifier.skops", resumption.FILE
# What is read of each at most, in bytes.
LIMITS = {
    CONFIG: MEGABYTE,
    SCHEMA: 16 * MEGABYTE,
    TRANSFORM: 16 * MEGABYTE,
    METRICS: 16 * MEGABYTE,
    WEIGHTS: 2048 * MEGABYTE,
    AUDITOR: estimators.LIMIT,
    CLASSIFIER: estimators.LIMIT,
}
REQUIRED = (SCHEMA, TRANSFORM, WEIGHTS, AUDITOR)
_DIGESTS = "files"  # in metrics.json
_CONFIG: dict[str, type] = {
    "backbone": str,
    "seed": int,
    "target_class": object,
    **dict.fromkeys(("backbone_options", "pairs", "training", "audit", "constraints"), dict),
}
_ORDERED = 100  # pairs of columns: what follows from them grows with the fourth power
_WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def is_finished(folder: str | Path) -> bool:
    """Whether the folder holds a complete run: metrics.json is written last."""
    return (Path(folder) / METRICS).exists()


def reopen(folder: Path, *, resume: bool = False) -> None:
    """Make the folder, or an earlier run's folder unfinished again, so that a run cut short is never taken for it.

    resume: keep what an unfinished run left for the next one.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
        for name in (METRICS,) if resume else (METRICS, LOG, STATE):
            (folder / name).unlink(missing_ok=True)


def write(
    folder: Path,
    config: Mapping[str, Any],
    schema: Schema,
    transform: TableTransform,
    auditor: audit.Auditor,
    model: Backbone,
    summary: Mapping[str, Any],
    classifier: Any = None,
) -> None:
    """Write a finished run into a folder, created if need be, and remove the state of its training.

    Raises ValueError for a classifier not of the parts that `recourse_gen.estimators.OWN` lists, OSError as
    `files.writing` does.
    """
    with tempfile.TemporaryDirectory() as draft:  # what cannot be kept is told before an earlier run is given up
        write_config(Path(draft), config)
        if classifier is not None:
            _write_classifier(Path(draft), classifier, folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, CLASSIFIER):  # not finished while old and new files mix
                (folder / name).unlink(missing_ok=True)
        for path in Path(draft).iterdir():
            replace_file(folder / path.name, partial(shutil.copyfile, path))
    write_text(folder / SCHEMA, schema.to_json())
    write_text(folder / TRANSFORM, transform.to_json())
    auditor.save(folder)
    write_weights(folder, model)
    write_metrics(folder, summary)
    (folder / STATE).unlink(missing_ok=True)  # only now, so that a run killed here need not train again


def write_text(path: Path, text: str) -> None:
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_weights(folder: Path, model: Backbone) -> None:
    # Copies, because safetensors refuses what shares memory, as tied parameters do.
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(state)  # Python writes them, whose errors say what is wrong with the disk
    replace_file(folder / WEIGHTS, lambda draft: draft.write_bytes(data))


def _write_classifier(draft: Path, model: Any, folder: Path) -> None:
    try:
        estimators.save(model, draft / CLASSIFIER)
    except ValueError as error:
        raise type(error)(
            f"this {type(model).__name__} cannot be kept in {folder} and has to be given when loading: {error}"
        ) from error


def write_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Write metrics.json, strict JSON (what is not finite becomes null): the last file of a finished run.

    It also says what the files that loading reads have to be, by their SHA-256.
    """
    there = [name for name in LIMITS if name != METRICS and (folder / name).exists()]
    digests = {name: hashlib.sha256(files.read(folder / name, LIMITS[name])).hexdigest() for name in there}
    text = json.dumps(_finite(_plain({**record, _DIGESTS: digests})), indent=1, allow_nan=False) + "\n"
    write_text(folder / METRICS, text)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    try:
        text = yaml.safe_dump(_plain({"version": VERSION, **config}), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ValueError(f"the settings hold what YAML cannot: {' '.join(str(error).split())}") from error
    write_text(folder / CONFIG, text)


@dataclass(frozen=True)
class Saved:
    """A folder's files, as they were saved.

    contents: bytes by name, of the files that are not parsed yet. config, summary: what config.yaml and metrics.json
    hold.
    """

    folder: Path
    contents: Mapping[str, bytes]
    config: dict[str, Any]
    summary: dict[str, Any]
    schema: Schema
    transform: TableTransform

    def auditor(self) -> audit.Auditor:
        """Raises ValueError if the file holds no auditor of this schema."""
        return audit.Auditor.parse(self.contents[AUDITOR], self.schema)

    def classifier(self) -> Any:
        """The classifier that was saved with the generator. Raises ValueError if there is none."""
        if CLASSIFIER not in self.contents:
            raise ValueError(f"{self.folder} was saved without its classifier, so one must be given")
        try:
            model = estimators.load(self.contents[CLASSIFIER], own=True)
        except estimators.ForeignTypesError as error:
            raise ValueError(f"{CLASSIFIER} holds types that it never has, and is refused: {error}") from error
        except ValueError as error:
            raise ValueError(f"{CLASSIFIER} holds no classifier: {error}") from error
        for part in getattr(model, "steps", []):
            if hasattr(part[-1], "n_jobs"):
                part[-1].n_jobs = None  # a file could ask for any number of threads
        return model

    def network(self, build: Callable[[], Backbone]) -> Backbone:
        """The backbone that `build` makes, with the saved weights.

        Raises ValueError if the weights are damaged, or are not those of what config.yaml and schema.json describe; a
        network that is larger than the file of its weights allows is never made.
        """
        state = _weights(self.folder / WEIGHTS, self.contents[WEIGHTS])
        try:
            with Budget(sum(value.numel() for value in state.values()), self.schema):
                model = build()
        except (TypeError, RuntimeError, OverflowError, MemoryError) as error:
            raise ValueError(f"{CONFIG} describes no network: {_short(error)}") from error
        return _fill(model, state, self.folder / WEIGHTS)


def read(folder: Path) -> Saved:
    """Read a folder whole. Raises ValueError if it is incomplete, damaged, altered, or of another version."""
    if not (folder / CONFIG).exists():
        raise ValueError(f"{folder} is not a saved generator: {CONFIG} is missing")
    text = files.read(folder / CONFIG, LIMITS[CONFIG])
    config = _parse_config(folder / CONFIG, text)
    if not (folder / METRICS).exists():
        raise ValueError(f"{folder} is not a complete generator: {METRICS}, which is written last, is missing")
    summary = _parse_metrics(folder / METRICS, files.read(folder / METRICS, LIMITS[METRICS]))
    digests = summary.pop(_DIGESTS)
    contents = {CONFIG: text}
    for name in (*REQUIRED, *({CLASSIFIER} & set(digests))):
        if not (folder / name).exists():
            raise ValueError(f"{folder} is not a complete generator: {name} is missing")
        contents[name] = files.read(folder / name, LIMITS[name])
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != digests.get(name):
            raise ValueError(
                f"{folder / name} is damaged: it is not the file that was saved ({METRICS} has another SHA-256 of it)"
            )
    try:
        schema = Schema.from_json(contents.pop(SCHEMA).decode())
        check_schema(schema)
        transform = TableTransform.from_json(schema, contents.pop(TRANSFORM).decode())
    except _WRONG as error:
        raise ValueError(f"{SCHEMA} or {TRANSFORM} in {folder} is damaged: {_short(error)}") from error
    return Saved(folder, contents, config, summary, schema, transform)


def read_weights(folder: Path, model: Backbone) -> None:
    """Load the weights into `model`. Raises ValueError if the file is missing, damaged or of another network."""
    path = folder / WEIGHTS
    _fill(model, _weights(path, files.read(path, LIMITS[WEIGHTS])), path)


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them can stand for a document without end. This package writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _parse_config(path: Path, data: bytes) -> dict[str, Any]:
    try:
        config = yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, *_WRONG) as error:
        raise ValueError(f"{path} is not readable YAML") from error
    version = config.get("version") if isinstance(config, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path} has version {_short(version)}, this release reads version {VERSION}; fit the generator anew"
        )
    for name, kind in _CONFIG.items():
        if name not in config or not isinstance(config[name], kind):
            raise ValueError(f"{path} is damaged: it has no {name}")
    if not 0 <= config["seed"] < SEEDS:
        raise ValueError(f"{path} is damaged: no generator has the seed {_short(config['seed'])}")
    ordered = config["constraints"].get("ordered", [])
    if not isinstance(ordered, list) or len(ordered) > _ORDERED:
        raise ValueError(f"{path} is damaged: constraints.ordered is no list of at most {_ORDERED} pairs")
    return config


def _parse_metrics(path: Path, data: bytes) -> dict[str, Any]:
    try:
        metrics = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_short(error)}") from error
    if not isinstance(metrics, dict) or not isinstance(metrics.get(_DIGESTS), dict):
        raise ValueError(f"{path} is damaged: it does not say what the other files have to be")
    return metrics


def _weights(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    """Finite tensors by name, together no larger than the file."""
    state = files.tensors(path, data)
    if not all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point()):
        raise ValueError(f"{path} holds weights that are not finite")
    return state


def _fill(model: Backbone, state: Mapping[str, torch.Tensor], path: Path) -> Backbone:
    """`model` with these weights, if they are of its names, shapes and dtypes."""
    due = model.state_dict()
    free = [name for name in due if name in model.observed]  # these have as many rows as were observed
    fits = due.keys() == state.keys() and all(
        state[name].dtype == value.dtype
        and (state[name].shape[1:] == value.shape[1:] if name in free else state[name].shape == value.shape)
        and state[name].dim() == value.dim()
        for name, value in due.items()
    )
    try:
        if not fits:
            raise RuntimeError("names, shapes or dtypes differ")
        model.load_state_dict(state)
    except RuntimeError as error:  # or what the backbone itself refuses
        raise ValueError(f"{path} belongs to another network than {CONFIG} and {SCHEMA} describe") from error
    return model


def _short(error: Any) -> str:
    """The first line of what is said, and no more of it than a sentence holds."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


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
