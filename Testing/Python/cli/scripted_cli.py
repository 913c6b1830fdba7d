"""The command line with a pipeline that copies the reference's labels, in a process of its own, and a signal at a chosen moment.

python scripted_cli.py SIGNAL MOMENT ARGUMENTS...: SIGNAL is a number or 0, MOMENT one of the names below.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

# Where a signal can come: the function at whose start it does.
MOMENTS = {
    "inputs": ("RAUSlicerLib.cli.transfer", "load_inputs"),
    "transfer": ("RAUSlicerLib.pipeline", "transfer"),
    "segmentation half": ("RAUSlicerLib.imaging.files", "_write"),
    "json": ("RAUSlicerLib.cli.transfer", "write_json"),
    "report": ("RAUSlicerLib.interpretation.rendering.files", "write_text"),
    "picture": ("RAUSlicerLib.pictures.style", "write_bytes"),
    "rename": ("RAUSlicerLib.support.outputs", "_settle"),
    "printing": ("RAUSlicerLib.cli.transfer", "_print_result"),
}


_ran: list[bool] = []


def main() -> int:
    number, moment, *arguments = sys.argv[1:]
    _script_pipeline()
    if moment in MOMENTS:
        module, name = MOMENTS[moment]
        _send_at(importlib.import_module(module), name, int(number))
    from RAUSlicerLib.cli.app import main as command

    return command(arguments)


def _send_at(module: types.ModuleType, name: str, number: int) -> None:
    function, sent = getattr(module, name), []

    def stopped(*arguments: Any, **named: Any) -> Any:
        # A format is proven before the run with what writes it afterwards.
        if not sent and (_ran or name != "_write"):
            sent.append(True)
            os.kill(os.getpid(), number)
        return function(*arguments, **named)

    setattr(module, name, stopped)


def _script_pipeline() -> None:
    from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer

    def transfer(references: Any, target: Any, structures: Any = None, *, cancel: Any, progress: Callable, **_named: Any) -> Transfer:
        import SimpleITK as sitk

        _ran.append(True)
        segmentation = references[0].segmentation
        labelmap = sitk.Image(segmentation.labelmap)
        labelmap.CopyInformation(target)
        # What was asked to stop before it began has nothing to keep.
        chosen = () if cancel.cancelled and not os.environ.get("KEEPS") else segmentation.select(structures)
        results = tuple(StructureResult(s, Status.FOUND, 0.9, 1.5, 1.4, Localization(s, 0.8, ((0, 0, 0), (1, 1, 1)))) for s in chosen)
        return Transfer(segmentation.map_layers([labelmap]), results, {"copying": 1.0}, (), cancel.cancelled, "none", "copy")

    module = types.ModuleType("RAUSlicerLib.pipeline")
    module.transfer = transfer  # type: ignore[attr-defined]
    sys.modules["RAUSlicerLib.pipeline"] = module


if __name__ == "__main__":
    sys.exit(main())
