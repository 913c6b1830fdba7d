"""The worker process: reads requests from stdin, runs them in one thread, answers on a private copy of stdout.

Started as ``python -m RAUSlicerLib.service.worker``. It leaves when stdin closes, so that it never outlives its client.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO

from .. import __version__
from ..errors import OutOfMemory, OutputError, RAUSlicerError, ResourceError
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..shortage import RETRY_STAGE, explained, out_of_memory
from .fields import require_fields
from .folder import remove
from .protocol import LONGEST_LINE, REQUESTS, RUNS, BusyError, CancelledError, Message, ProtocolError, decode, encode, error_fields
from .runs import Runner

# A run asks between steps whether it was cancelled. Where a step takes longer than this, the user is answered without waiting for it.
_PATIENCE_S = 1.5
# From this stage on all structures are finished. Finished ones are waited for; their names come with the progress.
_FINISHING = ("confidence", "done")


class InternalError(RAUSlicerError):
    """An error that nobody foresaw."""

    code = "internal"


class Channel:
    """Writes replies, whole lines at a time, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, kind: str, id_: str | None, **fields: object) -> None:
        line = encode(kind, id_, **fields)
        with self._lock:
            self._stream.write(line)
            self._stream.flush()

    def send_error(self, id_: str | None, error: RAUSlicerError) -> None:
        self.send("error", id_, **error_fields(error))


class Worker:
    """Answers requests. Runs go through one thread that lives as long as the process: a GPU keeps its plans per thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._runs: queue.Queue[Message] = queue.Queue()
        self._lock = threading.Lock()
        self._current: str | None = None
        self._writes_segments = True
        self._finishing = False
        self._cancel = CancelToken()
        self._runner = Runner()
        self.folder: Path | None = None
        threading.Thread(target=self._run_forever, name="runs", daemon=True).start()

    def handle(self, line: bytes) -> bool:
        """Answer one line; False when it asks the worker to leave."""
        try:
            message = decode(line, REQUESTS)
        except ProtocolError as error:
            self._channel.send_error(None, error)
            return True
        id_ = message["id"]
        try:
            return self._answer(message["type"], id_, message)
        except RAUSlicerError as error:
            self._channel.send_error(id_, error)
        return True

    def _answer(self, kind: str, id_: str | None, message: Message) -> bool:
        if kind == "hello":
            self._hello(id_, message)
        elif kind in RUNS:
            self._accept(message)
        else:
            if kind == "forget":
                # After the run under way, in its thread.
                self._runs.put(message)
            else:
                self.cancel()
            self._channel.send("result", id_, of=kind)
        return kind != "shutdown"

    def cancel(self) -> None:
        """Ask the run under way to stop and keep what is finished."""
        with self._lock:
            self._cancel.cancel()
            id_ = self._current
        if id_ is not None:
            waiting = threading.Timer(_PATIENCE_S, self._abandon, (id_,))
            waiting.daemon = True
            waiting.start()

    def _abandon(self, id_: str) -> None:
        """Answer a cancelled run that is in the middle of a long step and has finished nothing; what it still does counts no more."""
        with self._lock:
            if self._current != id_ or self._finishing:
                return
            self._current = None
            what = "The run was cancelled before a structure was finished." if self._writes_segments else "It was cancelled."
        error = CancelledError(what, "It was in the middle of a long step.", "Start again when you like.")
        self._channel.send_error(id_, error)

    def _hello(self, id_: str | None, message: Message) -> None:
        folder = message.get("folder")
        if folder is not None and not (isinstance(folder, str) and Path(folder).is_dir()):
            raise ProtocolError(
                f"The exchange folder {folder!r} does not exist.",
                "Arrays go through a temporary folder that the client makes.",
                "Restart the worker.",
            )
        self.folder = Path(folder) if folder else None
        self._channel.send("result", id_, of="hello", rauslicer=__version__, python=platform.python_version(), pid=os.getpid())

    def _accept(self, message: Message) -> None:
        require_fields(message)
        with self._lock:
            if self._current is not None:
                raise BusyError(
                    "Another run is under way.",
                    "The worker runs one at a time, so that they don't share memory and processor.",
                    "Wait for it to end, or cancel it.",
                )
            self._current = message["id"]
            self._writes_segments = message["type"] in ("transfer", "correct")
            self._finishing = False
            # Each run has its own: one that was abandoned stays cancelled.
            self._cancel = message["cancel"] = CancelToken()
        self._runs.put(message)

    def _run_forever(self) -> None:
        while True:
            message = self._runs.get()
            id_ = message["id"]
            if message["type"] == "forget":
                self._runner.forget()
                continue
            try:
                reply = self._runner.run(message, self._reporter(id_), message["cancel"])
            except RAUSlicerError as error:
                # A model may be called damaged that only could not be held.
                told = explained(error) if out_of_memory(error) and not isinstance(error, OutOfMemory) else error
                self._finish(id_, "error", error_fields(told))
            except Exception as error:
                # Whatever a library raises must reach the user as a message, and the worker must be there for the next run.
                _log_without_data(error)
                self._finish(id_, "error", error_fields(_explained(error)))
            else:
                self._finish(id_, "result", {"of": message["type"], **reply})

    def _finish(self, id_: str, kind: str, fields: Message) -> None:
        # Free before the answer is out: the client may send the next run as soon as it reads it.
        with self._lock:
            if self._current != id_:
                return
            self._current = None
        self._channel.send(kind, id_, **fields)

    def _reporter(self, id_: str) -> ProgressCallback:
        def report(event: ProgressEvent) -> None:
            with self._lock:
                if self._current != id_:
                    return
                if event.stage == RETRY_STAGE:
                    self._finishing = False
                elif event.structure is not None or event.stage in _FINISHING:
                    self._finishing = True
            self._channel.send("progress", id_, stage=event.stage, fraction=event.fraction, structure=event.structure)

        return report


def _explained(error: Exception) -> RAUSlicerError:
    if out_of_memory(error):
        return explained(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return OutputError(
            "The result can't be written: the disk of the temporary folder is full.",
            f"{error.strerror}.",
            "Free some space, or set the TMPDIR environment variable to a folder on another disk, and run again.",
        )
    if isinstance(error, ImportError):
        return ResourceError(
            f"A Python package is missing or damaged: {error}.",
            f"The worker runs in {sys.executable}, which needs PyTorch and the packages of Resources/requirements.txt.",
            "Install them there, or choose another Python for the worker (setting RAUSlicer/Python).",
        )
    return InternalError(
        f"An unexpected error stopped the run: {type(error).__name__}: {error}",
        "This is a fault in RAUSlicer or in one of the libraries it uses.",
        "Try again; if it happens again, send the log to the developers.",
    )


def _log_without_data(error: Exception) -> None:
    """Print where an error happened and of what kind it is; its message may hold paths and names, which a log must not carry on."""
    print(f"Error in a run: {type(error).__name__}", file=sys.stderr)
    traceback.print_tb(error.__traceback__, file=sys.stderr)


def _take_over_stdout() -> BinaryIO:
    # Libraries print to stdout, from C as well. The protocol moves to a private duplicate, and what is printed goes to stderr, the log.
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return private


def main() -> None:
    """Serve until stdin closes or a shutdown is asked for."""
    worker = Worker(Channel(_take_over_stdout()))
    serving, orphaned = True, False
    while serving:
        line = sys.stdin.buffer.readline(LONGEST_LINE + 1)
        if not line:
            orphaned = True
            break
        if len(line) > LONGEST_LINE:
            _skip_to_line_end(line)
        if line.strip():
            serving = worker.handle(line)
    worker.cancel()
    if worker.folder is not None:
        # The client may have been killed, and then nobody else removes the patient's data.
        remove(worker.folder)
    # Threads of numerical libraries may be busy for minutes; leaving must not wait for them.
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    if orphaned and hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        # A library may have started processes, and the client that would have ended them is gone.
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _skip_to_line_end(line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = sys.stdin.buffer.readline(LONGEST_LINE)


if __name__ == "__main__":
    main()
