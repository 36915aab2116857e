"""How long a call may take, and how much work still fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

RESERVED = 0.05  # share of the seconds that is kept for putting the answers together
FIRST = 8  # people in the first portion, of which nobody knows yet how long it takes


class Deadline:
    """The end of a call, `seconds` from now; None for a call without one.

    clock: seconds from any origin, as ``time.monotonic``.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._end = math.inf if seconds is None else clock() + (1 - RESERVED) * seconds
        self._size, self._began = 0, math.nan  # of the portion in hand; no people before the first

    def passed(self) -> bool:
        return self._clock() >= self._end

    @property
    def reason(self) -> str:
        """Why somebody has no answer, but for how far it came."""
        return f"the time budget of {self.seconds} s ended after "

    def portions(self, people: int) -> Iterator[np.ndarray]:
        """Positions of those of `people` to be served next, in order, as int64 ``(P,)`` in P at a time.

        All of them at once where there is no end. Else a portion is at most twice the last one, and no more than what
        is expected to take half of the time left; it ends with the people, or when not one person more fits.
        """
        start = 0
        while start < people:
            size = people if self.seconds is None else self._fits(people - start)
            if not size:
                return
            yield np.arange(start, start + size)
            start += size

    def _fits(self, people: int) -> int:
        now = self._clock()
        if self._end <= now:
            return 0
        most = FIRST
        if self._size:
            share = (self._end - now) / 2 / max(now - self._began, 1e-9)
            most = int(self._size * min(share, 2.0))
        size = min(most, people)
        if size:
            self._size, self._began = size, now
        return size
