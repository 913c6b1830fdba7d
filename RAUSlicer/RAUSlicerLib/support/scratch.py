"""Folders for work in progress: each is gone with its owner, and what a killed owner left goes when the next one is made.

Beside each folder lies a lock file that its owner holds. The operating system lets go of it when the owner ends, however it ends, so that
nobody has to guess from process numbers or times who is still there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

# What all that this library keeps beside a user's files begins with.
PREFIXES = (".rauslicer-", ".adding-", ".composing-", ".saving-")
# A folder that is about to be replaced waits in the scratch folder under its own name with this ending: see `manifest.replace_folder`.
BEFORE = ".before"

_LOCK = ".lock"
# Folders of versions that had no locks; none of them was in use for so long.
_OLD_SECONDS = 2 * 24 * 3600
_OLD_NAME = re.compile(r"(\d+-)?[a-z0-9_]{8}")
# In which folders this process has looked for what dead owners left, and for which prefixes: they may hold thousands of files.
_tidied: set[tuple[str, str]] = set()
# A second lock of one process may be granted where locks are those of a network disk, so its own folders are known by name.
_own: set[str] = set()


class ScratchFolder:
    """A folder only this user can read. It is removed by ``close``, at the end of a ``with``, at garbage collection or with the process.

    Args:
        parent: Where it is made. What dead owners left there goes before the first one that this process makes in it.
        prefix: What its name begins with.

    Raises:
        OSError: the operating system refuses.
    """

    def __init__(self, parent: Path, prefix: str = PREFIXES[0]) -> None:
        if (place := (str(parent.absolute()), prefix)) not in _tidied:
            remove_abandoned(parent, {*PREFIXES, prefix})
            _tidied.add(place)
        self.path, lock = _make(parent, prefix)
        self._finalizer = weakref.finalize(self, _end, self.path, lock)

    def close(self) -> None:
        """Remove it now."""
        self._finalizer()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def remove_abandoned(parent: Path, prefixes: Iterable[str] = PREFIXES) -> None:
    """Remove the scratch folders in ``parent`` whose owners are gone; what can't be removed or is still held is left alone."""
    with contextlib.suppress(OSError):
        entries = sorted(parent.iterdir())
        names = {entry.name for entry in entries}
        for entry in entries:
            prefix = next((prefix for prefix in prefixes if entry.name.startswith(prefix)), None)
            if prefix is None:
                continue
            if entry.name.endswith(_LOCK):
                _remove_if_dead(entry)
            elif entry.name + _LOCK not in names and _OLD_NAME.fullmatch(entry.name.removeprefix(prefix)) and _is_old(entry):
                _remove(entry)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        path = _lock_of(folder)
        _own.add(str(path))
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except BaseException:
            _own.discard(str(path))
            raise
        try:
            # Between its making and its locking somebody may have taken it for a dead owner's.
            if _hold(lock, without_locks=True) and _is_at(lock, path):
                folder.mkdir(mode=0o700)
                return folder, lock
        except BaseException:
            _end(folder, lock)
            raise
        _end(folder, lock)


def remove(folder: Path) -> None:
    """Remove a scratch folder and its lock file for its owner; what is gone already is no error."""
    _remove(folder)
    with contextlib.suppress(OSError):
        # A folder that could not be removed keeps its lock file, so that somebody else removes it later.
        if not folder.exists():
            _lock_of(folder).unlink()


def _end(folder: Path, lock: int) -> None:
    _remove(folder)
    with contextlib.suppress(OSError):
        os.close(lock)
    remove(folder)
    _own.discard(str(_lock_of(folder)))


def _remove_if_dead(path: Path) -> None:
    if str(path) in _own or path.is_symlink():
        return
    folder = path.with_name(path.name.removesuffix(_LOCK))
    with contextlib.suppress(OSError):
        lock = os.open(path, os.O_RDWR)
        try:
            dead = _hold(lock) and _is_at(lock, path)
            if dead:
                _remove(folder)
        finally:
            os.close(lock)
        if dead and not folder.exists():
            path.unlink()


def _remove(folder: Path) -> None:
    """Remove a scratch folder; what it was about to replace goes back to its place if nothing is there."""
    with contextlib.suppress(OSError):
        for before in folder.glob(f"*{BEFORE}"):
            place = folder.with_name(before.name.removesuffix(BEFORE))
            if not place.exists():
                before.rename(place)
    shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except OSError:
        return False


def _is_old(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and time.time() - folder.stat().st_mtime > _OLD_SECONDS


def _hold(lock: int, *, without_locks: bool = False) -> bool:
    """Take a lock, without waiting; False if somebody has it. On a file system that has no locks the answer is ``without_locks``."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return without_locks and error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True
