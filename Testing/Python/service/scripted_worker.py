"""The real worker around a pipeline and a measuring that do what names say: what goes wrong must be provoked at will."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.imaging.segmentation import Segmentation
from RAUSlicerLib.progress import ProgressEvent
from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer
from RAUSlicerLib.service import worker


def step(checkpoint=lambda: None):
    """A step that lasts until the test lets go of it; it hears nothing but ``checkpoint``."""
    release, end = Path(os.environ["SCRIPTED_RELEASE"]), time.monotonic() + 600
    while not release.exists() and time.monotonic() < end:
        checkpoint()
        time.sleep(0.01)


class OutOfMemoryError(RuntimeError):
    """As torch calls a GPU's."""


class RunState:
    """A run that is kept: what the worker asks of it."""

    def __init__(self, reference, target, structures):
        self.reference, self.target = reference, target
        self.found = dict.fromkeys(reference.segmentation.select(structures), "a place")
        self.masks = dict.fromkeys(self.found, "a mask")


class Pipeline:
    """A model by name, and the run that goes with it."""

    def __init__(self, model, device):
        self._model = model
        self.device = types.SimpleNamespace(type="cuda" if model == "small gpu" and device == "auto" else "cpu")
        self.state = None

    def forget(self):
        self.state = None

    def correct(self, correction, reference=None, target=None, *, keep_mb, economy=0, progress, cancel, localizer="vlm"):
        """The mask as it was sent, as the structure; the first pass only where it is needed."""
        timings = {"correction": 0.1}
        if reference is not None:
            self.state = RunState(reference, target, [correction.structure])
            timings["first pass"] = 1.0
        reference = self.state.reference
        structure = reference.segmentation.select([correction.structure])[0]
        labels = sitk.Cast(correction.mask * structure.label, sitk.sitkUInt8)
        result = StructureResult(structure, Status.FOUND, 0.5, 1.0, 1.0, Localization(structure, 0.9, correction.box_mm))
        return Transfer(
            Segmentation(labels, (dataclasses.replace(structure, layer=0),)), (result,), timings, (), False, self._model, "copy"
        )

    def transfer(self, reference, target, structures, *, localizer, keep_mb, economy, progress, cancel):
        model = self._model
        print("a library prints to stdout", flush=True)
        os.system("echo a child process prints to stdout")
        if model == "wait":
            progress(ProgressEvent("segmentation", 0.5, "Liver"))
            while not cancel.cancelled:
                time.sleep(0.01)
        elif model == "checking":
            for structure in reference.segmentation.select(structures):
                progress(ProgressEvent("segmentation", 0.8, structure.name))
            progress(ProgressEvent("confidence", 0.92))
            while not cancel.cancelled:
                time.sleep(0.01)
        elif model == "slow checking":
            progress(ProgressEvent("segmentation", 0.8, "Liver"))
            progress(ProgressEvent("confidence", 0.92))
            step()
        elif model == "deaf":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            progress(ProgressEvent("segmentation", 0.5, str(os.getpid())))
            time.sleep(600)
        elif model == "long step":
            progress(ProgressEvent("matching", 0.2))
            step()
        elif model == "long drawing":
            progress(ProgressEvent("segmentation", 0.5))
            step()
        elif model == "slow end":
            progress(ProgressEvent("segmentation", 0.5, "Liver"))
            while not cancel.cancelled:
                time.sleep(0.01)
            step()
        elif model == "crash":
            os._exit(3)
        elif model == "blas":
            print("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", file=sys.stderr, flush=True)
            os._exit(1)
        elif model == "memory":
            np.empty(1 << 50, np.uint8)
        elif model == "large":
            # 256 MiB, then 64 MiB.
            np.ones((256 >> (2 * economy)) << 20, np.uint8)
        elif model == "small gpu" and self.device.type == "cuda":
            raise OutOfMemoryError("CUDA out of memory.")
        elif model == "model":
            raise ModelError("The model 'x' is damaged.", "A checksum differs.", "Install it again.")
        elif model == "package":
            importlib.import_module("no_such_package")
        elif model == "bug":
            raise ZeroDivisionError("division by zero in the volume of " + " ".join(("Jane", "Doe")))
        if keep_mb > 0:
            self.state = RunState(reference, target, structures)
        segmentation = dataclasses.replace(reference.segmentation, structures=reference.segmentation.select(structures))
        if model == "nothing":
            segmentation = segmentation.map_layers(layer * 0 for layer in segmentation.layers)
        found = Status.NOT_FOUND if model == "nothing" else Status.FOUND
        results = tuple(
            StructureResult(s, found, 0.75, 1.5, 1.25, Localization(s, 0.9, ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)), {4: (1.0, 2.0, 3.0, 4.0)}))
            for s in segmentation.structures
        )
        return Transfer(segmentation, results, {"all": 0.5}, ("A warning.",), cancel.cancelled, model, localizer)


def measure(volume, segmentation, results, reference=None, library=None, checkpoint=lambda: None):
    """The volumes that the request says; the first structure's name says what goes wrong."""
    from RAUSlicerLib.imaging.checks import distinct_names
    from RAUSlicerLib.interpretation.evidence import Comparison, Measurement, Quantity, StructureFindings

    print("measured", flush=True)
    names = distinct_names(tuple(result.structure for result in results))
    if names[0] == "slow":
        step(checkpoint)
    elif names[0] == "crash":
        os._exit(3)
    elif names[0] == "bug":
        raise ZeroDivisionError("division by zero in the volume of " + " ".join(("Jane", "Doe")))
    out = []
    for name, result in zip(names, results, strict=True):
        there = segmentation.array(result.structure)
        volume_ml = float(there.sum() * np.prod(volume.GetSpacing()) / 1000)
        compared = Comparison(reference=result.reference_volume_ml or None)
        held = (Measurement(Quantity.VOLUME, volume_ml, "mL", (name,), compared),) if there.any() else ()
        out.append(StructureFindings(name, result.status, result.confidence, held))
    return tuple(out)


if __name__ == "__main__":
    measuring = types.ModuleType("RAUSlicerLib.interpretation.measuring")
    measuring.measure = measure
    sys.modules["RAUSlicerLib.interpretation.measuring"] = measuring
    pipeline = types.ModuleType("RAUSlicerLib.pipeline")
    pipeline.Pipeline = Pipeline
    sys.modules["RAUSlicerLib.pipeline"] = pipeline
    worker.main()
