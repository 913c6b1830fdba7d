"""Too little memory or disk: how much there is, the ways in which libraries say that it ran out, and doing with less.

Needs no torch, so that whoever starts or reports on runs knows it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..errors import ModelError, OutOfMemory, OutputError, RAUSlicerError
from ..progress import CancelToken

Answer = TypeVar("Answer")

RETRY_STAGE = "retrying with less memory"
# How often a run is made smaller: each time it matches on a quarter of the voxels.
SMALLEST = 2
# Of what is free, so much is left to the rest of the machine.
_SHARE = 0.95
# What torch (CPU, CUDA, Apple, Windows), cuBLAS and cuDNN, oneDNN, OpenBLAS, numpy, ITK, C++ and the systems say. A "primitive descriptor"
# that can't be made is an operation that oneDNN lacks, and a "static TLS block" is a matter of the order of libraries.
_WORDS = re.compile(
    r"out of memory|not enough memory|insufficient memory|memory exhausted|paging file is too small|STATUS_ALLOC_FAILED|bad_alloc"
    r"|bad allocation|(can't|cannot|could not|couldn't|failed to|unable to) (allocate|mmap|map segment)(?! memory in static TLS)"
    r"|memory allocation (still )?failed"
    r"|could not create a (primitive|memory)(?! descriptor)|can't start new thread|os error 12\b",
    re.IGNORECASE,
)
# In which kinds of error these words are a library's and not a user's.
_LIBRARIES = (RuntimeError, OSError, SystemError, ImportError)
_BY_NAME = ("OutOfMemoryError", "SafetensorError")
# ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_COMMITMENT_LIMIT
_NO_MEMORY_ON_WINDOWS = (8, 14, 1455)
# A full disk, a used up quota, a file that is longer than it may be; on Windows also ERROR_HANDLE_DISK_FULL, DISK_FULL, QUOTA_EXCEEDED.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_ON_WINDOWS = (39, 112, 1295)
# Limits, what is used, and what of that the system would give back at once: files that were read.
_Names = tuple[tuple[str, ...], str, str]
_VERSION_2: _Names = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_VERSION_1: _Names = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
# What a process that the system has killed for its memory ends with: by itself, through a shell, in a container.
_KILLED = (-9, 137)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; every library has its own way.

    A model that can't be read or a result that can't be written for want of memory counts; an input that can't be read does not, as its
    header may ask for an absurd size, and its own message says so.
    """
    if isinstance(error, OutOfMemory):
        return True
    if isinstance(error, RAUSlicerError):
        return isinstance(error, ModelError | OutputError) and error.__cause__ is not None and out_of_memory(error.__cause__)
    if isinstance(error, MemoryError) or type(error).__name__ == _BY_NAME[0]:
        return True
    if isinstance(error, OSError) and (error.errno == errno.ENOMEM or getattr(error, "winerror", None) in _NO_MEMORY_ON_WINDOWS):
        return True
    known = isinstance(error, _LIBRARIES) or type(error).__name__ in _BY_NAME
    return known and says_so(str(error))


def says_so(text: str) -> bool:
    """Whether a library's words say that memory ran out."""
    return _WORDS.search(text) is not None


def explained(error: BaseException, tries: int = 1) -> OutOfMemory:
    """What a user is told where memory ran out, after so many tries."""
    tried = f"The run was tried {tries} times, on fewer voxels each time" if tries > 1 else "What was done was stopped"
    return OutOfMemory(
        "The computer ran out of memory.",
        f"{tried} ({type(error).__name__}).",
        "Close other programs, choose fewer structures, crop the target volume, or raise the memory limit.",
    )


def no_room(error: BaseException) -> bool:
    """Whether an error of the operating system says that a disk has no room left, or that no more may be used of it."""
    return isinstance(error, OSError) and (error.errno in _NO_ROOM or getattr(error, "winerror", None) in _NO_ROOM_ON_WINDOWS)


def explained_room(error: BaseException) -> OutputError:
    """What a user is told where there was no room for what goes through temporary files."""
    return OutputError(
        "The temporary folder can't be written: its disk is full.",
        f"The system says: {getattr(error, 'strerror', None) or error}.",
        "Free some space, or set the TMPDIR environment variable to a folder on another disk, and run again.",
    )


def ended_for_memory(code: int | None, last: Sequence[str], kills: tuple[int | None, int | None] = (None, None)) -> str | None:
    """Why a process that ended by itself is known to have had too little memory; None where that is not known.

    Args:
        code: How it ended.
        last: What it and its libraries printed last: some end a process that can't have memory, as OpenBLAS does, or C++ itself.
        kills: What `kills_for_memory` said before it was started and says now.
    """
    if code not in (None, 0) and any(says_so(line) for line in last):
        return "A library could have no more memory and ended the process."
    before, now = kills
    if code in _KILLED and before is not None and now is not None and now > before:
        return "The operating system killed it because memory ran out."
    return None


def kills_for_memory(root: Path = Path("/")) -> int | None:
    """How many processes the system has killed for want of memory so far, in containers too; None where it doesn't tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/vmstat").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return None


def free_here(root: Path = Path("/")) -> int | None:
    """Bytes that this process could take now, of the machine's memory and of what it may have of it; None where the system doesn't tell.

    ``root`` is where Linux's files are looked for.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration, AttributeError, IndexError, subprocess.SubprocessError):
        # Not by comparing, of which a type checker believes to know the answer.
        measure = {"linux": lambda: _linux(root), "win32": _windows, "darwin": _macos}.get(sys.platform)
        if measure is not None:
            return measure()
    return None


def _linux(root: Path) -> int:
    free = 1024 * _kilobytes(root / "proc/meminfo", "MemAvailable")
    return max(min([free, *_group_rooms(root), *_own_rooms(root)]), 0)


def _group_rooms(root: Path) -> Iterator[int]:
    """What is left of the limits of the control groups that this process is in, of both versions, up to their roots.

    A container has less than the machine, and may be in a group of a group.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for mount in mounts:
                beyond = mount.index("-")
                kind, given = mount[beyond + 1], mount[beyond + 3].split(",")
                if kind == "cgroup2" and not controllers:
                    names = _VERSION_2
                elif kind == "cgroup" and "memory" in controllers.split(",") and "memory" in given:
                    names = _VERSION_1
                else:
                    continue
                top = root / mount[4].lstrip("/")
                inside = PurePosixPath(path)
                # What a container sees of the groups may begin at its own.
                own = inside.relative_to(mount[3]) if inside.is_relative_to(mount[3]) else PurePosixPath()
                for part in (own, *own.parents):
                    yield from _room(top / part, *names)


def _room(group: Path, limits: Sequence[str], usage: str, given_back: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        used = int((group / usage).read_text(encoding="ascii"))
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            used -= int(next(line for line in lines if line.startswith(f"{given_back} ")).split()[1])
        for name in limits:
            # The word "max" is no number, and there is no limit then; nor has the root group a file of that name.
            with contextlib.suppress(OSError, ValueError):
                yield int((group / name).read_text(encoding="ascii")) - used


def _own_rooms(root: Path) -> Iterator[int]:
    """What is left of the limits that a shell or a batch system has set for this process (``ulimit -v``, ``-d``)."""
    import resource

    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            with contextlib.suppress(OSError, ValueError, StopIteration):
                yield most - 1024 * _kilobytes(root / "proc/self/status", used)


def _kilobytes(path: Path, key: str) -> int:
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


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


@contextlib.contextmanager
def limited_memory(most_mb: int | None = None) -> Iterator[None]:
    """Within it, memory beyond what is free (or beyond ``most_mb`` for this process) is refused, where the system can do so (Linux).

    Without a limit, Linux grants more than it has and then kills the process, of which nobody learns why; refused memory is an error that
    can be answered by trying smaller.
    """
    free = free_here() if sys.platform == "linux" else None
    if free is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    data, resident = (1024 * _kilobytes(Path("/proc/self/status"), key) for key in ("VmData", "VmRSS"))
    room = int(free * _SHARE)
    if most_mb is not None:
        room = min(room, most_mb * 2**20 - resident)
    limit = data + max(room, 0)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def with_less(
    run: Callable[[str, int], Answer],
    device: str,
    *,
    uses_gpu: Callable[[str], bool],
    again: Callable[[], None],
    cancel: CancelToken | None = None,
) -> tuple[Answer, list[str]]:
    """What ``run`` returns; where memory runs out, on the CPU in place of a GPU, then on fewer and fewer voxels.

    Args:
        run: Is given the device and how often it should be made smaller.
        device: As for ``device.choose_device``.
        uses_gpu: Whether such a device is a GPU with memory of its own.
        again: Called before each further try, to let go of what the last one held.
        cancel: After a cancel nothing is tried again.

    Returns:
        Its answer, and what the user should know of how it came about.

    Raises:
        OutOfMemory: however small, it needs more than there is.
    """
    economy = 0
    notes: list[str] = []
    while True:
        try:
            return run(device, economy), notes
        except Exception as error:
            if not out_of_memory(error):
                raise
            on_gpu = uses_gpu(device)
            where = "GPU" if on_gpu else "CPU"
            print(f"Memory ran out on the {where} (economy {economy}): {type(error).__name__}", file=sys.stderr)
            if (cancel is not None and cancel.cancelled) or (economy == SMALLEST and not on_gpu):
                raise explained(error, economy + 1) from None
            # The traceback holds the frames of the run, and they its arrays.
            error.__traceback__ = None
        if on_gpu:
            device, notes = "cpu", ["The GPU's memory ran out, so the run was repeated on the CPU, which takes longer."]
        else:
            economy += 1
            notes = [note for note in notes if "GPU" in note]
            notes.append(f"Memory ran out, so the run was repeated on {4**economy} times fewer voxels: outlines may be less exact.")
        again()
