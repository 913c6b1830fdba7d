"""The temporary folder through which arrays go: private, gone with its owner, and the only place that a worker writes to."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ..support.scratch import ScratchFolder, remove
from .protocol import ProtocolError

TOKEN_VARIABLE = "RAUSLICER_EXCHANGE_TOKEN"
"""The environment variable by which a client tells its worker what is written in the folder that they share."""

LONGEST_PATH = 4096

_PREFIX = "rauslicer-exchange-"
_TOKEN = "token"
_SHOWN = 300


class ExchangeFolder:
    """A folder only this user can read, removed by ``close``, at garbage collection, or at the end of the interpreter.

    Folders of owners that were killed are removed as ``scratch`` does it. ``token`` is written inside: a worker that was told the same
    text knows that its own client has made the folder.

    Raises:
        OSError: the operating system refuses, for example because the disk is full.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(parent) if parent is not None else Path(tempfile.gettempdir())
        self._scratch = ScratchFolder(root, _PREFIX)
        self.path = self._scratch.path
        self.token = secrets.token_hex(32)
        try:
            (self.path / _TOKEN).write_text(self.token, encoding="ascii")
        except OSError:
            self.close()
            raise

    def new_run(self) -> Path:
        """A fresh folder for one run."""
        return Path(tempfile.mkdtemp(prefix="run-", dir=self.path))

    def close(self) -> None:
        self._scratch.close()


class Exchange:
    """A worker's side of the folder: nothing is written elsewhere.

    Args:
        folder: What the client calls it.
        token: What the client has said when it started the worker.

    Raises:
        ProtocolError: it is no folder that this client has made for this worker.
    """

    def __init__(self, folder: str, token: str | None) -> None:
        self._token = token
        self.path = Path(folder)
        reason = self._why_not()
        if reason:
            raise ProtocolError(
                f"The exchange folder {shortened(folder)} is refused: {reason}.",
                "Arrays go through a temporary folder that the client makes for its worker. The worker writes there and nowhere else, "
                "and removes it at the end.",
                "Restart the worker.",
            )

    def holds(self, path: str) -> bool:
        """Whether a path leads to something inside, whatever links it goes through; the token is none of it."""
        try:
            folder, found = self.path.resolve(), Path(path).resolve()
            return folder in found.parents and found != folder / _TOKEN
        except (OSError, RuntimeError, ValueError):
            return False

    def remove(self) -> None:
        """Remove it; somebody else's folder that has taken its name is left alone."""
        if self._why_not() is None:
            remove(self.path)

    def _why_not(self) -> str | None:
        path = self.path
        if self._token is None or not path.is_absolute() or not path.name.startswith(_PREFIX):
            return "it is none that this client has made"
        try:
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                return "it is no folder"
            if os.name != "nt" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
                return "it is not private"
            inside = (path / _TOKEN).read_bytes()[: len(self._token) + 1] if (path / _TOKEN).is_file() else b""
        except (OSError, ValueError):
            return "it can't be looked into"
        return None if hmac.compare_digest(inside, self._token.encode()) else "it is none that this client has made"


def is_path(value: object) -> bool:
    """Whether a value of a message can name a file at all."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATH or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str) -> str:
    """A text of a message as an error repeats it."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
