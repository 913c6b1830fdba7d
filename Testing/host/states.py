"""Draws the panel alone in every state that users meet, at 350 pixels and wide, light and dark. Needs no model and no sample data.

Usage: python Testing/host/states.py FOLDER [STATE ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "Testing" / "Python" / "scene")]

from host import environment  # noqa: E402

_NARROW, _WIDE = 350, 640
_SHAPE = (40, 48, 44)
_NAMES = ("Left hippocampus", "Right hippocampus", "Left superior frontal gyrus (dorsolateral)", "Third ventricle", "Pineal gland")


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    reason = environment.missing()
    if reason:
        sys.exit(f"No pictures: the Slicer host {reason}")
    environment.prepare()
    from host import modules

    modules.install()
    states = States(Path(sys.argv[1]))
    chosen = sys.argv[2:] or [name for name in vars(States) if not name.startswith("_")]
    for name in chosen:
        states._draw(name)


class States:
    """One method a state; it gets the panel of an empty scene."""

    def __init__(self, folder: Path) -> None:
        from host import modules

        self._folder, self._modules = folder, modules
        folder.mkdir(parents=True, exist_ok=True)
        _module, self._entry = modules.load_module(ROOT / "RAUSlicer" / "RAUSlicer.py")

    def empty(self, panel) -> None:
        """Nothing is loaded."""

    def ready(self, panel) -> None:
        """Everything is loaded and paired."""
        self._load()

    def nothing_ticked(self, panel) -> None:
        """The button says why it is disabled."""
        self._load()
        panel.ui.noStructuresButton.click()

    def searching(self, panel) -> None:
        """The list is narrowed."""
        self._load()
        panel.ui.structuresSearch.text = "hippo left"

    def running(self, panel) -> None:
        """A run is under way."""
        self._load()
        panel._run._clock = iter([0.0, 0.0, 20.0, 20.0, 20.0]).__next__
        panel._run.show_running(True)
        panel._run.progressed("segmentation", 0.4, "Left superior frontal gyrus (dorsolateral)")
        panel.ui.inputsSection.enabled = panel.ui.structuresSection.enabled = False

    def results(self, panel) -> None:
        """Found, uncertain, not found; a draft and an accepted one."""
        self._run_by_hand(panel)
        panel._results.table.select(panel._results.table.rows[0].key)
        panel.ui.acceptButton.click()
        panel._results.table.select(panel._results.table.rows[1].key)

    def editing(self, panel) -> None:
        """The Segment Editor is open and nothing is painted yet."""
        self._run_by_hand(panel)
        panel._results.table.select(panel._results.table.rows[0].key)
        panel.ui.editButton.click()

    def painted(self, panel) -> None:
        """Two slices were corrected."""
        import numpy as np
        import slicer

        self.editing(panel)
        node = panel._results.node
        key = panel._results.table.rows[0].key
        target = panel.parameters.targetVolume
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, key, target)
        mask[20:22, 5:12, 5:12] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, key, target)
        self._modules.settle(500)

    def report(self, panel) -> None:
        """A report, and the answer to a question; both by a real worker."""
        self._run_by_hand(panel)
        for section in (panel.ui.inputsSection, panel.ui.resultsSection):
            section.collapsed = True
        panel.ui.meaningSection.collapsed = False
        for action in (panel._meaning.write, panel._meaning.ask):
            panel.ui.questionEdit.text = "Where is the left hippocampus?"
            action()
            while panel._meaning.running:
                self._modules.settle(50)

    def nothing_found(self, panel) -> None:
        """A run without any result."""
        self._run_by_hand(panel, found=0)

    def failed(self, panel) -> None:
        """A run that ended with an error."""
        self._load()
        panel.failed(
            "The computer ran out of memory.",
            "MemoryError: Unable to allocate 6.1 GiB.",
            "Close other programs, choose fewer structures, crop the target volume, or choose the CPU as the device.",
        )

    def advanced(self, panel) -> None:
        """What the usual case leaves alone."""
        self._load()
        for section in (panel.ui.inputsSection, panel.ui.structuresSection):
            section.collapsed = True
        panel.ui.advancedSection.collapsed = False
        panel._log.log.add("TransferJob: model embedded, device auto, localizer vlm")
        panel._log.log.add("matching (20 %)")
        panel.ui.logSection.collapsed = False

    def first_run(self, panel):
        """The one question before the first run."""
        from PySide6 import QtWidgets

        from RAUSlicerLib.ui import first_run

        lines = ["torch", "torchvision", "transformers>=5.23", "safetensors>=0.8", "monai>=1.6", "scikit-image>=0.26", "POT>=0.9", "sam2"]
        box = QtWidgets.QMessageBox()
        asked = first_run.FirstRun(None, print)
        shown = []

        def photograph() -> None:
            dialog = next(w for w in QtWidgets.QApplication.topLevelWidgets() if w.objectName == "firstRunDialog")
            shown.append(dialog.grab())
            dialog.done(0)

        from PySide6 import QtCore

        QtCore.QTimer.singleShot(300, photograph)
        asked._ask(lines)
        box.deleteLater()
        return shown[0]

    def _load(self):
        import nodes
        import numpy as np
        import slicer

        masks = {name: nodes.box((5 + 6 * k, 10 + 6 * k), (5, 25), (5, 25), shape=_SHAPE) for k, name in enumerate(_NAMES)}
        matrix = np.diag((-1.0, -1.0, 1.0, 1.0))
        reference = nodes.volume("Colin27 T1", matrix, _SHAPE)
        segmentation = nodes.segmentation(reference, masks, "AAL structures")
        colors = ((0.9, 0.4, 0.3), (0.3, 0.7, 0.9), (0.95, 0.85, 0.2), (0.1, 0.1, 0.15), (0.95, 0.95, 0.95))
        for name, color in zip(_NAMES, colors, strict=True):
            segmentation.GetSegmentation().GetSegment(name).SetColor(*color)
        target = nodes.volume("AX T1 MPRAGE POST GADOLINIUM 1mm ISO", matrix, _SHAPE)
        self._modules.settle(20)
        slicer.app.processEvents()
        return reference, segmentation, target, masks

    def _run_by_hand(self, panel, found: int = 4) -> None:
        """What a run would have written, without a run."""
        import dataclasses

        import SimpleITK as sitk

        from RAUSlicerLib.results import Localization, Status, StructureResult, Transfer
        from RAUSlicerLib.scene import segmentation_from_node
        from RAUSlicerLib.ui.jobs import TransferJob

        reference, segmentation, target, _masks = self._load()
        parts = segmentation_from_node(segmentation, reference)
        confidences, factors = (0.91, 0.42, 0.78, 0.55, 0.0), (1.1, 2.6, 0.97, 0.4, 1.0)
        statuses = (Status.FOUND, Status.LOW_CONFIDENCE, Status.FOUND, Status.LOW_CONFIDENCE, Status.NOT_FOUND)
        results = tuple(
            StructureResult(
                structure,
                statuses[k] if k < found else Status.NOT_FOUND,
                confidences[k] if k < found else 0.0,
                2.5,
                2.5 / factors[k],
                Localization(structure, 0.9, ((5.0, 5.0, 5.0 + 6 * k), (25.0, 25.0, 10.0 + 6 * k))),
            )
            for k, structure in enumerate(parts.structures)
        )
        absent = [result.structure for result in results if result.status is Status.NOT_FOUND]
        layers = [
            sitk.ChangeLabel(layer, {s.label: 0 for s in absent if s.layer == index}) if any(s.layer == index for s in absent) else layer
            for index, layer in enumerate(parts.layers)
        ]
        transfer = Transfer(parts.map_layers(layers), results, {"segmentation": 64.0})
        job = TransferJob(panel._inputs(reference, segmentation, target))
        panel._job = job
        panel.finished(job.write(dataclasses.replace(transfer), panel._controller.undo), transfer)
        self._modules.settle(20)

    def _draw(self, name: str) -> None:
        import slicer
        from PySide6 import QtGui, QtWidgets

        app = QtWidgets.QApplication.instance()
        for theme in ("light", "dark"):
            app.setPalette(dark_palette() if theme == "dark" else QtGui.QPalette(app.style().standardPalette()))
            for width in (_NARROW, _WIDE):
                slicer.mrmlScene.Clear(0)
                top = self._entry.widgetRepresentation()
                top.resize(width, 400)
                top.show()
                top.self().enter()
                self._modules.settle(20)
                picture = getattr(self, name)(top.self().panel)
                self._modules.settle(30)
                if picture is None:
                    top.resize(width, max(top.minimumSizeHint().height(), top.sizeHint().height()))
                    self._modules.settle(30)
                    picture = top.grab()
                path = self._folder / f"{name}-{theme}-{width}.png"
                picture.save(str(path))
                print(path, picture.width(), picture.height(), "minimum", top.minimumSizeHint().width())
                self._modules.close_panel(self._entry)


def dark_palette():
    """The colours of Slicer's dark style."""
    from PySide6 import QtGui

    palette = QtGui.QPalette()
    role = QtGui.QPalette
    colors = {
        role.Window: (50, 50, 50),
        role.WindowText: (255, 255, 255),
        role.Base: (28, 28, 28),
        role.AlternateBase: (50, 50, 50),
        role.ToolTipBase: (50, 50, 50),
        role.ToolTipText: (255, 255, 255),
        role.Text: (255, 255, 255),
        role.PlaceholderText: (160, 160, 160),
        role.Button: (50, 50, 50),
        role.ButtonText: (255, 255, 255),
        role.BrightText: (255, 60, 60),
        role.Highlight: (42, 130, 218),
        role.HighlightedText: (255, 255, 255),
    }
    for key, color in colors.items():
        palette.setColor(key, QtGui.QColor(*color))
    for key in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(role.Disabled, key, QtGui.QColor(140, 140, 140))
    return palette


if __name__ == "__main__":
    main()
