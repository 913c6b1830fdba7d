"""How much of the machine a run may take: threads and memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Of what is free, so much is left to the rest of the machine.
_SHARE = 0.95


def use_threads(count: int | None) -> None:
    """Let networks and image filters use so many threads, but no more than there are processors; None leaves them as they are."""
    if count is None:
        return
    count = min(count, os.cpu_count() or 1)
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(count)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


@contextlib.contextmanager
def limited_memory(most_mb: int | None) -> Iterator[None]:
    """Within it, memory beyond what is free (or beyond ``most_mb`` for this process) is refused, where the system can do so (Linux).

    Without a limit, Linux grants more than it has and then kills the process, of which nobody learns why; refused memory is an error that
    can be answered by trying smaller.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    data, resident = _kilobytes("/proc/self/status", "VmData"), _kilobytes("/proc/self/status", "VmRSS")
    room = _available()
    if most_mb is not None:
        room = min(room, most_mb * 1024 - resident)
    limit = (data + max(room, 0)) * 1024
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _available() -> int:
    """Free memory in kB, of the machine and of the container around this process."""
    free = int(_kilobytes("/proc/meminfo", "MemAvailable") * _SHARE)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if most != "max":
            free = min(free, int((int(most) - int(used)) // 1024 * _SHARE))
    return max(free, 0)


def _kilobytes(path: str, key: str) -> int:
    with open(path, encoding="ascii", errors="replace") as lines:
        return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
