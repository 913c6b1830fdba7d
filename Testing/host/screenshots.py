"""Takes the pictures of Resources/Screenshots: the panel and four live views, before, during and after a run on the sample data.

Usage: python Testing/host/screenshots.py [FOLDER] [--localizer NAME] [--model NAME]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from host import environment

_LONGEST_RUN_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).parents[2] / "Resources" / "Screenshots")
    parser.add_argument("--localizer", default="vlm")
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    reason = environment.missing()
    if reason:
        sys.exit(f"No screenshots: the Slicer host {reason}")
    environment.prepare()
    from host import modules

    modules.install()
    _Session(arguments.output).run(arguments.localizer, arguments.model)


class _Session:
    """One hosted window, photographed step by step."""

    def __init__(self, output: Path) -> None:
        from host import modules
        from host.window import Window

        self._modules = modules
        self._output = output
        output.mkdir(parents=True, exist_ok=True)
        _module, self._entry = modules.load_module(modules.repository() / "RAUSlicer" / "RAUSlicer.py")
        top = self._entry.widgetRepresentation()
        self._panel = top.self().panel
        self._window = Window(top)
        self._window.show()
        top.self().enter()

    def run(self, localizer: str, model: str) -> None:
        import slicer

        reference, segmentation, target = self._load()
        self._window.show_volume(reference)
        self._surfaces(segmentation)
        self._take("reference.png")
        parameters = self._panel.parameters
        parameters.localizer, parameters.model = localizer, model
        segmentation.GetDisplayNode().SetVisibility(False)
        self._window.show_volume(target)
        self._panel.ui.transferButton.click()
        self._wait(lambda: self._panel.ui.progressBar.value > 20 or self._panel.ui.transferButton.visible)
        self._take("progress.png")
        self._wait(lambda: self._panel.ui.transferButton.visible)
        results = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not segmentation]
        if not results:
            problem = self._panel.ui.problemLabel.text or self._panel.ui.resultsLabel.text
            self._modules.close_panel(self._entry)
            sys.exit(f"The run wrote nothing: {problem}")
        self._surfaces(results[0])
        self._take("result.png")
        self._modules.close_panel(self._entry)

    def _load(self):
        import slicer

        data = self._modules.repository() / "Resources" / "SampleData"
        reference = slicer.util.loadVolume(str(data / "reference.nii.gz"), {"name": "Colin27 T1"})
        segmentation = slicer.util.loadSegmentation(str(data / "reference.seg.nrrd"), {"name": "AAL structures"})
        target = slicer.util.loadVolume(str(data / "target.nii.gz"), {"name": "ICBM152 T1"})
        self._modules.settle(50)
        return reference, segmentation, target

    def _surfaces(self, segmentation) -> None:
        segmentation.CreateClosedSurfaceRepresentation()
        self._window.three_d.fit()

    def _take(self, name: str) -> None:
        self._window.screenshot(self._output / name)
        print(self._output / name)

    def _wait(self, condition) -> None:
        end = time.monotonic() + _LONGEST_RUN_S
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"The run took more than {_LONGEST_RUN_S} s.")
            self._modules.settle(30)


if __name__ == "__main__":
    main()
