"""The processes of a run: what they are, what they agree on, which of them tells of a failure, and when they leave."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, parse_flag_from_env, reduce

ALONE = threading.RLock()  # of this process's threads: PyTorch's random state and default dtype are common to all
_PAUSE = 1.0  # seconds between looks at the launcher
_GRACE = 30.0  # seconds from SIGTERM to SIGKILL, as torchrun has them


def processes() -> PartialState:
    """The processes of this run and this one's device.

    Whoever asks first decides, and without the flag a PartialState takes several processes on CPUs for one each.
    """
    _leave_with_launcher()
    # Apple's GPUs hold no float64, which raw units need.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or torch.backends.mps.is_available())


def device_of(given: Any) -> torch.device:
    """The device that is meant, by default this process's. Raises ValueError unless tensors can be kept there."""
    if given is None:
        return processes().device
    try:
        device = torch.empty(1, device=given).device
        if device.type == "meta" or isinstance(given, bool):
            raise TypeError("nothing can be kept there")
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that is here, such as 'cpu', got {given!r}") from error
    return device


def total(*values: float) -> list[float]:
    """The sum of each value over the processes, the same on all of them."""
    if processes().num_processes == 1:
        return list(values)
    return reduce(torch.tensor(values, dtype=torch.float64, device=processes().device), "sum").tolist()


def meet() -> None:
    """Wait for all processes. PartialState's own barrier asks for as many GPUs, if there is one, even for CPUs."""
    total(0.0)


def from_main(compute: Callable[[], float]) -> float:
    """A number that the main process computes, for all: what follows from it must not depend on another's rounding."""
    value = compute() if processes().is_main_process else 0.0
    if processes().num_processes == 1:
        return value
    return broadcast(torch.tensor(value, dtype=torch.float64, device=processes().device)).item()


def first_to_fail() -> bool:
    """Whether no other process of the run has asked before: what makes one fail makes others fail after it."""
    if processes().num_processes == 1 or not torch.distributed.is_initialized():
        return True
    try:
        # Where the processes met. They can still meet there when one of them no longer takes part in anything else.
        return torch.distributed.distributed_c10d._get_default_store().add("recourse-gen/failures", 1) == 1
    except RuntimeError:  # it ended with the process that kept it
        return True


@functools.cache
def _leave_with_launcher() -> None:
    """Let the launcher's sudden death mean what its orderly end does: SIGTERM to each process, SIGKILL to who stays.

    torchrun starts its processes in sessions of their own, where nothing else reaches them when SIGKILL ends it. They
    would go on beside those of the next launch, or wait for one another for good.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_PAUSE)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
