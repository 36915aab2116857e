"""Work shared by rows: the same answers, on one core each, in any process."""

import os
import threading

import numpy as np
import pytest
import torch

from recourse_gen.workers import alone, shared


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, 300, 1500])
def test_rows_are_shared_and_come_back_in_order(size: int, threads: int) -> None:
    rows, used = np.arange(3.0 * size).reshape(size, 3), set()

    def total(some: np.ndarray) -> np.ndarray:
        used.add(threading.current_thread().name)
        return some.sum(1)

    np.testing.assert_array_equal(shared(total, rows, threads), rows.sum(1))
    assert len(used) <= min(threads, max(1, size // 256)) and threading.current_thread().name not in used


def test_only_the_workers_are_on_one_core() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [alone(torch.get_num_threads) for _ in range(3)] == [1, 1, 1]
        alone(lambda: torch.randn(400, 400) @ torch.randn(400, 400))
        assert alone(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 3
        theirs: list[int] = []
        other = threading.Thread(target=lambda: theirs.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert theirs == [3]
    finally:
        torch.set_num_threads(before)


def test_what_is_raised_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        alone(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shared(lambda rows: rows / (1 // 0), np.ones((600, 2)), 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_has_workers_of_its_own() -> None:
    assert alone(os.getpid) == os.getpid()
    child = os.fork()
    if not child:
        os._exit(0 if alone(os.getpid) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
