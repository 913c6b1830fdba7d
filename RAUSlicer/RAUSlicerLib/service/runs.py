"""Runs in the worker: the model and the last run stay warm, and what is too large is tried again smaller."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import CancelToken, ProgressCallback, ProgressEvent
from ..support.shortage import RETRY_STAGE, limited_memory, with_less
from ..support.text import name_key
from .interpreter import Interpreter
from .limits import use_threads
from .protocol import Message, ProtocolError

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..results import Transfer

# Beyond this a run is not kept for corrections, which then match again.
KEEP_VARIABLE = "RAUSLICER_KEEP_MB"
_KEEP_MB = 2048.0

Work = Callable[["Pipeline", int], "Transfer"]


class Runner:
    """Does what requests ask for, one at a time; ``Interpreter`` does what is asked about a result."""

    def __init__(self) -> None:
        self._loaded: tuple[tuple[str, str], Pipeline] | None = None
        self._case: tuple[str, str] | None = None
        self._interpreter = Interpreter()

    def forget(self) -> None:
        """Let go of the last run; the model stays loaded."""
        self._case = None
        self._interpreter.forget()
        if self._loaded is not None:
            self._loaded[1].forget()

    def run(self, message: Message, progress: ProgressCallback, cancel: CancelToken) -> Message:
        """The fields of the reply; a RAUSlicerError is whatever hinders the run and can be explained."""
        progress(ProgressEvent("starting", 0.0))
        if message["type"] in ("ask", "report"):
            return self._interpreter.run(message, progress, cancel)
        # A run needs all the memory there is.
        self._interpreter.forget()
        use_threads(message.get("threads"))
        return (self._correct if message["type"] == "correct" else self._transfer)(message, progress, cancel)

    def _transfer(self, message: Message, progress: ProgressCallback, cancel: CancelToken) -> Message:
        # Importing the networks takes seconds: cancel and shutdown are read meanwhile.
        from .exchange import read_request

        reference, target = read_request(message)
        localizer, names = message.get("localizer", "vlm"), message.get("structures")

        def work(pipeline: Pipeline, economy: int) -> Transfer:
            limits: dict[str, Any] = {"keep_mb": _keep_mb(), "economy": economy}
            return pipeline.transfer(reference, target, names, localizer=localizer, progress=progress, cancel=cancel, **limits)

        transfer = self._keeping_others(message, work, progress, cancel)
        return self._reply(message, transfer)

    def _correct(self, message: Message, progress: ProgressCallback, cancel: CancelToken) -> Message:
        from .exchange import read_correction, read_request

        correction = read_correction(message)
        same = self._same_case(message) and self._is_kept(correction.structure)

        def work(pipeline: Pipeline, economy: int) -> Transfer:
            limits: dict[str, Any] = {"keep_mb": _keep_mb(), "progress": progress, "cancel": cancel}
            # It may have been given up where memory ran out.
            if same and pipeline.state is not None:
                return pipeline.correct(correction, **limits)
            if "reference" not in message:
                raise ProtocolError(
                    "The run that is to be corrected is no longer kept.",
                    "The request names no files from which it could be made again.",
                    "Update once more: everything is then sent again.",
                )
            reference, target = read_request(message)
            return pipeline.correct(correction, reference, target, localizer=message.get("localizer", "vlm"), economy=economy, **limits)

        transfer = self._keeping_others(message, work, progress, cancel)
        return {**self._reply(message, transfer), "matched_again": "first pass" in transfer.timings}

    def _keeping_others(self, message: Message, work: Work, progress: ProgressCallback, cancel: CancelToken) -> Transfer:
        """As ``_attempt``; where one structure of the warm pair is done anew, the others can still be corrected afterwards."""
        before = self._loaded[1].state if self._loaded is not None and self._same_case(message) else None
        transfer = self._attempt(message, work, progress, cancel)
        after = self._loaded[1].state if self._loaded is not None else None
        if before is not None and after is not None and after is not before:
            redone = set(after.found)
            after.found.update({one: place for one, place in before.found.items() if one not in redone})
            after.masks.update({one: mask for one, mask in before.masks.items() if one not in redone})
        return transfer

    def _same_case(self, message: Message) -> bool:
        loaded = self._loaded
        return (
            loaded is not None
            and loaded[0] == _model(message)
            and loaded[1].state is not None
            and self._case == (message.get("case"), message.get("localizer", "vlm"))
        )

    def _is_kept(self, structure: str) -> bool:
        return name_key(structure) in {name_key(name) for name in self._kept()}

    def _kept(self) -> list[str]:
        """Names and segment ids of the structures of the run that is warm."""
        warm = self._loaded[1].state if self._loaded is not None else None
        found = warm.found if warm is not None else ()
        return sorted({name for structure in found for name in (structure.name, structure.id) if name})

    def _reply(self, message: Message, transfer: Transfer) -> Message:
        from .exchange import write_result

        kept = self._kept() if message.get("case") is not None else []
        self._case = (message["case"], message.get("localizer", "vlm")) if kept else None
        return {**write_result(transfer, Path(message["output"])), "warm": kept}

    def _attempt(self, message: Message, work: Work, progress: ProgressCallback, cancel: CancelToken) -> Transfer:
        """What ``work`` returns; where memory runs out, with less."""
        model, device = _model(message)

        def run(device: str, economy: int) -> Transfer:
            pipeline = self._pipeline(model, device)
            # A GPU's driver reserves address space that it never uses.
            most = message.get("memory_mb")
            with limited_memory(most) if pipeline.device.type == "cpu" else contextlib.nullcontext():
                return work(pipeline, economy)

        def again() -> None:
            self._free()
            progress(ProgressEvent(RETRY_STAGE, 0.0))

        transfer, notes = with_less(run, device, uses_gpu=self._uses_gpu, again=again, cancel=cancel)
        return replace(transfer, warnings=(*transfer.warnings, *notes))

    def _uses_gpu(self, device: str) -> bool:
        if self._loaded is not None:
            return bool(self._loaded[1].device.type == "cuda")
        # It may have run out while the model was loaded.
        torch = sys.modules.get("torch")
        return device in ("auto", "cuda") and torch is not None and bool(torch.cuda.is_available())

    def _free(self) -> None:
        self._case = None
        if self._loaded is not None:
            self._loaded[1].forget()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _pipeline(self, model: str, device: str) -> Pipeline:
        """The model, loaded; the last one stays warm."""
        from ..pipeline import Pipeline

        if self._loaded is None or self._loaded[0] != (model, device):
            # One at a time: a second one may not fit beside it.
            self._loaded = None
            self._loaded = (model, device), Pipeline(model, device)
        return self._loaded[1]


def _model(message: Message) -> tuple[str, str]:
    return message.get("model", "embedded"), message.get("device", "auto")


def _keep_mb() -> float:
    try:
        return float(os.environ.get(KEEP_VARIABLE, _KEEP_MB))
    except ValueError:
        return _KEEP_MB
