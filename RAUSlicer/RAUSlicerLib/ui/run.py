"""Runs one job at a time in the worker: send, poll, write. No widgets; the panel and the script interface share it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import RAUSlicerError
from ..scene.undo import UndoSteps
from ..service.client import WorkerClient
from ..service.folder import remove
from . import settings
from .jobs import CorrectionJob, Inputs, RedoJob, TransferJob

__all__ = ["CorrectionJob", "Inputs", "Listener", "RedoJob", "RunController", "TransferJob", "worker_client"]

_POLL_MS = 50
# A worker that does not answer a cancel is loading a model or stuck; the user has waited long enough.
_CANCEL_GRACE_S = 10.0


class Listener:
    """Is told how a run goes; every run ends with exactly one of ``finished`` and ``failed``."""

    def progressed(self, stage: str, fraction: float, structure: str | None) -> None:
        """One step forward; ``fraction`` is of the whole run."""

    def finished(self, node, transfer) -> None:
        """The result is in the scene; ``node`` is None where nothing was found."""

    def failed(self, problem: str, explanation: str, solution: str) -> None:
        """The run ended without a result."""


class RunController:
    """Runs one job at a time in the worker and polls it from a timer on the main thread."""

    def __init__(self, make_client: Callable[[], WorkerClient]) -> None:
        self._make_client = make_client
        self._client: WorkerClient | None = None
        self._undo = UndoSteps()
        self._listener: Listener | None = None
        self._job: TransferJob | RedoJob | CorrectionJob | None = None
        self._request: str | None = None
        self._folder: Path | None = None
        self._cancelled_at: float | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self.poll)

    @property
    def running(self) -> bool:
        return self._listener is not None

    @property
    def cancelling(self) -> bool:
        return self._cancelled_at is not None

    @property
    def undo(self) -> UndoSteps:
        """The steps that can be taken back."""
        return self._undo

    @property
    def log(self) -> str:
        """What the worker printed last."""
        return self._client.log if self._client is not None else ""

    def start(self, inputs: Inputs, listener: Listener) -> None:
        """Carry structures over; see ``run``."""
        self.run(TransferJob(inputs), listener)

    def run(self, job, listener: Listener) -> None:
        """Take a snapshot of the job's nodes and hand it to the worker. What goes wrong is told to the listener."""
        if self.running:
            listener.failed(_("Another run is under way."), _("Runs go one at a time."), _("Wait for it to end, or cancel it."))
            return
        self._listener, self._job, self._cancelled_at = listener, job, None
        try:
            job.prepare()
            if self._client is None:
                self._client = self._make_client()
            self._folder = self._client.new_run_folder()
            self._request = job.send(self._client, self._folder)
        except Exception as error:
            self._fail(error)
            return
        self._timer.start()

    def cancel(self) -> None:
        """Ask the worker to stop and keep what is finished; it is ended where it does not answer."""
        if self.running and self._client is not None and not self.cancelling:
            self._cancelled_at = time.monotonic()
            self._client.send("cancel")

    def forget(self) -> None:
        """The scene is closed: the worker need not keep its volumes."""
        if self._client is not None and self._client.running and not self.running:
            self._client.forget()

    def restart(self) -> None:
        """End the worker; the next run starts one with the settings as they are then. Does nothing during a run."""
        if not self.running and self._client is not None:
            self._client.stop()
            self._client = None

    def stop(self) -> None:
        """End the worker and forget the run, without a word to the listener: the panel is going away."""
        self._end()
        if self._client is not None:
            self._client.stop()

    def poll(self) -> None:
        """Handle what the worker has said since the last call. Never waits."""
        if self._client is None:
            return
        for reply in self._client.poll():
            if self.running and reply["id"] == self._request:
                self._handle(reply)
        if self.running and self._cancelled_at is not None and time.monotonic() - self._cancelled_at > _CANCEL_GRACE_S:
            self._client.stop(seconds=0)
            self._fail_with(
                _("The run was cancelled before a structure was finished."),
                _("The worker did not answer in time and was ended."),
                _("Start again when you like; the next run starts a new worker."),
            )

    def _handle(self, reply: dict) -> None:
        if reply["type"] == "progress":
            self._listener.progressed(reply["stage"], reply["fraction"], reply["structure"])
        elif reply["type"] == "error":
            self._fail_with(reply["problem"], reply["explanation"], reply["solution"])
        else:
            self._finish(reply)

    def _finish(self, reply: dict) -> None:
        from ..service import exchange

        try:
            transfer = exchange.read_result(reply)
            node = self._job.write(transfer, self.undo)
        except Exception as error:
            self._fail(error)
            return
        listener = self._listener
        self._end()
        listener.finished(node, transfer)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, RAUSlicerError):
            self._fail_with(error.problem, error.explanation, error.solution)
            return
        # An exception in a Qt slot goes nowhere, and the panel would wait for ever: every one becomes a message.
        logging.exception("RAUSlicer: unexpected error")
        self._fail_with(
            _("An unexpected error stopped the run: {error}").format(error=f"{type(error).__name__}: {error}"),
            _("This is a fault in RAUSlicer."),
            _("Try again; if it happens again, send the log to the developers."),
        )

    def _fail_with(self, problem: str, explanation: str, solution: str) -> None:
        listener = self._listener
        self._end()
        listener.failed(problem, explanation, solution)

    def _end(self) -> None:
        self._timer.stop()
        if self._folder is not None:
            remove(self._folder)
        self._listener = self._job = self._request = self._folder = self._cancelled_at = None


def worker_client() -> WorkerClient:
    """The client for this application: its own Python, or the one in the settings."""
    chosen = settings.load()
    # Another Python must not see the library paths that Slicer set for its own.
    environment = dict(slicer.util.startupEnvironment() if chosen.python else os.environ)
    if chosen.models_folder:
        environment["RAUSLICER_MODELS"] = chosen.models_folder
    python = chosen.python or shutil.which("PythonSlicer") or sys.executable
    return WorkerClient(python=python, environment=environment)
