"""Kill a generation by two processes again and again, and compare what the last one ends with to an undisturbed one.

python -m bench.faults RUN --people people.csv --rows 200000 --kills 5

RUN is a run folder that keeps its classifier; the people are repeated until there are as many as asked for. Fails where
the answers, or what is reported, are not those of one undisturbed process. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]

from recourse_gen.data import tables

TWO = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"),
)
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def started(launcher: Sequence[str], run: Path, folder: Path, name: str, options: Sequence[str]) -> subprocess.Popen:
    """`recourse-gen generate` over the table of a folder."""
    outputs = ("--output", f"{name}.parquet", "--report", f"{name}-report.parquet")
    command = [sys.executable, *launcher, "-m", "recourse_gen", "generate", str(run.resolve())]
    command += ["--input", "people.parquet", "--id", "person", "--quiet", *outputs, *options]
    with (folder / f"{name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=log)


def kill(running: subprocess.Popen) -> None:
    """The launcher and its processes, which are in sessions of their own and would go on without it."""
    all_of_it = [*psutil.Process(running.pid).children(recursive=True), running]
    for process in all_of_it:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    running.wait()
    psutil.wait_procs(all_of_it[:-1])


def parts(folder: Path) -> int:
    """How many groups are finished."""
    return len(list(folder.glob("found.parquet.parts/*-found.parquet")))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--people", type=Path, required=True, help="a table in the columns of the run")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--group", type=int, default=5000, help="rows in a group of the Parquet file")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.epilog = "what comes after -- are options of recourse-gen generate"
    words = [*(sys.argv[1:] if argv is None else argv), "--"]
    own, options = words[: words.index("--")], words[words.index("--") + 1 : -1]
    arguments = parser.parse_args(own)
    moments = random.Random(arguments.seed)
    table = tables.read_table(arguments.people, least=1)
    people = table.iloc[np.arange(arguments.rows) % len(table)].assign(person=range(arguments.rows))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        people.to_parquet(folder / "people.parquet", index=False, row_group_size=arguments.group)
        begun = time.monotonic()
        assert started((), arguments.run, folder, "due", options).wait() == 0, (folder / "due.log").read_text()
        undisturbed = time.monotonic() - begun
        finished = [0]
        for _ in range(arguments.kills):
            running = started(TWO, arguments.run, folder, "found", options)
            while running.poll() is None and parts(folder) == finished[-1]:  # starting takes longer than some tables
                time.sleep(0.05)
            try:
                running.wait(moments.uniform(0.0, 0.5) * undisturbed / arguments.kills)
            except subprocess.TimeoutExpired:
                kill(running)
            finished.append(parts(folder))
        last = started(TWO, arguments.run, folder, "found", options).wait()
        assert last == 0, (folder / "found.log").read_text()
        for kind in ("", "-report"):
            due, found = (pd.read_parquet(folder / f"{name}{kind}.parquet") for name in ("due", "found"))
            pd.testing.assert_frame_equal(found, due)
        report = pd.read_parquet(folder / "found-report.parquet")
    assert sorted(report["factual"]) == list(range(arguments.rows)), "everybody is told of once"
    counts = report["status"].value_counts().to_dict()
    told = {"rows": arguments.rows, "finished_groups": finished[1:], "statuses": counts, "seconds_alone": undisturbed}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
