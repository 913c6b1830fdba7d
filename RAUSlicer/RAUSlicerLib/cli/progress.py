"""Shows progress in a terminal or a log, and turns Ctrl-C into a cooperative cancel."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..support.printing import progress_console, say
from ..support.text import printable

# What asks a program to end: Ctrl-C; a shell, a scheduler or a shutdown; a terminal that is closed. Windows has no such terminal.
_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# Lines in a log: one at each new stage, and one whenever this share of the run is done.
_LOG_STEP = 0.1


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """A callback that draws a bar with stage, structure and time left on a terminal, and prints plain lines elsewhere; on stderr."""
    console = progress_console()
    if not console.is_terminal:
        yield _Log()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[structure]}", markup=False),
    )
    # A speed measured over the last half minute follows stages of different pace.
    bar = Progress(*columns, console=console, transient=True, speed_estimate_period=30.0, redirect_stdout=False, redirect_stderr=False)
    with bar:
        task = bar.add_task("starting", total=1.0, structure="")

        def update(event: ProgressEvent) -> None:
            bar.update(task, completed=event.fraction, description=printable(event.stage), structure=printable(event.structure or ""))

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
        say(f"{100 * event.fraction:3.0f} % {what}", error=True)


@contextmanager
def cancel_on_interrupt() -> Iterator[CancelToken]:
    """A token that the first Ctrl-C, or the first other request to end, cancels; the second one interrupts."""
    token = CancelToken()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()
        say(error=True)
        say("Stopping; what is finished is kept. Press Ctrl-C again to end at once.", error=True)

    with _handled(_STOPS, handle):
        yield token


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within it, being asked to end is like Ctrl-C: what is half done is cleared away."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled([number for number in _STOPS if number != signal.SIGINT], handle):
        yield


@contextmanager
def _handled(signals: Iterable[signal.Signals], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have signals handled; those that whoever started this wants to be ignored (nohup) stay so, apart from Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in signals if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
