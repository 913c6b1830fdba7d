"""The temporary folder through which arrays go: private, and gone when its owner is."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

_PREFIX = "rauslicer-exchange-"
_STALE_SECONDS = 2 * 24 * 3600


class ExchangeFolder:
    """A folder only this user can read, removed by ``close``, at garbage collection, or at the end of the interpreter.

    Folders of owners that were killed are removed when the next one is made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(parent) if parent is not None else Path(tempfile.gettempdir())
        remove_abandoned(root)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root))
        self._finalizer = weakref.finalize(self, remove, self.path)

    def new_run(self) -> Path:
        """A fresh folder for one run."""
        return Path(tempfile.mkdtemp(prefix="run-", dir=self.path))

    def close(self) -> None:
        self._finalizer()


def remove(folder: Path) -> None:
    """Remove a folder and all that is in it; what is gone already is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Remove exchange folders whose owner no longer runs."""
    for folder in root.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and _abandoned(folder, int(owner)):
            remove(folder)


def _abandoned(folder: Path, owner: int) -> bool:
    if os.name == "nt":
        # Windows has no harmless question about a process (signal 0 would end it), so age must do.
        try:
            return time.time() - folder.stat().st_mtime > _STALE_SECONDS
        except OSError:
            return False
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
