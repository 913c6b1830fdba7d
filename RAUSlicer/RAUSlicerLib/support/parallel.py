"""Independent pieces of work side by side on a processor's cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Answer = TypeVar("Answer")

# More pieces at a time would take more memory; on a processor of many cores each of them has several.
_AT_ONCE = 2


def side_by_side(tasks: Sequence[Callable[[], Answer]], *, when: bool = True) -> list[Answer]:
    """What some tasks return, in their order; two of them run at a time, each with half of torch's threads.

    Small operations leave a second core idle for much of their time, and so does all that isn't torch. Tasks must not share what they
    change; modes of torch, as of gradients, they have to set themselves.

    Args:
        tasks: What to do.
        when: Whether that pays; otherwise, and with a single thread, it is done one after the other.

    Raises:
        BaseException: of the first task that raised one; the others are run to their end.
    """
    threads = torch.get_num_threads()
    if not when or threads < _AT_ONCE or len(tasks) < 2:
        return [task() for task in tasks]
    try:
        with ThreadPoolExecutor(_AT_ONCE, initializer=torch.set_num_threads, initargs=(threads // _AT_ONCE,)) as pool:
            return [work.result() for work in [pool.submit(task) for task in tasks]]
    finally:
        # A thread's number is its own, but libraries beneath torch know one for all.
        torch.set_num_threads(threads)
