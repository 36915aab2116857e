"""Files that may come from anybody: read whole and up to a size, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTE = 2**20


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


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place: readers never see half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        draft = Path(folder) / path.name
        write(draft)
        os.replace(draft, path)
