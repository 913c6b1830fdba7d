"""Shows progress in a terminal or a log, and turns Ctrl-C into a cooperative cancel."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .progress import CancelToken, ProgressCallback, ProgressEvent

# Lines in a log: one at each new stage, and one whenever this share of the run is done.
_LOG_STEP = 0.1


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """A callback that draws a bar with stage, structure and time left on a terminal, and prints plain lines elsewhere; on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Log()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[structure]}"),
    )
    # A speed measured over the last half minute follows stages of different pace.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=30.0) as bar:
        task = bar.add_task("starting", total=1.0, structure="")

        def update(event: ProgressEvent) -> None:
            bar.update(task, completed=event.fraction, description=event.stage, structure=event.structure or "")

        yield update


class _Log:
    def __init__(self) -> None:
        self._stage = ""
        self._next = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        if event.stage == self._stage and event.fraction < self._next:
            return
        self._stage = event.stage
        self._next = event.fraction + _LOG_STEP
        what = f"{event.stage}: {event.structure}" if event.structure else event.stage
        print(f"{100 * event.fraction:3.0f} % {what}", file=sys.stderr, flush=True)


@contextmanager
def cancel_on_interrupt() -> Iterator[CancelToken]:
    """A token that the first Ctrl-C cancels; the second one interrupts."""
    token = CancelToken()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()
        print("\nStopping; what is finished is kept. Press Ctrl-C again to end at once.", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)
