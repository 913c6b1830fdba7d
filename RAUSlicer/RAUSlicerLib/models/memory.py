"""How much memory is free, on this machine and on its GPU."""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that a model could take on a device now; None where the system doesn't tell."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type == "mps":
        # The GPU of an Apple computer has no memory of its own: what the system recommends may be more than is free.
        mine = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        free_here = _free_here()
        return mine if free_here is None else min(mine, free_here)
    return _free_here()


def _free_here() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration, AttributeError, IndexError, subprocess.SubprocessError):
        # Not by comparing, of which a type checker believes to know the answer.
        measure = {"linux": _linux, "win32": _windows, "darwin": _macos}.get(sys.platform)
        if measure is not None:
            return measure()
    return None


def _linux() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError):
        # A container may be given less than the machine has.
        most, used = (Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        if most != "max":
            free = min(free, max(int(most) - int(used), 0))
    return free


def _windows() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "free_page", "virtual", "free_virtual", "extended")),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.free)


def _macos() -> int:
    text = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    page = int(re.findall(r"page size of (\d+)", text)[0])
    pages = [int(re.findall(rf"{name}:\s+(\d+)", text)[0]) for name in ("Pages free", "Pages inactive", "Pages speculative")]
    return page * sum(pages)
