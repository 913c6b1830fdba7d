"""Runs one job at a time in the worker: send, poll, write. No widgets; the panel and the script interface share it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from ..errors import RAUSlicerError
from ..scene.undo import UndoSteps
from ..service.client import WorkerClient
from ..service.worker_log import place_of
from ..support.shortage import RETRY_STAGE
from . import settings
from .jobs import CorrectionJob, Inputs, RedoJob, TransferJob
from .meaning_jobs import QuestionJob, ReportJob

__all__ = ["CorrectionJob", "Inputs", "Listener", "QuestionJob", "RedoJob", "ReportJob", "RunController", "TransferJob", "worker_client"]

_POLL_MS = 50
# This long after a cancel the panel is free again, whatever the worker does.
_CANCEL_S = 2.0
# Finished structures are worth more patience, which the user need not have: they are written when they come.
_KEEPING_S = 30.0


class Listener:
    """Is told how a run goes.

    Every run ends with exactly one of ``finished`` and ``failed``; after a cancel, ``released`` comes before where they are slow to come.
    """

    def progressed(self, stage: str, fraction: float, structure: str | None) -> None:
        """One step forward; ``fraction`` is of the whole run."""

    def released(self) -> None:
        """The user has cancelled and need not wait any longer; what was finished is still to come."""

    def finished(self, node, transfer) -> None:
        """The result is in the scene; ``node`` is None where nothing was found. Reports and questions tell what they are about."""

    def failed(self, problem: str, explanation: str, solution: str) -> None:
        """The run ended without a result."""


@dataclass
class _Run:
    """A run that has not ended; ``request`` is None until it is sent. ``partial``: at least one structure is finished."""

    job: TransferJob | RedoJob | CorrectionJob | ReportJob | QuestionJob
    listener: Listener
    request: str | None = None
    folder: Path | None = None
    cancelled_at: float | None = None
    partial: bool = False


class RunController:
    """Runs one job at a time in the worker and polls it from a timer on the main thread.

    A cancelled run whose finished structures are slow to come makes room for the next one, which is sent once they are written.
    """

    def __init__(self, make_client: Callable[[], WorkerClient]) -> None:
        self._make_client = make_client
        self._client: WorkerClient | None = None
        self._undo = UndoSteps()
        self._run: _Run | None = None
        self._late: _Run | None = None
        self._restart_due = False
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self.poll)

    @property
    def running(self) -> bool:
        return self._run is not None

    @property
    def cancelling(self) -> bool:
        return self._run is not None and self._run.cancelled_at is not None

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

    def run(self, job, listener) -> None:
        """Take a snapshot of the job's nodes and hand it to the worker. What goes wrong is told to the listener."""
        if self.running:
            listener.failed(_("Another run is under way."), _("Runs go one at a time."), _("Wait for it to end, or cancel it."))
            return
        self._run = _Run(job, listener)
        try:
            job.prepare()
        except Exception as error:
            self._fail(self._run, error)
            return
        self._timer.start()
        if self._late is not None:
            listener.progressed("waiting", 0.0, None)
        self._go_on()

    def cancel(self) -> None:
        """Ask the worker to stop and keep what is finished; it is ended where it does not answer."""
        run = self._run
        if run is None or run.cancelled_at is not None:
            return
        if run.request is None or self._client is None:
            self._fail_with(run, *_nothing_finished(_("It had not begun yet.")))
            return
        run.cancelled_at = time.monotonic()
        self._client.send("cancel")

    def forget(self) -> None:
        """The scene is closed: the worker need not keep its volumes."""
        if self._client is not None and self._client.running and not self.running:
            self._client.forget()

    def restart(self) -> None:
        """End the worker; the next run starts one with the settings as they are then. Does nothing during a run."""
        if not self.running and self._client is not None:
            self._restart_due = True
            self._go_on()

    def stop(self) -> None:
        """End the worker and forget the run, without a word to the listener: the panel is going away."""
        for run in (self._late, self._run):
            if run is not None:
                self._end(run)
        if self._client is not None:
            self._client.stop()

    def poll(self) -> None:
        """Handle what the worker has said since the last call. Never waits."""
        if self._client is None:
            return
        for reply in self._client.poll():
            for run in (self._late, self._run):
                if run is not None and run.request is not None and reply["id"] == run.request:
                    self._handle(run, reply)
        for run in (self._late, self._run):
            if run is not None and run.cancelled_at is not None:
                self._lose_patience(run, time.monotonic() - run.cancelled_at)

    def _lose_patience(self, run: _Run, waited: float) -> None:
        if waited > (_KEEPING_S if run.partial else _CANCEL_S):
            self._client.stop(seconds=0)
            ended = _("The worker did not answer in time and was ended.")
            if run.partial:
                again = _("Start again for the structures you need; the next run starts a new worker.")
                self._fail_with(run, _("The run was cancelled, and what it had finished could not be kept."), ended, again)
            else:
                self._fail_with(run, *_nothing_finished(ended))
        elif run is self._run and waited > _CANCEL_S:
            self._late, self._run = run, None
            run.listener.released()

    def _handle(self, run: _Run, reply: dict) -> None:
        if reply["type"] == "progress":
            run.partial = reply["stage"] != RETRY_STAGE and (run.partial or reply["structure"] is not None)
            if run is self._run:
                run.listener.progressed(reply["stage"], reply["fraction"], reply["structure"])
        elif reply["type"] == "error":
            self._fail_with(run, reply["problem"], reply["explanation"], reply["solution"])
        else:
            self._finish(run, reply)

    def _finish(self, run: _Run, reply: dict) -> None:
        try:
            told = run.job.complete(reply, self.undo)
        except Exception as error:
            self._fail(run, error)
            return
        self._end(run)
        run.listener.finished(*told)
        self._go_on()

    def _fail(self, run: _Run, error: Exception) -> None:
        if isinstance(error, RAUSlicerError):
            self._fail_with(run, error.problem, error.explanation, error.solution)
            return
        # An exception in a Qt slot goes nowhere, and the panel would wait for ever: every one becomes a message. Its own words may hold
        # names of patients and files.
        said = f"{type(error).__name__} ({place_of(error)})"
        logging.error("RAUSlicer: unexpected error: %s", said)
        self._fail_with(
            run,
            _("An unexpected error stopped the run: {error}").format(error=said),
            _("This is a fault in RAUSlicer."),
            _("Try again; if it happens again, send the log to the developers."),
        )

    def _fail_with(self, run: _Run, problem: str, explanation: str, solution: str) -> None:
        self._end(run)
        run.listener.failed(problem, explanation, solution)
        self._go_on()

    def _end(self, run: _Run) -> None:
        if run.folder is not None:
            shutil.rmtree(run.folder, ignore_errors=True)
        if run is self._late:
            self._late = None
        else:
            self._run = None
        if self._run is None and self._late is None:
            self._timer.stop()

    def _go_on(self) -> None:
        """Do what had to wait until the worker is free."""
        if self._late is not None or (self._run is not None and self._run.request is not None):
            return
        if self._restart_due and self._client is not None:
            self._client.stop()
            self._client = None
        self._restart_due = False
        if self._run is None:
            return
        try:
            if self._client is None:
                self._client = self._make_client()
            self._run.folder = self._client.new_run_folder()
            self._run.request = self._run.job.send(self._client, self._run.folder)
        except Exception as error:
            self._fail(self._run, error)


def _nothing_finished(explanation: str) -> tuple[str, str, str]:
    problem = _("The run was cancelled before a structure was finished.")
    return problem, explanation, _("Start again when you like; the next run starts a new worker where that is needed.")


def worker_client() -> WorkerClient:
    """The client for this application: its own Python, or the one in the settings."""
    python, environment = settings.worker_python()
    return WorkerClient(python=python, environment=environment)
