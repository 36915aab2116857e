"""A batch of encoded table rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """Encoded rows of one schema, on one device.

    Shape legend used everywhere: B batch, S samples, N continuous columns, C token columns, D = N + C.

    num: float32 ``(B, N)`` or ``(B, S, N)``, continuous columns scaled to their training range (0 to 1).
    cat: int64 ``(B, C)`` or ``(B, S, C)``, the index of each token column's level.
    """

    num: Tensor
    cat: Tensor

    @property
    def batch_size(self) -> int:
        return self.num.shape[0]

    def take(self, index: Tensor) -> Rows:
        """Rows at `index` (int64 or bool, one-dimensional)."""
        return Rows(self.num[index], self.cat[index])

    def repeat(self, times: int) -> Rows:
        """``(B, ·)`` to ``(B·times, ·)``, each row `times` times in a row."""
        return Rows(self.num.repeat_interleave(times, 0), self.cat.repeat_interleave(times, 0))

    def flatten(self) -> Rows:
        """``(B, S, ·)`` to ``(B·S, ·)``."""
        return Rows(self.num.flatten(0, 1), self.cat.flatten(0, 1))

    def to(self, device: object) -> Rows:
        return Rows(self.num.to(device), self.cat.to(device))  # type: ignore[call-overload]
