"""The benchmark of score against training time measures each budget once, for both configurations."""

import json
from pathlib import Path

import pytest

from bench import wall_clock


def test_a_point_is_measured_once_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, picture = tmp_path / "wall-clock.jsonl", tmp_path / "picture.png"
    small = ["data.n_rows=400", "classifier=logistic", "training.steps=2", "training.validation_pairs=16", "threads=1"]
    argv = ["--data", "moons", "--factuals", "10", "--minutes", "0.1", "5", "--set", *small]
    argv += ["--out", str(out), "--picture", str(picture)]
    wall_clock.main(argv)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    asked = [(row["configuration"], row["minutes"]) for row in rows]
    assert asked == [(name, minutes) for name in wall_clock.CONFIGURATIONS for minutes in (0.1, 5.0)]
    for row in rows:
        assert row["lead"] == pytest.approx(row["score"] - row["nearest"])
        assert 1 <= row["steps"] <= 2 and row["training_seconds"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(wall_clock, "fit", None)
    wall_clock.main(argv)
    assert len(out.read_text().splitlines()) == len(rows)
