"""Threads that compute on one core each, for work in many small steps.

OpenMP shares every step among the cores, and waits by spinning until all have done their part. Where another process
has one of these cores, a step may take a slice of the scheduler's time, and a thousand steps of a tenth of a
millisecond take seconds. Here the rows are shared instead, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_STARTING = Lock()
T = TypeVar("T")


def shared(
    function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, threads: int, *, least: int = 256
) -> np.ndarray:
    """``function(rows)``, ``(B, ...)``, of rows ``(B, ·)`` that are answered each on its own, by at most so many
    threads; of no rows it is ``(0,)``. least: rows that are worth a thread."""
    if not len(rows):
        return np.zeros(0)
    parts = max(1, min(threads, len(rows) // least))
    return np.concatenate([*_pool(parts).map(function, np.array_split(rows, parts))])


def alone(function: Callable[..., T], *arguments: object, **options: object) -> T:
    """``function(*arguments, **options)`` by one thread."""
    return _pool(1).submit(function, *arguments, **options).result()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _STARTING:
        return _started(threads, os.getpid())


@cache
def _started(threads: int, process: int) -> ThreadPoolExecutor:
    """process: a fork inherits the pool, but none of its threads."""
    usual, together = torch.get_num_threads(), Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, "recourse-gen", initializer=_on_one_core)
    for _ in range(threads):
        pool.submit(together.wait)
    together.wait()
    torch.set_num_threads(usual)  # it is a setting of the thread, and what threads begin with
    return pool


def _on_one_core() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # or the first product would set what threads begin with
    threadpool_limits(1, user_api="openmp")  # of other libraries, in this thread
