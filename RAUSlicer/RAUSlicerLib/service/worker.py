"""The worker process: reads requests from stdin, runs them in one thread, answers on a private copy of stdout.

Started as ``python -m RAUSlicerLib.service.worker``. It leaves when stdin closes, so that it never outlives its client.
"""

from __future__ import annotations

import os
import platform
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .. import __version__
from ..errors import RAUSlicerError, ResourceError
from ..progress import CancelToken, ProgressEvent
from .folder import remove
from .protocol import LONGEST_LINE, REQUESTS, BusyError, Message, ProtocolError, decode, encode, error_fields

if TYPE_CHECKING:
    from ..pipeline import Pipeline


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
        self._cancel = CancelToken()
        self._loaded: tuple[tuple[str, str], Pipeline] | None = None
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
        elif kind == "transfer":
            self._accept(message)
        else:
            self.cancel()
            self._channel.send("result", id_, of=kind)
        return kind != "shutdown"

    def cancel(self) -> None:
        """Ask the run under way to stop and keep what is finished."""
        with self._lock:
            self._cancel.cancel()

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
        _require_fields(message)
        with self._lock:
            if self._current is not None:
                raise BusyError(
                    "Another run is under way.",
                    "The worker runs one at a time, so that they don't share memory and processor.",
                    "Wait for it to end, or cancel it.",
                )
            self._current = message["id"]
            self._cancel = CancelToken()
        self._runs.put(message)

    def _run_forever(self) -> None:
        while True:
            message = self._runs.get()
            id_ = message["id"]
            try:
                reply = self._transfer(message)
            except RAUSlicerError as error:
                self._finish(id_, "error", error_fields(error))
            except Exception as error:
                # Whatever a library raises must reach the user as a message, and the worker must be there for the next run.
                traceback.print_exc()
                self._finish(id_, "error", error_fields(_explained(error)))
            else:
                self._finish(id_, "result", {"of": "transfer", **reply})

    def _finish(self, id_: str, kind: str, fields: Message) -> None:
        # Free before the answer is out: the client may send the next run as soon as it reads it.
        with self._lock:
            self._current = None
        self._channel.send(kind, id_, **fields)

    def _transfer(self, message: Message) -> Message:
        def report(event: ProgressEvent) -> None:
            self._channel.send("progress", message["id"], stage=event.stage, fraction=event.fraction, structure=event.structure)

        report(ProgressEvent("starting", 0.0))
        # Importing the networks takes seconds: cancel and shutdown are read meanwhile.
        from .exchange import read_request, write_result

        reference, target = read_request(message)
        result = self._pipeline(message.get("model", "embedded"), message.get("device", "auto")).transfer(
            reference,
            target,
            message.get("structures"),
            localizer=message.get("localizer", "vlm"),
            progress=report,
            cancel=self._cancel,
        )
        return write_result(result, Path(message["output"]))

    def _pipeline(self, model: str, device: str) -> Pipeline:
        """The model, loaded; the last one stays warm."""
        from ..pipeline import Pipeline

        if self._loaded is None or self._loaded[0] != (model, device):
            # One at a time: a second one may not fit beside it.
            self._loaded = None
            self._loaded = (model, device), Pipeline(model, device)
        return self._loaded[1]


def _require_fields(message: Message) -> None:
    texts = ("id", "reference", "reference_segmentation", "target", "output")
    wrong = [name for name in texts if not isinstance(message.get(name), str)]
    wrong += [name for name in ("localizer", "model", "device") if not isinstance(message.get(name, ""), str)]
    names = message.get("structures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        wrong.append("structures")
    if wrong:
        raise ProtocolError(
            f"The transfer request lacks {', '.join(wrong)}, or they are of the wrong type.",
            "Files are named by their paths; structures are a list of names.",
            "Restart the worker, and install the same version of RAUSlicer on both sides if this happens again.",
        )


def _explained(error: Exception) -> RAUSlicerError:
    # torch.OutOfMemoryError is known by name: importing torch to ask would cost seconds and memory just when there is none.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError(
            "The computer ran out of memory.",
            f"{type(error).__name__}: {error}",
            "Close other programs, choose fewer structures, crop the target volume, or choose the CPU as the device.",
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


def _take_over_stdout() -> BinaryIO:
    # Libraries print to stdout, from C as well. The protocol moves to a private duplicate, and what is printed goes to stderr, the log.
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return private


def main() -> None:
    """Serve until stdin closes or a shutdown is asked for."""
    worker = Worker(Channel(_take_over_stdout()))
    serving = True
    while serving:
        line = sys.stdin.buffer.readline(LONGEST_LINE + 1)
        if not line:
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
    sys.stderr.flush()
    os._exit(0)


def _skip_to_line_end(line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = sys.stdin.buffer.readline(LONGEST_LINE)


if __name__ == "__main__":
    main()
