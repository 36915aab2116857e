"""The sensitivity benchmark turns one dial at a time, measures each point once, and draws what it measured."""

from pathlib import Path

import pytest

from bench import sensitivity
from bench.cells import read


def test_every_point_is_measured_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "DIALS", {"cost_weight": (2, 20), "candidates": (1, 8), "temperature": (1,)})
    out, written = tmp_path / "sensitivity.jsonl", tmp_path / "sensitivity.md"
    command = ["--data", "moons", "--backbone", "exact", "--factuals", "20", "--out", str(out), "--page", str(written)]
    command += ["--set", "threads=1", "classifier=logistic", "data.n_rows=400", "generate.audit=false"]
    command += ["generate.sparsify=false", "generate.select=cheapest"]
    sensitivity.main(command)
    rows = {(row["dial"], row["value"]): row for row in read(out)}
    assert list(rows) == [
        ("cost_weight", 2),
        ("cost_weight", 20),
        ("candidates", 1),
        ("candidates", 8),
        ("temperature", 1),
    ]
    assert rows["cost_weight", 20]["cost"] < rows["cost_weight", 2]["cost"]
    # Of more candidates, which begin with the same ones, the cheapest is no dearer, and nobody loses an answer.
    one, eight = rows["candidates", 1], rows["candidates", 8]
    assert one["found"] <= eight["found"] and eight["cost"] <= one["cost"] + (one["found"] < eight["found"])
    for row in rows.values():
        assert row["lead"] == pytest.approx(row["score"] - row["nearest"])
    text = written.read_text()
    assert all(f"| {heading} |" in text for heading in ("λ", "k, candidates in all", "temperature"))
    assert "python -m bench.sensitivity --data moons" in text
    assert (tmp_path / "sensitivity-moons.png").read_bytes()[:4] == b"\x89PNG"

    before = out.read_bytes()
    monkeypatch.setattr(sensitivity, "fit", None)  # nothing is fitted again
    sensitivity.main(command)
    assert out.read_bytes() == before and written.read_text() == text


def test_the_number_of_candidates_is_exact() -> None:
    assert sensitivity.turned("candidates", 16.0) == {"candidates": 16, "max_candidates": 16}
    assert sensitivity.turned("temperature", 0.5) == {"temperature": 0.5}
