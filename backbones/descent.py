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
        self._way: Tensor | None = None  # s times the slope at the last evaluation
        self._s, self._width = 1.0, 0.0

    def step(self, end: Tensor, s: float, lower: float) -> None:
        """On from s to `lower`, x̂ being `end` at `num`."""
        here = self.num
        if self._way is not None:
            half = self._width / 2
            here = self._last.sub(self._way, alpha=half / self._s).sub_(here - end, alpha=half / s)
        way = here - end
        self.num = here.sub(way, alpha=(s - lower) / s) if lower else end
        self._last, self._way, self._s, self._width = here, way, s, s - lower
