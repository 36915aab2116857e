"""Files that may come from anybody: read whole and up to a size, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

MEGABYTE = 2**20
_HEADER = 8 * MEGABYTE  # of a safetensors file: the names and shapes of its tensors
_DRAFT = ".writing-"


def read(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises ValueError if it is missing or larger, if it is no file (a folder, a pipe, a device: opening one could wait
    forever, reading one never end), and if it is a link out of its folder.
    """
    resolved = path.resolve()
    if not resolved.is_relative_to(path.parent.resolve()):
        raise ValueError(f"{path} is a link out of its folder; put the file itself there")
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(resolved, flags)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1) if status.st_size <= limit else None
    if data is not None and len(data) <= limit:  # it may have grown meanwhile
        return data
    raise ValueError(f"{path} is larger than the {limit / MEGABYTE:g} MiB that are read of such a file")


def tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """What safetensors `data` hold, by name, together no larger than they. Raises ValueError if they are damaged."""
    if int.from_bytes(data[:8], "little") > _HEADER:
        raise ValueError(f"{path} is damaged: no network has as many tensors as it declares")
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{path} is damaged: {reason[:300]}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an OSError say in one sentence which file could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{path} cannot be written: {error.strerror or error}") from error


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place: readers never see half a file.

    That holds whenever the process is killed or the power fails: what is in its place is on the disk. Raises OSError,
    in one sentence, where it cannot be written; what was there before is intact.
    """
    with writing(path):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_DRAFT) as folder:
            draft = Path(folder) / path.name
            write(draft)
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
        if os.name == "posix":  # elsewhere, folders cannot be opened
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what `replace_file` left in a folder where it was killed."""
    for draft in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(draft, ignore_errors=True)
