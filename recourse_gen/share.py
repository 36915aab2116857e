"""Which of the factuals each of several processes trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recourse_gen.processes import processes


@dataclass(frozen=True)
class Share:
    """The factuals of process number `process` of `processes`: every processes-th of an order fixed by `seed`.

    holdout, most: that share of all factuals, and at most so many, are kept for validation, the same on every process.
    One process takes everybody, in the frame's order, and leaves it to the training whom it validates on.
    """

    process: int = 0
    processes: int = 1
    seed: int = 0
    holdout: float = 0.1
    most: int = 2048

    @classmethod
    def here(cls, seed: int, holdout: float, most: int) -> Share:
        """Of this process."""
        return cls(processes().process_index, processes().num_processes, seed, holdout, most)

    def of(self, people: int) -> tuple[np.ndarray, int]:
        """Positions of this process's factuals among `people`, and how many of them, the first, are for validation.

        Raises ValueError, on every process, if there are too few for all.
        """
        if self.processes == 1:
            return np.arange(people), 0
        order = np.random.default_rng(self.seed).permutation(people)
        held = min(max(1, int(people * self.holdout)), self.most)
        if people - held < self.processes:
            raise ValueError(f"{people} turned-down training rows are too few for {self.processes} processes")
        return np.concatenate([order[:held], order[held + self.process :: self.processes]]), held
