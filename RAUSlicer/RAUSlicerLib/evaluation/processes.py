"""The benchmark's side of its worker processes: starts them, asks them, and starts another where one has died."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Any

from ..progress import CancelToken
from ..support.shortage import ended_for_memory, kills_for_memory

_LOOK_SECONDS = 0.2


class Cancelled(Exception):
    """The user has stopped the run in progress; nothing of it is kept."""


class Processes:
    """One worker process a name, started when it is first asked. Use it as a context: they end with it."""

    def __init__(self, model: str, device: str) -> None:
        self._model, self._device = model, device
        self._running: dict[str, _Process] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._running.values():
            process.end()
        self._running.clear()

    def ask(self, name: str, request: dict[str, Any], cancel: CancelToken) -> dict[str, Any]:
        """The answer of a process to a request; ``{"error": why}`` if it died of it.

        Raises:
            Cancelled: the user wanted to stop before it was there.
        """
        process = self._running.get(name)
        if process is None:
            process = self._running[name] = _Process(self._model, self._device)
        try:
            answer = process.ask(request, cancel)
        except BaseException:
            self._running.pop(name).end()
            raise
        if answer is None:
            self._running.pop(name)
            return {"error": process.last_words()}
        return answer


class _Process:
    def __init__(self, model: str, device: str) -> None:
        self._kills = kills_for_memory()
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", model, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Ctrl-C in the terminal is for the benchmark, which then ends its processes itself.
            start_new_session=True,
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, request: dict[str, Any], cancel: CancelToken) -> dict[str, Any] | None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return None
        while not cancel.cancelled:
            try:
                line = self._answers.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            return None if line is None else json.loads(line)
        raise Cancelled

    def last_words(self) -> str:
        """Why a process that has ended did so."""
        code = self._child.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:]
        self._errors.close()
        short = ended_for_memory(code, last, (self._kills, kills_for_memory()))
        said = last[0] if last else "it said nothing"
        return f"the process ended with code {code}: {said if short is None else f'it ran out of memory. {short}'}"

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        self._errors.close()
