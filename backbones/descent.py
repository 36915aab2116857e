"""Solving the flow of numbers from noise to the predicted end."""

from __future__ import annotations

from torch import Tensor


class Descent:
    """Solves dx/ds = (x − x̂) / s from large s to 0, where it lands on x̂: the flow of numbers, s being the noise left.

    The trapezoidal rule at one evaluation of x̂ per step: the one that a step starts with also corrects the step before
    (a predictor-corrector in PEC mode, as UniC of Zhao et al. 2023). num: x at s, for the next evaluation.
    """

    def __init__(self, num: Tensor) -> None:
        self.num, self._last = num, num
        self._slope: Tensor | None = None
        self._width = 0.0

    def step(self, end: Tensor, s: float, lower: float) -> None:
        """On from s to `lower`, x̂ being `end` at `num`."""
        here = self.num
        if self._slope is not None:
            here = self._last - self._width * (self._slope + (here - end) / s) / 2
        slope = (here - end) / s
        self.num, self._last, self._slope, self._width = here - (s - lower) * slope, here, slope, s - lower
        if not lower:
            self.num = end
