"""What is noticed while files are read: collects the library's own sentences for the user, and keeps other libraries' words to itself."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Every module of this room logs below it.
_ROOM = logging.getLogger(__package__)
_DICOM_LIBRARIES = ("pydicom", "highdicom")

_log = logging.getLogger(__name__)
_hushing = threading.RLock()
_depth = 0


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
        if record.thread == self._thread:
            self.sentences.append(record.getMessage())
            record.collected = True


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

    How many there were is logged where ``told``. Whatever is no remark about a value (deprecations, for instance) is let through. One
    thread at a time: Python's filters are global.
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
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                yield
        finally:
            for logger, before in zip(loggers, propagated, strict=True):
                logger.removeHandler(collector)
                logger.propagate = before
            _depth -= 1
    remarks = [warning for warning in caught if issubclass(warning.category, UserWarning)]
    for warning in caught:
        if warning not in remarks:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if told and (remarks or collector.sentences):
        count = max(len(remarks), len(collector.sentences))
        _log.warning("%d values in the DICOM headers are not as the standard demands; they were taken as they are.", count)
