"""The robustness benchmark measures every way of choosing once and shows what it measured."""

import json
from pathlib import Path

import pytest

from bench import robustness


def test_a_cell_is_measured_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(robustness, "REPEATS", 1)
    out = tmp_path / "robustness.jsonl"
    world = ["data=moons", "data.n_rows=400", "classifier=logistic", "evaluation.factuals=20"]
    command = [*world, "backbone=exact", "generate.candidates=16", "--choices", "audit", "no audit", "--out", str(out)]
    robustness.main(command)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["choice"] for row in rows] == ["audit", "no audit"]
    for row in rows:
        assert row["found"] == row["validity"] == 1
        assert all(0 <= row[key] <= 1 for key in robustness.COLUMNS if key in row and key not in ("cost", "n_changed"))
        assert {"seeds", "bootstraps", "mlp", "random_forest", "noise_0.01"} < set(row)
    assert rows[0]["noise_0.05"] < 1 or rows[1]["noise_0.05"] < 1
    table = capsys.readouterr().out
    assert "mlp" in table and "logistic" not in table
    assert len(table.splitlines()) == 4 and len({line.count("|") for line in table.splitlines()}) == 1
    monkeypatch.setattr(robustness, "cells", None)
    robustness.main(command)
    assert capsys.readouterr().out == table


def test_where_the_data_lie_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "cells", lambda config, wanted: [{"choice": wanted[0], "bootstraps": 1.0}])
    out = tmp_path / "robustness.jsonl"
    robustness.main(["data=heloc", "data.folder=/somewhere", "--choices", "audit", "--out", str(out)])
    assert json.loads(out.read_text())["settings"] == ["data=heloc", "data.folder=DIR"]
