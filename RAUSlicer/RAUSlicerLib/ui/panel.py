"""The panel: shows the parameters, says what the button will do or why it can't, and follows the run."""

from __future__ import annotations

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from . import pairing, words
from .parameters import Parameters
from .results import ResultTable
from .run import Inputs, Listener, RunController
from .structures import StructureList


class Panel(VTKObservationMixin, Listener):
    """Wires the widgets of RAUSlicer.ui to the parameter node and to the run controller.

    Args:
        widget: The loaded .ui.
        controller: Runs the transfers.
        parameter_node: Returns the module's parameter node, making it where the scene has none.
    """

    def __init__(self, widget, controller: RunController, parameter_node) -> None:
        VTKObservationMixin.__init__(self)
        self._controller = controller
        self._parameter_node = parameter_node
        self._parameters: Parameters | None = None
        self._binding = None
        self._observed_segmentation = None
        self.ui = slicer.util.childWidgetVariables(widget)
        self._structures = StructureList(self.ui.structuresList, self._exclude)
        self._results = ResultTable(self.ui.resultsTable)
        self.ui.transferButton.clicked.connect(self._start)
        self.ui.cancelButton.clicked.connect(self._cancel)
        self.ui.undoButton.clicked.connect(self._undo)
        self.ui.allStructuresButton.clicked.connect(self._include_all)
        self.ui.noStructuresButton.clicked.connect(self._include_none)
        self._entered = False
        self._hide_message()
        self.ui.resultsSection.visible = False
        self._show_running(False)
        for event, handler in (
            (slicer.mrmlScene.StartCloseEvent, self._scene_closing),
            (slicer.mrmlScene.EndCloseEvent, self._scene_closed),
            (slicer.mrmlScene.NodeAddedEvent, self._scene_grew),
            (slicer.mrmlScene.EndImportEvent, self._scene_grew),
        ):
            self.addObserver(slicer.mrmlScene, event, handler)

    @property
    def parameters(self) -> Parameters | None:
        return self._parameters

    def enter(self) -> None:
        """The user opened the module: bind the parameter node and guess inputs that are not chosen yet."""
        self._entered = True
        self._bind()

    def exit(self) -> None:
        """The user opened another module. A run goes on."""
        self._entered = False
        self._release()

    def cleanup(self) -> None:
        """The module is going away."""
        self.exit()
        self.removeObservers()

    # -- parameter node

    def _bind(self) -> None:
        if self._parameters is None:
            self._parameters = Parameters(self._parameter_node())
            self._binding = self._parameters.connectGui(self.ui)
            self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._refresh)
        pairing.fill_in(self._parameters, slicer.mrmlScene)
        self._refresh()

    def _release(self) -> None:
        if self._parameters is not None:
            self._observe_segmentation(None)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._refresh)
            self._parameters.disconnectGui(self._binding)
            self._parameters = self._binding = None

    def _scene_closing(self, _caller=None, _event=None) -> None:
        self._release()
        # What is running would have nowhere to go; its listener says so.
        self._controller.cancel()

    def _scene_closed(self, _caller=None, _event=None) -> None:
        self._results.clear()
        self.ui.resultsSection.visible = False
        if self._entered:
            self._bind()

    def _scene_grew(self, _caller=None, _event=None) -> None:
        # A node that was just added is filled in by its loader only afterwards: look when Qt is idle, once however many were added.
        if self._entered and not slicer.mrmlScene.IsBatchProcessing():
            qt.QTimer.singleShot(0, self._guess)

    def _guess(self) -> None:
        if self._entered and self._parameters is not None and not self._controller.running:
            pairing.fill_in(self._parameters, slicer.mrmlScene)
            self._refresh()

    def _observe_segmentation(self, node) -> None:
        if node is self._observed_segmentation:
            return
        events = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved, slicer.vtkSegmentation.SegmentModified)
        for observed, add_or_remove in ((self._observed_segmentation, self.removeObserver), (node, self.addObserver)):
            if observed is not None:
                for event in events:
                    add_or_remove(observed.GetSegmentation(), event, self._refresh)
        self._observed_segmentation = node

    # -- structures

    def _exclude(self, ids: list[str]) -> None:
        if self._parameters is not None:
            self._parameters.excludedSegments = ids
            self._refresh()

    def _include_all(self) -> None:
        self._exclude([])

    def _include_none(self) -> None:
        self._exclude(self._structures.ids)

    # -- what is shown

    def _refresh(self, _caller=None, _event=None) -> None:
        parameters = self._parameters
        if parameters is None:
            return
        segmentation, target = parameters.referenceSegmentation, parameters.targetVolume
        excluded = list(parameters.excludedSegments)
        self._observe_segmentation(segmentation)
        self._structures.show(segmentation, excluded)
        count = self._structures.count
        ticked = count - sum(id_ in excluded for id_ in self._structures.ids)
        self.ui.structuresCountLabel.text = _("{ticked} of {count} ticked").format(ticked=ticked, count=count) if count else ""
        reason = words.why_not(parameters.referenceVolume, segmentation, target, count, ticked)
        self.ui.transferButton.enabled = reason is None
        self.ui.transferButton.text = words.button(ticked, target.GetName()) if reason is None else _("Transfer structures")
        self.ui.transferButton.toolTip = reason or _("Find the ticked structures in {target}.").format(target=target.GetName())
        note = words.same_volume() if reason is None and parameters.referenceVolume is target else ""
        self.ui.reasonLabel.text = reason or note
        self.ui.reasonLabel.visible = bool(self.ui.reasonLabel.text) and not self._controller.running
        self.ui.undoButton.enabled = self._controller.can_undo and not self._controller.running

    def _show_running(self, running: bool) -> None:
        self.ui.transferButton.visible = not running
        self.ui.cancelButton.visible = running
        self.ui.cancelButton.enabled = True
        self.ui.cancelButton.text = _("Cancel")
        self.ui.progressBar.visible = running
        self.ui.progressLabel.visible = running
        self.ui.inputsSection.enabled = not running
        self.ui.structuresSection.enabled = not running
        self._refresh()

    def _show_message(self, problem: str, explanation: str = "", solution: str = "") -> None:
        for label, text in (
            (self.ui.problemLabel, problem),
            (self.ui.explanationLabel, explanation),
            (self.ui.solutionLabel, solution),
        ):
            label.text = text
            label.visible = bool(text)
        self.ui.messageBox.visible = True

    def _hide_message(self) -> None:
        self.ui.messageBox.visible = False

    # -- the run

    def _start(self) -> None:
        parameters = self._parameters
        self._hide_message()
        self.progressed(_("starting"), 0.0, None)
        self._show_running(True)
        # The snapshot of large volumes takes a moment; the user sees the panel react first.
        slicer.app.processEvents()
        inputs = Inputs(
            reference_volume=parameters.referenceVolume,
            reference_segmentation=parameters.referenceSegmentation,
            target_volume=parameters.targetVolume,
            structures=self._structures.names(list(parameters.excludedSegments)),
            localizer=parameters.localizer,
            model=parameters.model,
            device=parameters.device,
        )
        self._controller.start(inputs, self)

    def _cancel(self) -> None:
        self.ui.cancelButton.enabled = False
        self.ui.cancelButton.text = _("Cancelling…")
        self._controller.cancel()

    def _undo(self) -> None:
        self._controller.undo()
        self._results.clear()
        self.ui.resultsLabel.text = _("The run was undone.")
        self._refresh()

    # -- Listener

    def progressed(self, stage: str, fraction: float, structure: str | None) -> None:
        self.ui.progressBar.value = round(100 * fraction)
        self.ui.progressLabel.text = words.progress(stage, structure)

    def finished(self, node, transfer) -> None:
        self._show_running(False)
        self._results.show(transfer.results)
        statuses = [result.status.value for result in transfer.results]
        seconds = sum(transfer.timings.values()) or None
        name = node.GetName() if node is not None else None
        self.ui.resultsLabel.text = words.summary(statuses, transfer.cancelled, name, seconds)
        self.ui.resultsSection.visible = True
        self._refresh()
        if transfer.warnings:
            self._show_message(_("Please note"), "\n".join(transfer.warnings))

    def failed(self, problem: str, explanation: str, solution: str) -> None:
        self._show_running(False)
        self._show_message(problem, explanation, solution)
