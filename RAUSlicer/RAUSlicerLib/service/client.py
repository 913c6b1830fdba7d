"""The client of the worker: starts it on first use, sends requests, hands out replies. Knows neither Qt nor Slicer."""

from __future__ import annotations

import collections
import itertools
import os
import queue
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError, ResourceError
from ..support.shortage import ended_for_memory, explained_room, kills_for_memory, no_room
from ..support.text import name_key, printable
from . import process as processes
from .folder import TOKEN_VARIABLE, ExchangeFolder
from .protocol import LONGEST_REPLY, Message, ProtocolError, decode_reply, encode, error_fields, read_line

if TYPE_CHECKING:
    import numpy as np

    from ..correction.edits import Correction
    from .requests import CaseRequest, RunRequest

_LOG_LINES = 400
_LONGEST_LOG_LINE = 2000  # bytes
# Of a worker that has ended, so many lines are looked through, and so long they are waited for.
_LAST_WORDS, _LAST_WORDS_S = 20, 0.5
_LIBRARY_PARENT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class _Case:
    """What a run is known by; ``inputs`` is the fingerprint of its volumes and structures."""

    inputs: str
    localizer: str
    model: str
    device: str


class WorkerClient:
    """One worker process and the conversation with it.

    Args:
        python: Interpreter of the worker; it may be another environment's.
        environment: Environment variables of the worker; this process's own for None.
        temporary_folder: Where the exchange folder is made; the system's temporary folder for None.
        command: The whole command, in place of ``python -m RAUSlicerLib.service.worker``.

    ``poll`` never waits: call it from a timer. A worker that ends by itself answers every open request with an error of code "crash".

    A run is sent by ``transfer`` or ``correct``, into a folder that ``new_run_folder`` made::

        folder, request = client.new_run_folder(), RunRequest(reference, target, structures=["liver"], threads=2)
        id_ = client.transfer(folder, request)
        id_ = client.correct(folder, request, Correction("liver", mask, slices=((2, 41),)))

    Both are answered by ``progress`` messages and one ``result`` or ``error`` with that id. ``exchange.read_result`` turns the result into
    a ``Transfer``; that of a correction holds the corrected structure alone. The worker keeps the last transfer warm, so that a correction
    of it takes seconds; after a restart, or with another reference, target or model, it matches again first, and ``matched_again`` in the
    reply says so. An error of code "cancelled" says that nothing was finished when the user cancelled.

    All that sends raises an OutputError where the temporary folder can't be written, a ResourceError where the worker can't be started.
    ``report`` and ``ask`` are answered in the same way; ``case_files.read_report`` and ``read_answer`` read the file that the result names.
    """

    def __init__(
        self,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        temporary_folder: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        # -u: the log must reach us even when the worker is killed.
        self._command = list(command) if command is not None else [python, "-u", "-m", "RAUSlicerLib.service.worker"]
        self._environment = dict(os.environ if environment is None else environment)
        inherited = self._environment.get("PYTHONPATH")
        self._environment["PYTHONPATH"] = os.pathsep.join([str(_LIBRARY_PARENT), *([inherited] if inherited else [])])
        self._temporary_folder = temporary_folder
        self._ids = itertools.count(1)
        self._messages: queue.Queue[tuple[int, Message | None]] = queue.Queue()
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._open: set[str] = set()
        self._undelivered: list[Message] = []
        self._generation = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: ExchangeFolder | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._log_reader: threading.Thread | None = None
        # What this worker said last; the log also has what those before it said.
        self._last_words: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
        # How many processes the system had killed for want of memory when the worker was started.
        self._kills: int | None = None
        # What was asked for: by request, and of the run that the worker keeps warm.
        self._cases: dict[str, _Case] = {}
        self._warm: _Case | None = None
        # Names and segment ids of the structures of that run.
        self._kept: frozenset[str] = frozenset()
        # The case that the worker has measured last, and the open requests about cases.
        self._measured: str | None = None
        self._asked: set[str] = set()
        # Where a report is made and where the user wants it, by request: the worker writes into the exchange folder only.
        self._saving: dict[str, tuple[Path, Path]] = {}

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> str:
        """What the worker and its libraries printed last."""
        return "\n".join(self._log)

    def start(self) -> None:
        """Start the worker and greet it; does nothing where it runs.

        Raises:
            OutputError: the disk of the temporary folder is full.
            ResourceError: the interpreter or the temporary folder can't be used.
        """
        if self.running:
            return
        self._undelivered.extend(self._crashed())
        kills = kills_for_memory()
        try:
            folder = ExchangeFolder(self._temporary_folder)
            started = processes.start(self._command, {**self._environment, TOKEN_VARIABLE: folder.token})
        except OSError as error:
            if no_room(error):
                raise explained_room(error) from error
            raise ResourceError(
                f"The worker can't be started with {self._command[0]!r}: {error.strerror or error}.",
                "It needs a Python interpreter and a temporary folder that can be written.",
                "Check the Python interpreter in the settings, and the free space of the temporary folder.",
            ) from error
        self._generation += 1
        self._process, self._folder, self._kills = started, folder, kills
        # At the end of the interpreter and when the client is forgotten, no process stays behind; the folder sees to itself.
        self._finalizer = weakref.finalize(self, processes.end_tree, started)
        arguments = (started, self._generation, self._messages)
        threading.Thread(target=_read_replies, args=arguments, name="worker-replies", daemon=True).start()
        self._last_words = collections.deque(maxlen=_LAST_WORDS)
        logs = (self._log, self._last_words)
        self._log_reader = threading.Thread(target=_read_log, args=(started, *logs), name="worker-log", daemon=True)
        self._log_reader.start()
        # Not by way of ``send``, which would start another worker where this one has ended already.
        self._write("hello", {"folder": str(folder.path)})

    def new_run_folder(self) -> Path:
        """A fresh temporary folder for the files of one run; starts the worker where it does not run."""
        self.start()
        assert self._folder is not None
        return self._folder.new_run()

    def send(self, kind: str, **fields: Any) -> str:
        """Send a request, starting the worker where it does not run, and return the request's id."""
        self.start()
        return self._write(kind, fields)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> str:
        assert self._process is not None and self._process.stdin is not None
        id_ = str(next(self._ids))
        self._open.add(id_)
        try:
            self._process.stdin.write(encode(kind, id_, **fields))
            self._process.stdin.flush()
        except OSError:
            # The worker has just ended; the reader of its replies says so, and poll turns that into an error for this request.
            self._log.append(f"The request {kind!r} could not be sent.")
        return id_

    def transfer(self, folder: Path, request: RunRequest) -> str:
        """Ask for a run and return the request's id. The caller removes ``folder``, of ``new_run_folder``, once the answer is read."""
        from . import exchange

        files = exchange.write_request(folder, request.reference, request.target)
        self._warm = self._measured = None
        structures = None if request.structures is None else list(request.structures)
        id_ = self.send("transfer", **files, structures=structures, **request.options)
        self._cases[id_] = _Case(files["case"], request.localizer, request.model, request.device)
        return id_

    def correct(self, folder: Path, request: RunRequest, correction: Correction) -> str:
        """Ask for one structure to be carried over again from what the user has corrected, and return the request's id.

        The volumes are written to ``folder`` only where the worker must match them again. ``request`` is the run that is corrected.
        """
        from . import exchange

        self.start()
        case = _Case(exchange.fingerprint(request.reference, request.target), request.localizer, request.model, request.device)
        fields = exchange.write_correction(folder, correction)
        if case == self._warm and name_key(correction.structure) in self._kept:
            fields["case"] = case.inputs
        else:
            fields.update(exchange.write_request(folder, request.reference, request.target))
        self._measured = None
        id_ = self.send("correct", **fields, **request.options)
        self._cases[id_] = case
        return id_

    def report(self, folder: Path, case: CaseRequest, save: Path | None = None, dicom: Path | None = None) -> str:
        """Ask for a report on a segmented target and return the request's id.

        Args:
            folder: As for ``transfer``.
            case: The target as it is now.
            save: A file to write the report to as well; its ending says in which form.
            dicom: A file of the target's series, which a DICOM report belongs to.

        Raises:
            OutputError: the file that it is to be saved to can't be written.
        """
        if save is not None:
            from ..support.outputs import require_free, require_writable

            # The dialog has asked whether an existing file may be replaced.
            require_free(save, "report", force=True, inputs=[] if dicom is None else [dicom])
            require_writable(save, "report")
        fields = self._case_fields(folder, case)
        made = None if save is None else folder / f"saved{save.suffix}"
        saved = {name: None if path is None else str(path) for name, path in (("save", made), ("dicom", dicom))}
        id_ = self.send("report", **fields, output=str(folder / "report.json"), **saved)
        self._asked.add(id_)
        if made is not None and save is not None:
            self._saving[id_] = made, save
        return id_

    def ask(
        self,
        folder: Path,
        case: CaseRequest,
        question: str,
        point: tuple[float, float, float] | None = None,
        region: np.ndarray | None = None,
    ) -> str:
        """Ask a question about a segmented target and return the request's id.

        Args:
            folder: As for ``transfer``.
            case: The target as it is now.
            question: As for ``interpretation.questions.answer``.
            point: Where "here" is, LPS, mm.
            region: What "the marked region" is: booleans (z, y, x) on the target's grid.
        """
        from . import case_files

        fields = self._case_fields(folder, case)
        marked = None if region is None else case_files.write_region(folder, region, case.volume)
        place = None if point is None else [float(value) for value in point]
        id_ = self.send("ask", **fields, output=str(folder / "answer.json"), question=question, point=place, region=marked)
        self._asked.add(id_)
        return id_

    def _case_fields(self, folder: Path, case: CaseRequest) -> dict[str, str]:
        """The fields that name a case; its files are written only where the worker has not measured it last."""
        from . import case_files

        self.start()
        key = case_files.fingerprint_of_case(case)
        files = {} if key == self._measured else case_files.write_case(folder, case)
        return {"case": key, **files}

    def forget(self) -> str:
        """Ask the worker to let go of the last run's volumes and features, for example when the scene is closed."""
        self._warm = self._measured = None
        return self.send("forget")

    def poll(self) -> list[Message]:
        """The replies that have come in since the last call, oldest first. Never waits."""
        replies, self._undelivered = self._undelivered, []
        while True:
            try:
                generation, message = self._messages.get_nowait()
            except queue.Empty:
                return replies
            if generation != self._generation:
                continue
            if message is None:
                if replies:
                    # Ending removes the temporary folder, and the files of these replies have still to be read.
                    self._messages.put((generation, None))
                    return replies
                replies.extend(self._crashed())
                continue
            if message["type"] != "progress":
                self._open.discard(message["id"])
                self._note_warm(message)
                message = self._saved(message)
            replies.append(message)

    def stop(self, seconds: float = 2.0) -> None:
        """End the worker: ask it to leave, wait that long, then end it with all it started. Removes the temporary folder."""
        if self.running:
            assert self._process is not None
            self._write("shutdown", {})
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._log.append("The worker did not leave by itself and was ended.")
        self._discard_process()

    def _note_warm(self, message: Message) -> None:
        if message["id"] in self._asked:
            self._asked.discard(message["id"])
            # What became of the case after an error, only the worker knows; it is then sent again.
            self._measured = message.get("measured")
        case = self._cases.pop(message["id"] or "", None)
        if case is not None:
            self._kept = frozenset(name_key(name) for name in message.get("warm") or ())
            self._warm = case if self._kept else None

    def _saved(self, message: Message) -> Message:
        """The message, once the report is where the user wants it; or why it is not."""
        made, path = self._saving.pop(message["id"] or "", (None, None))
        if made is None or path is None:
            return message
        if message["type"] != "result":
            return {**message, "problem": message["problem"].replace(str(made), str(path))}
        from ..support.outputs import writing

        try:
            with writing(path, "report") as part:
                shutil.copyfile(made, part)
        except OutputError as error:
            return {"type": "error", "id": message["id"], **error_fields(error)}
        return {**message, "saved": str(path)}

    def _discard_process(self) -> None:
        self._generation += 1  # replies of the old process no longer count
        self._open.clear()
        self._cases.clear()
        self._asked.clear()
        self._saving.clear()
        self._warm = self._measured = None
        if self._finalizer is not None:
            self._finalizer()
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                self._log.append("The worker's input was closed already.")
        if self._folder is not None:
            self._folder.close()
        self._process, self._folder, self._finalizer = None, None, None

    def _crashed(self) -> list[Message]:
        code = None if self._process is None else self._process.wait()
        explanation = f"Its exit code is {code}."
        if code in (-9, 137):
            explanation = "It was killed, by the operating system where memory ran out, or by a user."
        elif code in (-15, 143):
            explanation = "It was told to end, by the operating system or by a user."
        fields = {
            "code": "crash",
            "problem": "The worker process stopped unexpectedly.",
            "explanation": explanation,
            "solution": "Run again: a new worker is started. If memory is short, choose fewer structures or crop the volume.",
        }
        if self._log_reader is not None:
            # What it said last may still be on its way; a child of its own may keep the pipe open.
            self._log_reader.join(_LAST_WORDS_S)
        short = ended_for_memory(code, list(self._last_words), (self._kills, kills_for_memory()))
        if short is not None:
            fields |= {
                "code": "memory",
                "problem": "The worker process ran out of memory and ended.",
                "explanation": short,
                "solution": "Close other programs, choose fewer structures or crop the volume, and run again: a new worker is started.",
            }
        ended = [{"type": "error", "id": id_, **fields} for id_ in sorted(self._open, key=int)]
        self._discard_process()
        return ended


def _read_replies(process: subprocess.Popen[bytes], generation: int, messages: queue.Queue[tuple[int, Message | None]]) -> None:
    assert process.stdout is not None
    while line := read_line(process.stdout, LONGEST_REPLY):
        try:
            message = decode_reply(line)
        except ProtocolError as error:
            message = {"type": "error", "id": None, **error_fields(error)}
        messages.put((generation, _shown(message)))
    messages.put((generation, None))


def _shown(message: Message) -> Message:
    """A reply whose words may be shown: they repeat names and paths. What files and structures are found by stays as it is."""
    words = ("problem", "explanation", "solution", "stage", "structure", "warnings")
    return {name: _clean(value) if name in words else value for name, value in message.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _read_log(process: subprocess.Popen[bytes], *logs: collections.deque[str]) -> None:
    assert process.stderr is not None
    while line := read_line(process.stderr, _LONGEST_LOG_LINE):
        for log in logs:
            log.append(printable(line.decode("utf-8", errors="replace").rstrip(), keep="\t"))
