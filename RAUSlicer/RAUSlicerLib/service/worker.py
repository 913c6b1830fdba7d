"""The worker process: reads requests from stdin, runs them in one thread, answers on a private copy of stdout.

Started as ``python -m RAUSlicerLib.service.worker``. It leaves when stdin closes, so that it never outlives its client.
"""

from __future__ import annotations

import collections
import contextlib
import os
import platform
import signal
import socket
import sys
import threading
from typing import BinaryIO

from .. import __version__
from ..errors import InputError, OutOfMemory, RAUSlicerError, ResourceError
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..support.shortage import RETRY_STAGE, explained, explained_room, no_room, out_of_memory
from . import worker_log
from .fields import require_fields
from .folder import TOKEN_VARIABLE, Exchange, is_path
from .protocol import (
    LONGEST_LINE,
    REQUESTS,
    RUNS,
    BusyError,
    CancelledError,
    Message,
    ProtocolError,
    decode,
    encode,
    error_fields,
    read_line,
    require_id,
)
from .runs import Runner

# A run asks between steps whether it was cancelled. Where a step takes longer than this, the user is answered without waiting for it.
_PATIENCE_S = 1.5
# A worker that is told to end waits so long for a run that has finished a structure.
_KEEPING_S = 30.0
# From this stage on all structures are finished. Finished ones are waited for; their names come with the progress.
_FINISHING = ("confidence", "done")
# So many ids are remembered, to notice one that comes twice.
_MOST_IDS = 4096
# Held by the thread that ends the process.
_ENDING = threading.Lock()


class InternalError(RAUSlicerError):
    """An error that nobody foresaw."""

    code = "internal"


class Channel:
    """Writes replies, whole lines at a time, from any thread. Where nobody reads them any more, they are lost: ``is_open`` says so."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.is_open = True

    def send(self, kind: str, id_: str | None, **fields: object) -> None:
        self.write(encode(kind, id_, **fields))

    def write(self, line: bytes) -> None:
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except OSError:
                self.is_open = False

    def send_error(self, id_: str | None, error: RAUSlicerError) -> None:
        self.send("error", id_, **error_fields(error))


class _Run:
    """A run that was accepted. Each is known by itself and not by its id, which a client may use twice."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.id: str = message["id"]
        self.writes_segments = message["type"] in ("transfer", "correct")
        self.finishing = False
        # Each run has its own: one that was abandoned stays cancelled.
        self.cancel = CancelToken()
        self.waiting: threading.Timer | None = None


class Worker:
    """Answers requests. Runs go through one thread that lives as long as the process: a GPU keeps its plans per thread.

    Args:
        channel: Where the answers go.
        token: What the client has said of the exchange folder; without it, none is accepted.
    """

    def __init__(self, channel: Channel, token: str | None = None) -> None:
        self._channel = channel
        self._token = token
        self._lock = threading.Condition()
        # The run that has to be answered, and what its thread has not begun with: runs, and None for letting go of the last one.
        self._current: _Run | None = None
        self._pending: collections.deque[_Run | None] = collections.deque()
        self._answering = 0
        self._ids: dict[str, None] = {}
        self._leaving = False
        self._runner = Runner()
        self.exchange: Exchange | None = None
        threading.Thread(target=self._run_forever, name="runs", daemon=True).start()

    def handle(self, line: bytes) -> bool:
        """Answer one line; False when it asks the worker to leave, or nobody reads the answers. Whatever is in it, there is an answer."""
        id_ = None
        try:
            message = decode(line, REQUESTS)
            id_ = require_id(message)
            self._take(id_)
            return self._answer(message["type"], id_, message) and self._channel.is_open
        except RAUSlicerError as error:
            self._channel.send_error(id_, error)
        except Exception as error:
            worker_log.say_where(error)
            self._channel.send_error(id_, _explained(error))
        return self._channel.is_open

    def _take(self, id_: str) -> None:
        if id_ in self._ids:
            raise ProtocolError(
                f"The message id {id_!r} was used already.",
                "An answer names the request that it belongs to by its id.",
                "Give every request an id of its own.",
            )
        self._ids[id_] = None
        if len(self._ids) > _MOST_IDS:
            del self._ids[next(iter(self._ids))]

    def _answer(self, kind: str, id_: str, message: Message) -> bool:
        if kind == "hello":
            self._hello(id_, message)
        elif kind in RUNS:
            self._accept(message)
        else:
            if kind == "forget":
                self._forget()
            else:
                self.cancel()
            self._channel.send("result", id_, of=kind)
        return kind != "shutdown"

    def cancel(self) -> None:
        """Ask the run under way to stop and keep what is finished."""
        with self._lock:
            run = self._current
            if run is None or run.cancel.cancelled:
                return
            run.cancel.cancel()
            run.waiting = threading.Timer(_PATIENCE_S, self._abandon, (run,))
            run.waiting.daemon = True
            run.waiting.start()

    def leave(self) -> None:
        """Cancel the run under way and wait until it is answered, but not for ever; no further one is accepted."""
        with self._lock:
            self._leaving = True
        self.cancel()
        with self._lock:
            self._lock.wait_for(lambda: self._current is None and not self._answering, _KEEPING_S)

    def _abandon(self, run: _Run) -> None:
        """Answer a cancelled run that is in the middle of a long step and has finished nothing; what it still does counts no more."""
        what = "The run was cancelled before a structure was finished." if run.writes_segments else "It was cancelled."
        error = CancelledError(what, "It was in the middle of a long step.", "Start again when you like.")
        self._finish(run, "error", error_fields(error), unless_finishing=True)

    def _hello(self, id_: str, message: Message) -> None:
        folder = message.get("folder")
        if folder is not None:
            if not is_path(folder):
                raise ProtocolError(
                    "The exchange folder is not named by a path.",
                    "Arrays go through a temporary folder that the client makes.",
                    "Restart the worker.",
                )
            self.exchange = Exchange(folder, self._token)
        self._channel.send("result", id_, of="hello", rauslicer=__version__, python=platform.python_version(), pid=os.getpid())

    def _accept(self, message: Message) -> None:
        require_fields(message, self.exchange)
        run = _Run(message)
        with self._lock:
            if self._leaving:
                raise BusyError("The worker is ending.", "It was told to, and begins nothing new.", "Start another worker.")
            if self._current is not None:
                raise BusyError(
                    "Another run is under way.",
                    "The worker runs one at a time, so that they don't share memory and processor.",
                    "Wait for it to end, or cancel it.",
                )
            self._current = run
            self._pending.append(run)
            self._lock.notify_all()

    def _forget(self) -> None:
        """After the runs that were asked for before, in their thread; once is enough."""
        with self._lock:
            if not self._pending or self._pending[-1] is not None:
                self._pending.append(None)
                self._lock.notify_all()

    def _run_forever(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._pending))
                run = self._pending.popleft()
            if run is None:
                self._runner.forget()
            else:
                self._carry_out(run)

    def _carry_out(self, run: _Run) -> None:
        try:
            reply = self._runner.run(run.message, self._reporter(run), run.cancel)
            self._finish(run, "result", {"of": run.message["type"], **reply})
        except RAUSlicerError as error:
            # A model may be called damaged that only could not be held.
            told = explained(error) if out_of_memory(error) and not isinstance(error, OutOfMemory) else error
            self._finish(run, "error", error_fields(told))
        except Exception as error:
            # Whatever a library raises must reach the user as a message, and the worker must be there for the next run.
            worker_log.say_where(error)
            self._finish(run, "error", error_fields(_explained(error)))

    def _finish(self, run: _Run, kind: str, fields: Message, *, unless_finishing: bool = False) -> None:
        line = encode(kind, run.id, **fields)
        with self._lock:
            if self._current is not run or (unless_finishing and run.finishing):
                return
            # Free before the answer is out: the client may send the next run as soon as it reads it.
            self._current = None
            self._answering += 1
            if run.waiting is not None:
                run.waiting.cancel()
            # One that was abandoned before it began is not begun at all.
            with contextlib.suppress(ValueError):
                self._pending.remove(run)
        self._channel.write(line)
        with self._lock:
            self._answering -= 1
            self._lock.notify_all()

    def _reporter(self, run: _Run) -> ProgressCallback:
        def report(event: ProgressEvent) -> None:
            with self._lock:
                if self._current is not run:
                    return
                if event.stage == RETRY_STAGE:
                    run.finishing = False
                elif event.structure is not None or event.stage in _FINISHING:
                    run.finishing = True
            self._channel.send("progress", run.id, stage=event.stage, fraction=event.fraction, structure=event.structure)

        return report


def _explained(error: Exception) -> RAUSlicerError:
    if out_of_memory(error):
        return explained(error)
    if no_room(error):
        return explained_room(error)
    if isinstance(error, ImportError):
        return ResourceError(
            f"A Python package is missing or damaged: {error}.",
            f"The worker runs in {sys.executable}, which needs PyTorch and the packages of Resources/requirements.txt.",
            "Install them there, or choose another Python for the worker (setting RAUSlicer/Python).",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(
            f"The operating system refuses a file of the run: {error.strerror}.",
            "A file or a folder is missing, has a name that is too long, or can't be read.",
            "Check the files, the models folder and the temporary folder, and run again.",
        )
    # Not the error's own words: they may hold names and paths, and this text is shown and copied into logs.
    return InternalError(
        f"An unexpected error stopped the run: {type(error).__name__} ({worker_log.place_of(error)}).",
        "This is a fault in RAUSlicer or in one of the libraries it uses.",
        "Try again; if it happens again, send the log to the developers.",
    )


def _take_over_stdout() -> BinaryIO:
    # Libraries print to stdout, from C as well. The protocol moves to a private duplicate, and what is printed goes to stderr, the log.
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return private


def _leave_on_signals(worker: Worker) -> None:
    """Let signals that ask a process to end do what a cancel does, and end it then; the second one ends it at once.

    They are listened to by a thread: the main one waits for lines, and a signal that comes just before that would wait with it.
    """
    hearing, telling = socket.socketpair()
    telling.setblocking(False)
    numbers = set()
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
            numbers.add(int(number))
    signal.set_wakeup_fd(telling.detach(), warn_on_full_buffer=False)

    def leave(number: int) -> None:
        worker.leave()
        with _ENDING:
            _end(128 + number)

    def listen() -> None:
        told = False
        while True:
            # Signals that libraries handle are told too.
            for number in numbers.intersection(hearing.recv(64)):
                if told:
                    os._exit(128 + number)
                told = True
                threading.Thread(target=leave, args=(number,), name="leaving", daemon=True).start()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _end(code: int) -> None:
    # Threads of numerical libraries may be busy for minutes; leaving must not wait for them.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve until stdin closes, or a shutdown or a signal asks for the end."""
    worker_log.keep_data_out()
    # Not for the processes that libraries start.
    worker = Worker(Channel(_take_over_stdout()), os.environ.pop(TOKEN_VARIABLE, None))
    _leave_on_signals(worker)
    serving, orphaned = True, False
    while serving:
        line = read_line(sys.stdin.buffer, LONGEST_LINE)
        if not line:
            orphaned = True
            break
        if line.strip():
            serving = worker.handle(line)
    worker.cancel()
    with _ENDING:
        if worker.exchange is not None:
            # The client may have been killed, and then nobody else removes the patient's data.
            worker.exchange.remove()
        if orphaned and hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            # A library may have started processes, and the client that would have ended them is gone.
            os.killpg(0, signal.SIGKILL)
        _end(0)


if __name__ == "__main__":
    main()
