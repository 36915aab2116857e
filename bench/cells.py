"""Cells of a benchmark: what train.py makes of settings, and a file of results that grows by one line per cell."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

import train
from recourse_gen import RecourseGenerator

PAPER = ("adult", "compas", "heloc")  # the data sets of which a folder may hold the paper's exact split


def world_settings(data: str, seed: int, folder: str | None = None) -> list[str]:
    """Settings of train.py for one data set and seed. folder: of the paper's exact splits, for those it may hold."""
    split = [f"data.folder={folder}"] if folder and data in PAPER else []
    return [f"data={data}", f"seed={seed}", *split]


def configure(settings: Sequence[str]) -> dict[str, Any]:
    """train.py's configuration."""
    with hydra.initialize_config_dir(str(train.CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", [*settings]), resolve=True)  # type: ignore[return-value]


def fit(config: dict[str, Any], given: train.World) -> RecourseGenerator:
    """The configured generator, fitted; no run folder is kept."""
    with tempfile.TemporaryDirectory() as folder:
        return train.fit({**config, "run": folder}, given, train.Stopwatch())


def read(path: Path) -> list[dict[str, Any]]:
    """The cells of a file, none if there is no file. A last line that was never finished is no cell."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, cell: Mapping[str, Any]) -> None:
    """Write one cell as one line, in place of a last line that was never finished. Makes the file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        held = file.read()
        # Nothing is cut where nothing is torn: another run may be appending at this moment.
        if held and not held.endswith(b"\n"):
            file.truncate(held.rfind(b"\n") + 1)
        file.write(json.dumps(cell, default=float).encode() + b"\n")


def add_options(parser: argparse.ArgumentParser, results: str) -> None:
    """What benchmarks over several worlds have in common. results: the file's name."""
    parser.add_argument("--folder", help="the paper's exact splits of adult, compas, heloc; otherwise they are rebuilt")
    parser.add_argument("--set", nargs="+", default=[], help="further settings of train.py, e.g. training.minutes=1")
    parser.add_argument("--out", type=Path, default=Path("bench/results") / results)


def command(module: str, argv: Sequence[str]) -> str:
    """The command line of `argv` without places: that the paper's splits were used is part of a result, where they lie
    is not, nor where results went."""
    words, place = ["python", "-m", module], ""
    for word in argv:
        option, with_value, _ = word.partition("=")
        if place:
            words += ["DIR"] if place == "--folder" else []
            place = ""
        elif option in ("--folder", "--out", "--page"):
            place = "" if with_value else option
            words += [f"{option}=DIR" if with_value else option] if option == "--folder" else []
        else:
            words.append(word)
    return shlex.join(words)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
