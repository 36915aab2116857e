"""Timings of one run become ratios, a table and a picture; the floor counts what it says."""

import json
from pathlib import Path

import pytest
import torch

from backbones.layers import ColumnHead, HeadColumn
from bench import floor, report

MACHINE = {"device": "cpu", "threads": 2, "flops": 1e11, "copied": 1e10}


def timing(what: str, seconds: float, **about: object) -> dict[str, object]:
    rows = about.get("batch", 100)
    assert isinstance(rows, int)
    return {"what": what, "rows": rows, "seconds": seconds, "p99": seconds, "rows_per_second": rows / seconds, **about}


RUN = {
    "machine": MACHINE,
    "results": [
        timing("sampling", 0.5, backbone="ar", batch=1000, candidates=10, steps=14),
        timing("sampling", 0.1, backbone="ar", batch=1, candidates=10, steps=14),
        timing("reference", 50.0, backbone="published", batch=1000, candidates=10, steps=14),
        timing("generate", 1.0, backbone="ar", batch=1000, candidates=10, sampling_seconds=0.25),
        timing("decoding", 0.2),
        timing("drawing pairs", 0.2, top_k=7.0),
    ],
}


def test_sampling_is_compared_with_the_reference_on_the_same_question() -> None:
    frame = report.results(RUN)
    assert frame["speedup"][0] == pytest.approx(100.0)
    assert frame["speedup"][2] == pytest.approx(1.0)
    assert frame["speedup"][[1, 3, 4, 5]].isna().all()


def test_generating_is_compared_with_the_sampling_that_was_timed_beside_it() -> None:
    kept = report.results(RUN)["kept"]
    assert kept[3] == pytest.approx(0.25)
    earlier = {**RUN, "results": [{**each, "sampling_seconds": None} for each in RUN["results"]]}
    assert report.results(earlier)["kept"][3] == pytest.approx(0.5)
    assert kept[[0, 1, 2, 4, 5]].isna().all()


def test_the_table_has_a_line_per_timing_and_leaves_the_unknown_empty() -> None:
    lines = report.table(report.results(RUN)).splitlines()
    assert len(lines) == 2 + len(RUN["results"])
    assert len({line.count("|") for line in lines}) == 1
    assert "| 2,000 |" in lines[2]
    assert "| 100 |" in lines[2]
    assert "nan" not in "".join(lines)
    assert "drawing pairs, K = 7" in lines[-1]


def test_the_command_prints_or_writes_a_page_with_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    report.main([str(path), "--short"])
    printed = capsys.readouterr().out
    assert "100 GFLOP/s" in printed
    assert "| `ar` | 100.0 ms | 500.0 ms |" in printed and "decoding" not in printed
    report.main([str(path), "--page", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "100 GFLOP/s" in page and "decoding" in page and "(page.png)" in page
    assert (tmp_path / "page.png").stat().st_size > 1000


def test_products_are_two_operations_per_multiplication() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert floor.products(lambda: left @ right + 1) == 2 * 3 * 5 * 7


def test_the_clock_runs_inside_the_network_only_and_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(floor.time, "perf_counter", lambda: float(next(now)))
    original, heads = HeadColumn.__call__, ColumnHead(torch.zeros(2, 3, 1), [3, 2], 4).columns()
    with floor.Clock(torch.device("cpu")) as clock:
        heads[0](torch.zeros(1, 4), torch.zeros(1, 3))
        next(now)  # a second outside
        heads[1](torch.zeros(1, 4), torch.zeros(1, 2))
    assert clock.seconds == 2.0
    with pytest.raises(KeyError), floor.Clock(torch.device("cpu")):
        raise KeyError
    assert HeadColumn.__call__ is original


def test_peak_memory_is_what_was_held_at_one_time() -> None:
    def call() -> None:
        first = torch.ones(1000, 1000)
        del first
        second = torch.ones(2000, 1000)
        third = second + 1
        del second, third

    assert floor.peak_memory(call, torch.device("cpu")) == pytest.approx(16e6, rel=0.01)
