"""The real worker around a pipeline that does what the model's name says: what goes wrong in a run must be provoked at will."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import time
import types

from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.progress import ProgressEvent
from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer
from RAUSlicerLib.service import worker


class Pipeline:
    """A model by name, and the run that goes with it."""

    def __init__(self, model, device):
        self._model = model

    def transfer(self, reference, target, structures, *, localizer, progress, cancel):
        model = self._model
        print("a library prints to stdout", flush=True)
        os.system("echo a child process prints to stdout")
        if model == "wait":
            progress(ProgressEvent("segmentation", 0.5, "Liver"))
            while not cancel.cancelled:
                time.sleep(0.01)
        elif model == "deaf":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            progress(ProgressEvent("segmentation", 0.5, str(os.getpid())))
            time.sleep(600)
        elif model == "crash":
            os._exit(3)
        elif model == "memory":
            raise MemoryError("Unable to allocate 64 GiB")
        elif model == "model":
            raise ModelError("The model 'x' is damaged.", "A checksum differs.", "Install it again.")
        elif model == "package":
            importlib.import_module("no_such_package")
        elif model == "bug":
            raise ZeroDivisionError("division by zero")
        segmentation = dataclasses.replace(reference.segmentation, structures=reference.segmentation.select(structures))
        if model == "nothing":
            segmentation = segmentation.map_layers(layer * 0 for layer in segmentation.layers)
        found = Status.NOT_FOUND if model == "nothing" else Status.FOUND
        results = tuple(
            StructureResult(s, found, 0.75, 1.5, 1.25, Localization(s, 0.9, ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)), {4: (1.0, 2.0, 3.0, 4.0)}))
            for s in segmentation.structures
        )
        return Transfer(segmentation, results, {"all": 0.5}, ("A warning.",), cancel.cancelled, model, localizer)


if __name__ == "__main__":
    pipeline = types.ModuleType("RAUSlicerLib.pipeline")
    pipeline.Pipeline = Pipeline
    sys.modules["RAUSlicerLib.pipeline"] = pipeline
    worker.main()
