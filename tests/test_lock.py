"""Two processes never work in one folder, and one that was killed keeps nobody out."""

import subprocess
import sys
from pathlib import Path

import pytest

from recourse_gen import lock

fcntl = pytest.importorskip("fcntl")
HOLD = "import sys, pathlib; from recourse_gen import lock; m = lock.alone(pathlib.Path(sys.argv[1])); m.__enter__()"


def test_the_second_is_refused_at_once_and_the_folder_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with lock.alone(tmp_path):
        for _ in range(2):
            with pytest.raises(ValueError, match=f"another process is at work in {tmp_path}"), lock.alone(tmp_path):
                pytest.fail("there are two")
    with lock.alone(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_made_goes_again_unless_something_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with pytest.raises(KeyboardInterrupt), lock.alone(folder):
        raise KeyboardInterrupt
    assert not folder.exists()
    with lock.alone(folder):
        (folder / "notes.txt").touch()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{HOLD}; print('here', flush=True); input()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "here\n"
        with pytest.raises(ValueError, match="another process"), lock.alone(tmp_path):
            pytest.fail("there are two")
        holder.kill()
    assert (tmp_path / lock.FILE).exists()
    with lock.alone(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_a_file_that_its_holder_has_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, times = fcntl.flock, iter([True])

    def late(descriptor: int, how: int) -> None:
        if next(times, False):
            (tmp_path / lock.FILE).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock.alone(tmp_path), pytest.raises(ValueError, match="another process"), lock.alone(tmp_path):
        pytest.fail("there are two")


def test_where_there_are_no_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unable)
    with lock.alone(tmp_path):
        assert tmp_path.exists()
    assert not any(tmp_path.iterdir())
