"""Trainings that are killed again and again: `python tests/killing.py FOLDER KILLS SEED` prints what became of them.

Each start is a process of its own, forked so that imports cost their seconds once, and killed by SIGKILL at a random
moment or while it writes; until then, the state is read all the time. Who finishes has to have all that a run left in
peace has.
"""

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainings import small_pairs, train

from recourse_gen import checkpoint, resumption

STEPS = 40
NEVER = 10**9


def work(folder: Path, calls: int) -> None:
    """One start: begin or go on. It kills itself before that many calls that put a file on the disk or in its place."""
    left = itertools.count(calls, -1)

    def instead(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            if next(left) <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **options)

        return counted

    os.fsync, os.replace = instead(os.fsync), instead(os.replace)
    checkpoint.reopen(folder, resume=True)
    train("ar", small_pairs(), folder, resume=True, steps=STEPS)


def start(folder: Path, seconds: float = NEVER, calls: int = NEVER) -> tuple[bool, int]:
    """Whether a run finished before it was killed, and how many states were read meanwhile."""
    folder.mkdir(exist_ok=True)
    child = multiprocessing.get_context("fork").Process(target=work, args=(folder, calls))
    child.start()
    end, read = time.monotonic() + seconds, 0
    try:
        while child.is_alive() and time.monotonic() < end:
            child.join(min(0.05, max(0.0, end - time.monotonic())))
            read += look(folder)
    finally:
        child.kill()
        child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"a start ended with exit code {child.exitcode}")
    return child.exitcode == 0, read + look(folder)


def look(folder: Path) -> int:
    """Read the state, where there is one; raises ValueError if it is damaged."""
    path = folder / resumption.FILE
    return bool(resumption.parse(path)) if path.exists() else 0


def everything(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The last state of a finished run, but for its clock: weights, averages, moments, streams of random numbers."""
    record, tensors = resumption.parse(folder / resumption.FILE)
    return {name: value for name, value in record.items() if name != "seconds"}, tensors


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    began, moments = time.monotonic(), random.Random(seed)
    start(folder / "peace")
    length = time.monotonic() - began
    record, tensors = everything(folder / "peace")
    count = dict.fromkeys(("kills", "while_writing", "runs", "equal", "states_read"), 0)
    while count["kills"] < kills:
        run, finished = folder / str(count["runs"]), False
        while not finished:
            left, writing = kills - count["kills"], count["kills"] % 2 == 1
            when = {"calls": moments.randrange(30)} if writing else {"seconds": moments.uniform(0.0, 0.5 * length)}
            finished, read = start(run, **(when if left else {}))
            count["kills"] += not finished
            count["while_writing"] += writing and not finished
            count["states_read"] += read
        ended, found = everything(run)
        count["runs"] += 1
        count["equal"] += (
            ended == record
            and found.keys() == tensors.keys()
            and all(torch.equal(tensors[name], value) for name, value in found.items())
            and not any(run.glob(".writing-*"))
        )
    return count


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
