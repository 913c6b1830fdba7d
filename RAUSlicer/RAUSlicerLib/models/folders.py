"""Where a user's models lie, and what was found of their large files when they were last read."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ..errors import OutputError
from ..support import strict_json
from ..support.outputs import write_json

FOLDER_VARIABLE = "RAUSLICER_MODELS"
# Hidden, so that no list of models takes it for one.
STAGING = ".downloading-"
_RECORD = ".checked.json"
_MOST = 500


def user_folder() -> Path:
    """Where added models live: ``RAUSLICER_MODELS``, or the platform's folder for a user's data."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "rauslicer" / "models"


def staging_folder(repository: str) -> Path:
    """Where a download from the hub lies until it is whole."""
    return user_folder() / f"{STAGING}{repository.replace('/', '--')}"


def known_checksum(path: Path) -> str | None:
    """The SHA-256 that a file had when it was last read whole, if it has not been touched since; None if it must be read."""
    entry = _record().get(_which(path))
    return entry[2] if entry is not None and entry[:2] == _stamp(path) else None


def remember_checksum(path: Path, checksum: str) -> None:
    """Note a file's SHA-256: hashing 16 GB takes half a minute, at every start. Nothing happens where it can't be written."""
    with contextlib.suppress(OSError, OutputError):
        home = user_folder()
        record = dict(list(_record().items())[-_MOST:])
        record[_which(path)] = [*_stamp(path), checksum]
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / _RECORD, "record", record, indent=1)


def _record() -> dict[str, list]:
    try:
        record = strict_json.load(user_folder() / _RECORD)
    except (OSError, ValueError):
        return {}
    sound = isinstance(record, dict) and all(isinstance(entry, list) and len(entry) == 3 for entry in record.values())
    return record if sound else {}


def _which(path: Path) -> str:
    # Not its path: models are moved into place once they are whole.
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
