"""Cells of a benchmark: their file survives a crash, and says nothing of where data lie."""

from pathlib import Path

import pytest

from bench import cells


def test_a_file_that_does_not_exist_holds_no_cell(tmp_path: Path) -> None:
    assert cells.read(tmp_path / "none.jsonl") == []


def test_cells_come_back_in_order(tmp_path: Path) -> None:
    path, rows = tmp_path / "new" / "cells.jsonl", [{"seed": seed, "score": seed / 3, "name": "λ"} for seed in range(3)]
    for row in rows:
        cells.append(path, row)
    assert cells.read(path) == rows


def test_a_torn_last_line_is_neither_read_nor_kept(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    cells.append(path, {"seed": 0})
    whole = path.read_bytes()
    for torn in (b'{"seed": 1, "sco', b'{"seed": 1}', '{"name": "λ'.encode()[:-1]):
        path.write_bytes(whole + torn)
        assert cells.read(path) == [{"seed": 0}]
        cells.append(path, {"seed": 2})
        assert cells.read(path) == [{"seed": 0}, {"seed": 2}]


def test_the_command_hides_places() -> None:
    for given in (["--folder", "/somewhere"], ["--folder=/somewhere"]):
        said = cells.command("bench.paper", ["--data", "heloc", *given, "--set", "a b=1"])
        assert "somewhere" not in said and "DIR" in said and said.endswith("--set 'a b=1'")
        places = ["--out", "/somewhere/out.jsonl", "--page=/somewhere/page.md"]
        assert cells.command("bench.paper", [*places, "--data", "heloc", *given, "--set", "a b=1"]) == said


@pytest.mark.parametrize("data", ["compas", "moons"])
def test_only_the_papers_data_are_read_from_its_folder(data: str) -> None:
    config = cells.configure(cells.world_settings(data, 3, "DIR"))
    assert config["seed"] == 3 and config["data"]["name"] == data
    assert config["data"]["folder"] == ("DIR" if data == "compas" else None)
