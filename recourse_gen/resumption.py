"""A training that can go on after it was cut short: what its state is, and how it is written, read and compared.

The state is one safetensors file, replaced as a whole, with what is no tensor as JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate.utils import gather
from torch import Tensor, nn

from recourse_gen import files
from recourse_gen.processes import processes

FILE, LOG = "training.safetensors", "metrics.jsonl"
VERSION = 1
LIMIT = 16 * 1024 * files.MEGABYTE
_SHORT = 40  # characters of a setting that a sentence quotes
_WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError, RecursionError)


class Terminated(SystemExit):
    """SIGTERM came while training, and the state is written. Ends the process with exit code 143, as shells have it."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.path, self.step = path, step

    def __str__(self) -> str:
        return f"SIGTERM ended the training after step {self.step}; resume=true goes on from {self.path}"


@dataclass
class TrainingState:
    """All that changes while a run trains, and so all that it needs to go on as if it had never stopped.

    model, averaged: the weights, and their average. optimizer, scaler: as PyTorch has them (no scaler in float32).
    generators: this process's streams of random numbers by name; where they are is the position in the data.
    step: updates made. seconds: of training so far. best: weights of the lowest validation loss, `best_loss`, which
    `best_step` reached; none yet if empty.
    """

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    generators: Mapping[str, torch.Generator]
    scaler: Any = None
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Replace the folder's state by this one. Every process has to call it; the main one writes.

        settings: of the run, by which `read` knows it. Raises OSError if the state cannot be written; the one before it
        is intact then.
        """
        here = processes()
        streams = {
            name: gather(generator.get_state()[None].to(here.device)) for name, generator in self.generators.items()
        }
        if not here.is_main_process:
            return
        moments = self.optimizer.state_dict()["state"]
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "average": self.averaged.state_dict(),
            "best": self.best,
            "optimizer": {f"{i}.{key}": value for i, values in moments.items() for key, value in values.items()},
            "generator": streams,
        }
        tensors = {
            f"{part}/{name}": value.detach().to("cpu", copy=True).contiguous()
            for part, values in parts.items()
            for name, value in values.items()
        }
        text = json.dumps(
            {
                "version": VERSION,
                "settings": _flat(settings),
                "step": self.step,
                "seconds": self.seconds,
                "best_loss": self.best_loss if self.best else None,
                "best_step": self.best_step,
                "scaler": self.scaler.state_dict() if self.scaler else None,
            },
            allow_nan=False,
        )
        data = safetensors.torch.save(tensors, {"state": text, "sha256": _digest(text, tensors)})
        files.replace_file(folder / FILE, lambda draft: draft.write_bytes(data))

    def read(self, folder: Path, settings: Mapping[str, Any]) -> bool:
        """Take over the folder's state, if there is one; says whether.

        Raises ValueError if it is damaged, or of a run with other settings, and then names those.
        """
        path = folder / FILE
        if not path.exists():
            return False
        record, tensors = parse(path)
        differing = _differences(record["settings"], _flat(settings))
        if differing:
            raise ValueError(f"{path} cannot be resumed: it is of a run with another {', '.join(differing)}")
        try:
            self._take(record, tensors)
        except _WRONG as error:
            raise ValueError(f"{path} is damaged: it does not fit its own settings") from error
        return True

    def _take(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = value
        self.step, self.seconds = int(record["step"]), float(record["seconds"])
        self.best = {name: value.to(processes().device) for name, value in parts.get("best", {}).items()}
        self.best_loss = float(record["best_loss"]) if self.best else math.inf
        self.best_step = int(record["best_step"])
        if self.best:
            self.model.load_state_dict(self.best)  # for the sake of what that refuses
        self.model.load_state_dict(parts["model"])
        self.averaged.load_state_dict(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in parts.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            if value.dim() and value.shape != weights[int(index)].shape:
                raise ValueError(f"{name} has another shape than its parameter")
            moments.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if self.scaler:
            self.scaler.load_state_dict(record["scaler"])
        for name, generator in self.generators.items():
            # A copy, because set_state reads from where the storage begins, whatever row it is given.
            generator.set_state(parts["generator"][name][processes().process_index].clone())


def parse(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of a state holds that is no tensor, and its tensors. Raises ValueError if it is damaged."""
    data = files.read(path, LIMIT)
    tensors = files.tensors(path, data)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if header["sha256"] != _digest(header["state"], tensors):
            raise ValueError("it is not what was written")
        record = json.loads(header["state"])
        if record["version"] != VERSION:
            raise ValueError(f"this release reads version {VERSION}, not {record['version']!r}")
        if not isinstance(record["settings"], dict):
            raise ValueError("it does not say which run it is of")
    except _WRONG as error:
        raise ValueError(f"{path} is damaged: {str(error)[:300]}") from error
    return record, tensors


def digest(*tensors: Tensor) -> str:
    """SHA-256 of values, on any device."""
    seen = hashlib.sha256()
    for tensor in tensors:
        seen.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def common_digest(*tensors: Tensor) -> str:
    """`digest` over all processes, each of which may have values of its own; the same on all."""
    own = list(bytes.fromhex(digest(*tensors)))
    return digest(gather(torch.tensor(own, dtype=torch.uint8, device=processes().device)))


def global_generators(device: torch.device) -> dict[str, torch.Generator]:
    """What losses on a device may draw from."""
    if device.type != "cuda":
        return {"cpu": torch.default_generator}
    at = torch.cuda.current_device() if device.index is None else device.index
    return {"cpu": torch.default_generator, "cuda": torch.cuda.default_generators[at]}


def cut(log: Path, step: int) -> None:
    """Remove from a log of JSON lines those past `step`, and what is no whole line: a run cut short wrote them."""
    kept = []
    for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    if kept:
        files.replace_file(log, lambda draft: draft.write_text("".join(kept)))
    else:
        log.unlink(missing_ok=True)


@contextmanager
def sigterm_noted(wanted: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether a SIGTERM has come since, where it would end the process otherwise: nobody else's handler is replaced.

    One that nobody has acted on ends the process afterwards.
    """
    came = threading.Event()
    ours = (
        wanted
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not ours:
        yield came.is_set
        return
    signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if came.is_set():
        signal.raise_signal(signal.SIGTERM)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    described = json.dumps([text, *((name, str(tensors[name].dtype)) for name in sorted(tensors))])
    values = (tensors[name] for name in sorted(tensors))
    return hashlib.sha256(f"{described}{digest(*values)}".encode()).hexdigest()


def _differences(saved: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """The settings that two runs do not share, with their values where these are short."""
    found = []
    for name in [*given, *(name for name in saved if name not in given)]:
        was, now = saved.get(name, "none"), given.get(name, "none")
        if was != now:
            found.append(f"{name} ({was}, here {now})" if max(len(was), len(now)) <= _SHORT else name)
    return found


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as JSON writes them."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str, ensure_ascii=False)
    return flat
