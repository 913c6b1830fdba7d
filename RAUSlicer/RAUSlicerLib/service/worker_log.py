"""What the worker prints, which is the log that users copy and send: where something happened and of what kind it was, nothing of data.

The texts of errors and warnings hold names of patients, files and structures: those of pydicom and highdicom repeat whole DICOM values.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import TextIO


def keep_data_out() -> None:
    """Let warnings, log records and uncaught errors of all libraries say their kind and place only."""
    warnings.showwarning = _say_warning
    handler = logging.StreamHandler()
    handler.setFormatter(_Place())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.lastResort = None
    sys.excepthook = _say_uncaught
    threading.excepthook = lambda given: _say_uncaught(given.exc_type, given.exc_value, given.exc_traceback)


def say_where(error: BaseException) -> None:
    """Print where an error happened and of what kind it is."""
    _say_uncaught(type(error), error, error.__traceback__)


def place_of(error: BaseException) -> str:
    """The file and the line that an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "nowhere"


def _say_uncaught(kind: type[BaseException], _error: BaseException | None, trace: TracebackType | None) -> None:
    print(f"Error: {kind.__name__}", file=sys.stderr)
    traceback.print_tb(trace, file=sys.stderr)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    print(f"Warning: {category.__name__} ({Path(filename).name}, line {lineno})", file=sys.stderr)


class _Place(logging.Formatter):
    """Instead of a record's text, where it comes from."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname} of {record.name} ({record.filename}, line {record.lineno})"
