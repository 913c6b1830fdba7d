"""The process in which methods run: it reads a trial a line, writes an outcome a line, and keeps its models open in between.

A process of its own keeps a method's memory its own, and a crash or a full memory from ending the benchmark.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import SimpleITK as sitk

LABELMAP = "labelmap.nii.gz"


def peak_memory_mb() -> float:
    """The most memory that this process has held since `forget_peak`, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage also counts the parent's memory from before exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def forget_peak() -> None:
    """Start measuring anew; only Linux can, elsewhere a peak is that of all runs so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def serve(model: str, device: str) -> None:
    """MethodAnswer requests until the input ends; does not return."""
    # Libraries print to standard output; the answers go to a copy of it that they don't know.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from ..errors import RAUSlicerError
    from .methods import Bench

    bench = Bench(model, device)
    for line in _requests():
        request = json.loads(line)
        forget_peak()
        try:
            answer = _answer(bench, request)
        except (RAUSlicerError, ImportError, RuntimeError, MemoryError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _requests() -> Iterator[str]:
    """The lines of the input. It ends with the benchmark, however that ends, and then this process does, in the middle of its work."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            # What a method has started ends too.
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
    while True:
        yield lines.get()


def _answer(bench: Any, request: dict[str, Any]) -> dict[str, Any]:
    from ..inputs import load_inputs

    pairs = [(Path(volume), Path(segmentation)) for volume, segmentation in request["references"]]
    inputs = load_inputs(pairs, Path(request["target"]))
    wanted = set(request["labels"])
    structures = tuple(s for s in inputs.references[0].segmentation.structures if s.label in wanted)
    outcome = bench.run(request["method"], inputs.references, inputs.target, structures)
    sitk.WriteImage(outcome.labelmap, str(Path(request["folder"]) / LABELMAP))
    return {
        "answers": {label: asdict(answer) for label, answer in outcome.answers.items()},
        "seconds": outcome.seconds,
        "load_seconds": outcome.load_seconds,
        "gives_boxes": outcome.gives_boxes,
        "peak_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
