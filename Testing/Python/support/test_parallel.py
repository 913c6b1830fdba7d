"""Work side by side: in order, at the same time, each with its share of the threads, and errors are not lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from RAUSlicerLib.support.parallel import side_by_side


@pytest.fixture(autouse=True, params=[2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as most laptops have at least, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_answers_are_in_the_order_of_the_tasks():
    assert side_by_side([partial(int, number) for number in range(20)]) == list(range(20))


def test_two_run_at_a_time():
    barrier = threading.Barrier(2)
    # Each waits for the other: one after the other, the first would wait in vain.
    assert sorted(side_by_side([partial(barrier.wait, 20), partial(barrier.wait, 20)])) == [0, 1]


@pytest.mark.parametrize(("threads", "each"), [(2, 1), (4, 2), (5, 2)], indirect=["threads"])
def test_tasks_share_the_threads_and_give_them_back(threads, each):
    assert side_by_side([torch.get_num_threads] * 4) == [each] * 4
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_a_single_thread_does_one_after_the_other():
    here = threading.get_ident()
    assert side_by_side([threading.get_ident] * 3) == [here] * 3


def test_where_it_does_not_pay_one_is_done_after_the_other():
    here = threading.get_ident()
    assert side_by_side([threading.get_ident] * 3, when=False) == [here] * 3


def test_a_task_with_one_thread_divides_nothing_further():
    def nested():
        return side_by_side([threading.get_ident] * 2) == [threading.get_ident()] * 2

    assert side_by_side([nested, nested]) == [True, True]


def test_an_error_is_raised_after_the_others_have_ended():
    ended = []

    def fails():
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        side_by_side([fails, partial(ended.append, 1), partial(ended.append, 2)])
    assert ended == [1, 2]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")], ids=str
)
def test_threads_do_not_wait_in_a_loop_for_long_unless_the_user_wants_it(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import os, sys, RAUSlicerLib; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], env=environment | given, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [expected, "False"]
