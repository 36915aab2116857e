"""Trainings in two or three processes, each of which leaves its weights and losses: `python tests/launched.py FOLDER`.

Forked, so that imports cost their seconds once.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import debug_launcher
from torch.multiprocessing import ProcessExitedException
from trainings import TINY, small_pairs, train

from recourse_gen import training

TOTAL = 64  # pairs per update, of all processes
LONG: dict[str, Any] = {"steps": 100, "validation_pairs": 256, "validate_every": 20, "checkpoint_every": 3600.0}


def work(name: str, folder: Path, kill_at: int, options: dict[str, Any]) -> None:
    """Train on one process; the second one kills itself in step `kill_at`."""
    torch.set_num_threads(1)
    rank, losses, update = training.processes().process_index, [], training._update

    def observed(*args: Any) -> torch.Tensor:
        losses.append(update(*args))
        if rank == 1 and len(losses) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses[-1]

    training._update = observed
    try:
        model, trained = train(name, small_pairs(), folder, **options)
    except ValueError as error:
        (folder / f"refusal{rank}.txt").write_text(str(error))
        return
    safetensors.torch.save_file(dict(model.state_dict()), folder / f"weights{rank}.safetensors")
    record = {"losses": [loss.item() for loss in losses], "best_loss": trained.best_loss}
    (folder / f"process{rank}.json").write_text(json.dumps(record))
    training.meet()
    training.processes().destroy_process_group()


def launch(name: str, folder: Path, *, kill_at: int = 0, processes: int = 2, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    debug_launcher(work, (name, folder, kill_at, options), num_processes=processes)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for each in TINY:
        launch(each, out / each, **LONG, batch_size=TOTAL // 2)
    launch("ar", out / "straight", processes=3)
    try:
        launch("ar", out / "killed", kill_at=13, processes=3)
    except ProcessExitedException:
        launch("ar", out / "killed", resume=True, processes=3, seed=1)
        launch("ar", out / "killed", resume=True, processes=1)
        launch("ar", out / "killed", resume=True, processes=3)
