"""Progress events and cooperative cancel, shared by the library, the command line and the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressEvent:
    """One step forward.

    ``fraction`` is of the whole run, 0 to 1. ``structure`` is the name of the structure just finished, where there is one.
    """

    stage: str
    fraction: float
    structure: str | None = None


ProgressCallback = Callable[[ProgressEvent], None]


def ignore(_event: ProgressEvent) -> None:
    """Report progress to nobody."""


class CancelToken:
    """Says whether the user wants to stop. Long stages ask between slices and keep what is finished."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()


def part(progress: ProgressCallback, start: float, end: float) -> ProgressCallback:
    """Map a stage's own fraction, 0 to 1, onto its share ``[start, end]`` of the run."""

    def report(event: ProgressEvent) -> None:
        progress(ProgressEvent(event.stage, start + (end - start) * event.fraction, event.structure))

    return report
