"""What is noticed while files are read: collects the library's own sentences for the user, and keeps other libraries' words to itself."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Every module of the room that reads files logs below it.
_ROOM = logging.getLogger("RAUSlicerLib.imaging")
_DICOM_LIBRARIES = ("pydicom", "highdicom")
_PLACES = rf"({'|'.join((*_DICOM_LIBRARIES, __name__.partition('.')[0]))})(\.|$)"

_log = _ROOM.getChild("notices")
_hushing = threading.RLock()
_depth = 0
# The thread of which this room's own modules say nothing either.
_silent_thread: int | None = None


def is_collected(record: logging.LogRecord) -> bool:
    """Whether somebody has collected a record and will tell it, so that nobody else need."""
    return getattr(record, "collected", False)


class _Collector(logging.Handler):
    """Collects warnings of the thread that made it, and marks them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread != _silent_thread:
            self.sentences.append(record.getMessage())
            record.collected = True


class _OfOthers(logging.Handler):
    """Hands on what other threads say while the room's logger hands nothing on."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != _silent_thread and _ROOM.parent is not None:
            _ROOM.parent.callHandlers(record)


@contextmanager
def noticed() -> Iterator[list[str]]:
    """Collect what is logged as a warning while files are read in this thread, so that it gets wherever the run's other warnings get.

    If reading fails, the sentences are logged again, because there is no run left that could tell them.
    """
    collector = _Collector()
    _ROOM.addHandler(collector)
    try:
        yield collector.sentences
    except BaseException:
        _ROOM.removeHandler(collector)
        for sentence in collector.sentences:
            _log.warning("%s", sentence)
        raise
    finally:
        _ROOM.removeHandler(collector)


@contextmanager
def hushed(*, told: bool = True) -> Iterator[None]:
    """Count what pydicom and highdicom warn of instead of showing it: their words repeat values of the header, which may be a name.

    How many there were is logged where ``told``. What other libraries warn of, and whatever is no remark about a value (deprecations, for
    instance), is shown as ever. One thread at a time: Python's filters are global.
    """
    global _depth
    with _hushing:
        if _depth:
            yield
            return
        _depth += 1
        collector = _Collector()
        loggers = [logging.getLogger(name) for name in _DICOM_LIBRARIES]
        propagated = [logger.propagate for logger in loggers]
        for logger in loggers:
            logger.propagate = False
            logger.addHandler(collector)
        remarks = 0
        try:
            with warnings.catch_warnings():
                shown = warnings.showwarning

                def count_or_show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
                    nonlocal remarks
                    if issubclass(category, UserWarning) and _raised_by() in _DICOM_LIBRARIES:
                        remarks += 1
                    else:
                        shown(message, category, *place, **options)

                # Each one counts, whichever of these modules a library takes for the place of its mistake.
                warnings.filterwarnings("always", category=UserWarning, module=_PLACES)
                warnings.showwarning = count_or_show
                yield
        finally:
            for logger, before in zip(loggers, propagated, strict=True):
                logger.removeHandler(collector)
                logger.propagate = before
            _depth -= 1
    if told and (remarks or collector.sentences):
        count = max(remarks, len(collector.sentences))
        _log.warning("%d values in the DICOM headers are not as the standard demands; they were taken as they are.", count)


@contextmanager
def silent() -> Iterator[None]:
    """Say nothing at all of what is read in this thread, because its reader tells it when it is read for good."""
    global _silent_thread
    with hushed(told=False):
        if _silent_thread is not None:
            yield
            return
        propagated, of_others = _ROOM.propagate, _OfOthers()
        _silent_thread, _ROOM.propagate = threading.get_ident(), False
        _ROOM.addHandler(of_others)
        try:
            yield
        finally:
            _ROOM.removeHandler(of_others)
            _silent_thread, _ROOM.propagate = None, propagated


def _raised_by() -> str:
    """The package whose code has called ``warnings.warn``, asked from within what shows the warning."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == warnings.__name__:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__")).partition(".")[0]
