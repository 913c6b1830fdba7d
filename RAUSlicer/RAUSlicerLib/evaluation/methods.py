"""Runs one method on one pair in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, RAUSlicerError
from ..imaging.segmentation import Reference, Structure
from ..inputs import load_inputs
from ..progress import CancelToken, ignore
from ..protocols import Propagator
from ..results import Localization, Status
from ..segmentation.resolution import resolve

# Classes by name, so that a method costs nothing until it is used.
_PROPAGATORS = {
    "copy": "baselines.copy:CopyPropagator",
    "affine": "baselines.affine:AffinePropagator",
    "demons": "baselines.demons:DemonsPropagator",
    "sam2-memory": "baselines.sam2_memory:Sam2MemoryPropagator",
}
_LOCALIZERS = {"rauslicer": "vlm", "rauslicer-registration": "registration"}
METHODS = (*_PROPAGATORS, *_LOCALIZERS)

LABELMAP = "labelmap.nii.gz"
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """What a method made of a pair: label map on the target's grid, names it says are present, wall time of the method alone."""

    labelmap: sitk.Image
    present: tuple[str, ...]
    seconds: float


def run_method(method: str, reference: Reference, target: sitk.Image, structures: tuple[Structure, ...]) -> Outcome:
    """Segment ``structures`` of one reference in a target.

    Raises:
        InputError: there is no such method.
    """
    if method in _LOCALIZERS:
        return _run_pipeline(_LOCALIZERS[method], reference, target, structures)
    if method not in _PROPAGATORS:
        raise InputError(f"There is no method named {method!r}.", f"Known ones: {', '.join(METHODS)}.", "Choose among these.")
    room, name = _PROPAGATORS[method].split(":")
    propagator: Propagator = getattr(importlib.import_module(f"..{room}", __package__), name)()
    start = time.perf_counter()
    everywhere = [Localization(structure, 1.0, None) for structure in structures]
    masks = propagator.segment([reference], target, everywhere, {}, ignore, CancelToken())
    labelmap = resolve(masks, structures, target).labelmap
    seconds = time.perf_counter() - start
    found = set(np.unique(sitk.GetArrayViewFromImage(labelmap)).tolist())
    return Outcome(labelmap, tuple(structure.name for structure in structures if structure.label in found), seconds)


def _run_pipeline(localizer: str, reference: Reference, target: sitk.Image, structures: tuple[Structure, ...]) -> Outcome:
    from ..pipeline import transfer

    start = time.perf_counter()
    result = transfer(reference, target, structures=[structure.name for structure in structures], localizer=localizer)
    seconds = time.perf_counter() - start
    present = tuple(outcome.structure.name for outcome in result.results if outcome.status is not Status.NOT_FOUND)
    return Outcome(result.segmentation.labelmap, present, seconds)


def peak_memory_mb() -> float:
    """The most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage also counts the parent's memory from before exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        inputs = load_inputs([(Path(job["reference"]), Path(job["reference_segmentation"]))], Path(job["target"]))
        reference = inputs.references[0]
        structures = tuple(structure for structure in reference.segmentation.structures if structure.label in job["labels"])
        outcome = run_method(job["method"], reference, inputs.target, structures)
    except (RAUSlicerError, ImportError) as error:
        document: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
    else:
        sitk.WriteImage(outcome.labelmap, str(folder / LABELMAP))
        document = {"present": outcome.present, "seconds": outcome.seconds, "peak_mb": peak_memory_mb()}
    (folder / OUTCOME).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
