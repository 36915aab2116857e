"""One process at a time in a folder: a lock that ends with the process, however that ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recourse_gen.files import writing

if sys.platform != "win32":
    import fcntl

FILE = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same folder out of it. It is made if need be, and goes again if empty.

    Raises ValueError, at once, if another process has it. The file of the lock is there meanwhile, and after a process
    that was killed, which does not matter. On Windows, and on file systems without locks, nobody is kept out.
    """
    if sys.platform == "win32":
        yield
        return
    made, path = not folder.exists(), folder / FILE
    descriptor = _hold(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _hold(path: Path) -> int:
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"another process is at work in {path.parent}; wait for it or take another folder"
            ) from None
        except OSError:
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # whoever had it has removed the file meanwhile
