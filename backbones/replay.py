"""Samplers on a GPU: a call that comes again is recorded as a CUDA graph, and replayed from then on.

A sampler is some thousand small kernels. Launching them one by one from Python takes longer than they run, unless there
are very many candidates; a graph is launched at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backbones.layers import Kept
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows

Draw = Callable[[Rows, Tensor, "Feasible | None", Noise], Rows]
DEVICES = ("cuda",)
_KEPT = 32  # kinds of calls
_MASKS = ("tokens", "low", "high", "stay", "raw")


class Replay:
    """The calls of one model's sampler, by kind. On a CPU, and for rules that tie columns, these are plain calls.

    People are filled up to one of few sizes, so that kinds are few: the last one is asked about several times. The
    first call of a kind is plain, the second is recorded. Weights that have changed, or may have (`Kept.lessons`), make
    all recordings void. A copy begins empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights: tuple[int, list[tuple[int, int]]] = 0, []
        self._known: OrderedDict[tuple[Any, ...], Recording | None] = OrderedDict()

    def __deepcopy__(self, memo: object) -> Replay:
        return Replay()

    def __reduce__(self) -> tuple[type[Replay], tuple[()]]:
        return Replay, ()

    def __call__(self, draw: Draw, weights: Iterable[Tensor], *settings: float) -> Draw:
        """The same as `draw`, which depends on weights and settings besides its arguments. It must neither ask the
        device for a value nor bring one to it, see `record`."""
        given = [*weights]

        def again(factual: Rows, cost_weight: Tensor, feasible: Feasible | None, noise: Noise) -> Rows:
            device, tied = factual.num.device.type, feasible is not None and feasible.tied
            fleeting = torch.is_autocast_enabled(device) or any(part.is_inference() for part in given)
            if device not in DEVICES or tied or fleeting:
                return draw(factual, cost_weight, feasible, noise)
            with self._lock:
                return self._ask(draw, given, settings, factual, cost_weight, feasible, noise)

        return again

    def _ask(
        self,
        draw: Draw,
        weights: list[Tensor],
        settings: tuple[float, ...],
        factual: Rows,
        cost_weight: Tensor,
        feasible: Feasible | None,
        noise: Noise,
    ) -> Rows:
        size, before = filled(factual.batch_size), noise.draws
        limits = [] if feasible is None else [getattr(feasible, name) for name in _MASKS]
        at = torch.arange(size, device=factual.num.device).clamp_(max=factual.batch_size - 1)
        inputs = [part[at] for part in (*factual, cost_weight, noise.keys, *limits)]

        def call() -> Rows:
            num, cat, weight, keys, *masks = inputs
            rules = None if feasible is None else replace(feasible, **dict(zip(_MASKS, masks, strict=True)))
            stream = Noise(keys, first_sample=noise.first_sample).skip(before)
            answer = draw(Rows(num, cat), weight, rules, stream)
            noise.draws = stream.draws
            return answer

        kind = (settings, feasible is None, noise.first_sample, before, *(part.shape for part in inputs))
        if self._came_before(kind, weights):
            recording = self._known[kind]
            if recording is None:
                others = [other.pool for other in self._known.values() if other is not None]
                recording = self._known[kind] = record(call, inputs, others[0] if others else None)
                recording.draws = noise.draws - before
            answer = recording(inputs)
            noise.draws = before + recording.draws
        else:
            answer = call()
        return Rows(*(part[: factual.batch_size].clone() for part in answer))

    def _came_before(self, kind: tuple[Any, ...], weights: list[Tensor]) -> bool:
        """Whether there was such a call with these weights; from now on there was."""
        these = Kept.lessons, [(part.data_ptr(), part._version) for part in weights]
        if these != self._weights:
            self._weights = these
            self._known.clear()
        known = kind in self._known
        self._known.setdefault(kind, None)
        self._known.move_to_end(kind)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known


class Recording:
    """A call on inputs that stay where they are, and its answer, which does too.

    play: makes the call. draws: what it takes from the noise. pool: the memory that it works in.
    """

    def __init__(self, inputs: list[Tensor], play: Callable[[], object], answer: Rows, pool: Any) -> None:
        self.inputs, self.play, self.answer, self.pool = inputs, play, answer, pool
        self.draws = 0

    def __call__(self, inputs: list[Tensor]) -> Rows:
        """The answer to other inputs of these shapes; good until another recording of the same pool is asked."""
        for mine, new in zip(self.inputs, inputs, strict=True):
            mine.copy_(new)
        self.play()
        return self.answer


def filled(batch: int) -> int:
    """The least size of at least `batch` that is a power of two or a quarter, half or three quarters beyond one."""
    step = max(1, (1 << (batch - 1).bit_length()) // 8)
    return -(-batch // step) * step


def record(call: Callable[[], Rows], inputs: list[Tensor], pool: Any) -> Recording:
    """Recorded on the current CUDA device; what is read from it, or brought to it, meanwhile is an error.

    pool: of another recording, to share memory with: what they compute in between is of no use after them.
    """
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        call()  # libraries set themselves up in their first call on a stream, which cannot be recorded
    torch.cuda.current_stream().wait_stream(aside)
    # Other threads may use the device meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        answer = call()
    return Recording(inputs, graph.replay, answer, graph.pool())
