"""The arithmetic floor: how long a call would take if it were nothing but its matrix products at the machine's rate."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from backbones import replay
from backbones.ar import AutoregressiveBackbone
from backbones.decoder import CachedTransformer
from backbones.denoiser import Denoiser
from backbones.layers import HeadColumn


@dataclass(frozen=True)
class Machine:
    """flops: per second of a large float32 matrix product. copied: bytes per second of a large copy, read and written.

    Both are the best of several tries, on the threads that torch has.
    """

    device: str
    threads: int
    flops: float
    copied: float


def measure(device: torch.device, size: int = 2048, tries: int = 7) -> Machine:
    left, right, out = (torch.rand(size, size, device=device) for _ in range(3))
    source, target = (torch.zeros(64 * 2**20 // 4, device=device) for _ in range(2))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(
        device=name,
        threads=torch.get_num_threads(),
        flops=2 * size**3 / min(seconds(lambda: torch.mm(left, right, out=out), device, tries)),
        copied=2 * source.nbytes / min(seconds(lambda: target.copy_(source), device, tries)),
    )


def seconds(call: Callable[[], Any], device: torch.device, tries: int) -> list[float]:
    call()
    taken = []
    for _ in range(tries):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return taken


def synchronise(device: torch.device) -> None:
    """Wait for what runs on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def plain() -> Iterator[None]:
    """Samplers are not replayed inside."""
    with mock.patch.object(replay, "DEVICES", ()):
        yield


def products(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products in `call`: two per multiplication and addition.

    Attention is left out (kernels on a CPU are not counted, sums of products of tensors never), which makes the floor
    lower, not higher.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that tensors made by `call` held at one time."""
    call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0)


class Clock:
    """Seconds spent in the network's parts inside a ``with`` block; parts within parts count once."""

    PARTS: ClassVar[list[tuple[type, str]]] = [
        (Denoiser, "forward"),
        (Denoiser, "context"),
        (Denoiser, "moments"),
        (AutoregressiveBackbone, "_encode"),
        (CachedTransformer, "step"),
        (HeadColumn, "__call__"),
    ]

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._depth = device, 0.0, 0

    def __enter__(self) -> Clock:
        self._originals = [(owner, name, getattr(owner, name)) for owner, name in self.PARTS]
        for owner, name, original in self._originals:
            setattr(owner, name, self._timed(original))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            synchronise(self.device)
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                synchronise(self.device)
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - started

        return call
