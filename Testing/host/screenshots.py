"""Takes the pictures of Resources/Screenshots: the panel and four live views on the sample data, step by step as in docs/tutorial.md.

Usage: python Testing/host/screenshots.py [FOLDER] [--model NAME] [--structures "WORD,WORD"]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from host import environment

_LONGEST_RUN_S = 1800
# The structure that the tutorial looks at and corrects.
_SHOWN = "Left putamen"
_QUESTION = "How large is the left putamen?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).parents[2] / "Resources" / "Screenshots")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--structures", default="", help="only structures whose names hold one of these words; all without")
    arguments = parser.parse_args()
    reason = environment.missing()
    if reason:
        sys.exit(f"No screenshots: the Slicer host {reason}")
    environment.prepare()
    from host import modules

    modules.install()
    session = _Session(arguments.output)
    try:
        session.run(arguments.model, [word.strip().casefold() for word in arguments.structures.split(",") if word.strip()])
    finally:
        session.close()


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

    def run(self, model: str, words: list[str]) -> None:
        ui = self._panel.ui
        self._take("tutorial-1-start.png")
        ui.sampleDataButton.click()
        self._modules.settle(100)
        parameters = self._panel.parameters
        self._window.show_volume(parameters.referenceVolume)
        self._surfaces(parameters.referenceSegmentation)
        if words:
            segmentation = parameters.referenceSegmentation.GetSegmentation()
            names = {id_: segmentation.GetSegment(id_).GetName().casefold() for id_ in segmentation.GetSegmentIDs()}
            parameters.excludedSegments = [id_ for id_, name in names.items() if not any(word in name for word in words)]
        self._take("tutorial-2-loaded.png")
        parameters.model = model
        ui.transferButton.click()
        self._wait(lambda: ui.progressBar.value > 60 or ui.transferButton.visible)
        self._take("tutorial-3-running.png")
        self._wait_for_run()
        if self._panel.parameters.resultSegmentation is None:
            sys.exit(f"The run wrote nothing: {ui.problemLabel.text or ui.resultsLabel.text}")
        for view in self._window.slices:
            view.fit()
        ui.show3DButton.click()
        self._window.three_d.fit()
        self._select(_SHOWN)
        self._take("result.png")
        self._correct()
        self._report()

    def close(self) -> None:
        """End the worker and the panel."""
        self._modules.close_panel(self._entry)

    def _correct(self) -> None:
        ui = self._panel.ui
        ui.inputsSection.collapsed = True
        ui.editButton.click()
        self._paint()
        self._modules.settle(600)
        self._take("tutorial-5-correct.png")
        ui.updateButton.click()
        self._wait_for_run()
        if ui.messageBox.visible:
            sys.exit(f"The update failed: {ui.problemLabel.text} {ui.explanationLabel.text}")
        ui.doneEditingButton.click()
        ui.acceptButton.click()
        self._take("tutorial-6-updated.png")

    def _report(self) -> None:
        ui = self._panel.ui
        ui.structuresSection.collapsed = ui.inputsSection.collapsed = True
        ui.meaningSection.collapsed = False
        ui.reportButton.click()
        self._wait(lambda: not self._panel._meaning.running)
        ui.questionEdit.text = _QUESTION
        ui.askButton.click()
        self._wait(lambda: not self._panel._meaning.running)
        if ui.reportMessageLabel.visible:
            sys.exit(f"The report failed: {ui.reportMessageLabel.text}")
        self._modules.settle(300)
        self._window.scroll_to(ui.hereButton)
        self._window.scroll_to(ui.answerList)
        self._take("tutorial-7-report.png")

    def _paint(self) -> None:
        """Enlarge the shown structure by a rim of two voxels on the middle axial slice, as a user with a brush might."""
        import numpy as np
        import slicer
        from scipy.ndimage import binary_dilation

        node, target = self._panel.parameters.resultSegmentation, self._panel.parameters.targetVolume
        row = self._panel._results.table.selected[0]
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, row.key, target) > 0
        index = int(np.median(np.argwhere(mask)[:, 0]))
        mask[index] = binary_dilation(mask[index], iterations=2)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, row.key, target)

    def _select(self, name: str) -> None:
        rows = self._panel._results.table.rows
        chosen = next((row for row in rows if row.present and name.casefold() in row.name.casefold()), None)
        chosen = chosen or next(row for row in rows if row.present)
        self._panel._results.table.select(chosen.key)

    def _surfaces(self, segmentation) -> None:
        segmentation.CreateClosedSurfaceRepresentation()
        self._window.three_d.fit()

    def _take(self, name: str) -> None:
        self._window.screenshot(self._output / name)
        print(self._output / name, flush=True)

    def _wait_for_run(self) -> None:
        self._wait(lambda: self._panel.ui.transferButton.visible)
        self._modules.settle(600)

    def _wait(self, condition) -> None:
        end = time.monotonic() + _LONGEST_RUN_S
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"The run took more than {_LONGEST_RUN_S} s.")
            self._modules.settle(30)


if __name__ == "__main__":
    main()
