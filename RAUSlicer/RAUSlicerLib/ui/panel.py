"""The panel: shows the parameters, says what the button will do or why it can't, and follows the run."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import RAUSlicerError
from ..scene import record, views
from . import sample_data, settings, words
from .advanced import AdvancedSection
from .first_run import FirstRun
from .jobs import CorrectionJob, Inputs, RedoJob, TransferJob
from .log import LogSection
from .meaning_section import MeaningSection
from .parameters import Parameters
from .results_section import ResultsSection
from .run import Listener, RunController
from .run_section import RunSection
from .scene_binding import SceneBinding
from .shortcuts import Shortcuts
from .structures import StructureList


class Panel(Listener):
    """Wires the widgets of RAUSlicer.ui to the parameter node and to the run controller.

    Args:
        widget: The loaded .ui.
        controller: Runs the jobs.
        parameter_node: Returns the module's parameter node, making it where the scene has none.
    """

    def __init__(self, widget, controller: RunController, parameter_node) -> None:
        self._controller = controller
        self._shown_result = None
        self._job = self._late_job = None
        self._stage = ""
        self.ui = slicer.util.childWidgetVariables(widget)
        self._structures = StructureList(self.ui.structuresList, self.ui.structuresSearch, self._exclude, self._refresh)
        self._run = RunSection(self.ui)
        self._meaning = None
        self._results = ResultsSection(self.ui, lambda: controller.undo, self._redo, self._correct, self._chosen)
        self._meaning = MeaningSection(self.ui, self._results, controller, self._refresh, lambda text: self._log.log.add(text))
        self._advanced = AdvancedSection(self.ui, self._choose_model, controller.restart)
        self._log = LogSection(self.ui, lambda: controller.log)
        self._first_run = FirstRun(widget, self._log.log.add)
        self._shortcuts = Shortcuts(
            widget,
            {
                "Ctrl+Return": self._start_or_update,
                "Ctrl+Backspace": self._cancel,
                "Ctrl+Down": lambda: self._results.table.select_next(1),
                "Ctrl+Up": lambda: self._results.table.select_next(-1),
                "Ctrl+Shift+A": self._results.accept,
            },
        )
        self.ui.resultSelector.addAttribute("vtkMRMLSegmentationNode", record.RESULT_ATTRIBUTE)
        for button, action in (
            (self.ui.transferButton, self._start),
            (self.ui.cancelButton, self._cancel),
            (self.ui.sampleDataButton, self._load_sample_data),
            (self.ui.allStructuresButton, lambda: self._exclude(self._structures.excluded_after(True))),
            (self.ui.noStructuresButton, lambda: self._exclude(self._structures.excluded_after(False))),
        ):
            button.clicked.connect(lambda _checked=False, action=action: action())
        self._scene = SceneBinding(
            self.ui, parameter_node, lambda: controller.running, self._refresh, self._scene_closing, self._scene_closed
        )

    @property
    def parameters(self) -> Parameters | None:
        """What the user has chosen; None while the module is not entered."""
        return self._scene.parameters

    def enter(self) -> None:
        """The user opened the module: bind the parameter node and guess inputs that are not chosen yet."""
        self._shortcuts.install()
        self._results.editor.enter()
        self._scene.enter()

    def exit(self) -> None:
        """The user opened another module. A run goes on."""
        self._shortcuts.remove()
        self._results.editor.exit()
        self._structures.observe(None)
        self._scene.exit()

    def cleanup(self) -> None:
        """The module is going away."""
        self.exit()
        self._results.update.cleanup()
        self._meaning.cleanup()
        self._advanced.models.close()
        self._log.cleanup()
        self._scene.cleanup()

    # -- the scene

    def _scene_closing(self) -> None:
        self._results.forget()
        self._meaning.forget()
        self._structures.observe(None)
        # What is running would have nowhere to go; its listener says so.
        self._controller.cancel()

    def _scene_closed(self) -> None:
        self._shown_result = None
        self._controller.forget()

    # -- choices

    def _exclude(self, ids: list[str]) -> None:
        if self.parameters is not None:
            self.parameters.excludedSegments = ids
            self._refresh()

    def _choose_model(self, name: str) -> None:
        if self.parameters is not None:
            self.parameters.model = name

    def _load_sample_data(self) -> None:
        self._run.hide_message()
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            sample_data.load()
        except RAUSlicerError as error:
            self._run.show_message(error.problem, error.explanation, error.solution)
        finally:
            qt.QApplication.restoreOverrideCursor()

    # -- what is shown

    def _refresh(self) -> None:
        parameters = self.parameters
        if parameters is None:
            return
        running = self._controller.running
        self._refresh_inputs(parameters)
        self._advanced.show_model(parameters.model)
        for section in (self.ui.inputsSection, self.ui.structuresSection, self.ui.advancedSection):
            section.enabled = not running
        result = parameters.resultSegmentation
        if result is not self._shown_result:
            self._shown_result = result
            self._results.show(result)
        others = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if record.is_result(node) and node is not result]
        self.ui.resultSelector.visible = bool(others)
        self._results.set_running(running)
        self._results.refresh()
        self._meaning.refresh()

    def _refresh_inputs(self, parameters: Parameters) -> None:
        segmentation, target = parameters.referenceSegmentation, parameters.targetVolume
        excluded = list(parameters.excludedSegments)
        self._structures.observe(segmentation)
        self._structures.show(segmentation, excluded)
        count = self._structures.count
        ticked = count - sum(id_ in excluded for id_ in self._structures.ids)
        self.ui.structuresCountLabel.text = _("{ticked} of {count} ticked").format(ticked=ticked, count=count) if count else ""
        reason = words.why_not(parameters.referenceVolume, segmentation, target, count, ticked)
        empty = not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        self.ui.sampleDataButton.visible = empty
        if empty:
            reason = words.nothing_loaded()
        elif self._meaning.running and reason is None:
            reason = words.why_no_report(True, True, True)
        note = words.same_volume() if reason is None and parameters.referenceVolume is target else ""
        text = words.button(ticked, target.GetName()) if reason is None else _("Transfer structures")
        tool_tip = _("Find the ticked structures in {target}.").format(target=target.GetName()) if reason is None else ""
        self._run.offer(text, reason, note, tool_tip)

    def _chosen(self) -> None:
        if self._meaning is not None:
            self._meaning.follow()

    # -- the run

    def _inputs(self, reference, segmentation, target, structures=None) -> Inputs:
        limits = settings.load()
        return Inputs(
            reference_volume=reference,
            reference_segmentation=segmentation,
            target_volume=target,
            structures=structures,
            localizer=self.parameters.localizer,
            model=self.parameters.model,
            device=self.parameters.device,
            threads=limits.threads or None,
            memory_mb=limits.memory_mb or None,
        )

    def _start_or_update(self) -> None:
        """The keyboard's way to the button that matters now."""
        if self.ui.updateButton.visible and self.ui.updateButton.enabled:
            self._results.update.press()
        elif self.ui.transferButton.visible and self.ui.transferButton.enabled:
            self._start()

    def _start(self) -> None:
        chosen = self.parameters
        if chosen is None:
            return
        names = self._structures.names(list(chosen.excludedSegments))
        self._begin(TransferJob(self._inputs(chosen.referenceVolume, chosen.referenceSegmentation, chosen.targetVolume, names)))

    def _redo(self, node, row) -> None:
        self._begin(RedoJob(self._inputs(*record.inputs_of(node)), node, row))

    def _correct(self, node, row, mask, planes, box) -> None:
        self._begin(CorrectionJob(self._inputs(*record.inputs_of(node)), node, row, mask, planes, box))

    def _begin(self, job) -> None:
        if self._controller.running or self.parameters is None:
            return
        self._run.hide_message()
        try:
            if not self._first_run.ensure():
                return
        except RAUSlicerError as error:
            self._show_failure(error.problem, error.explanation, error.solution)
            return
        inputs = job.inputs
        for role, node in (
            ("reference", inputs.reference_volume),
            ("segmentation", inputs.reference_segmentation),
            ("target", inputs.target_volume),
        ):
            self._log.log.hide({node.GetName(): f"<{role}>"} if node is not None else {})
        self._log.log.add(f"{type(job).__name__}: model {inputs.model}, device {inputs.device}, localizer {inputs.localizer}")
        self._run.show_running(True)
        # The snapshot of large volumes takes a moment; the user sees the panel react first.
        slicer.app.processEvents()
        # Meanwhile a late result may have come.
        self._run.show_running(True)
        self._job, self._stage = job, ""
        self._controller.run(job, self)
        self._refresh()

    def _cancel(self) -> None:
        if self._meaning.running:
            self._meaning.cancel()
        elif self._controller.running and not self._controller.cancelling:
            self._log.log.add("Cancel")
            self._run.show_cancelling()
            self._controller.cancel()

    def _show_failure(self, problem: str, explanation: str, solution: str) -> None:
        self._log.log.add(f"{problem} {explanation}")
        self._run.show_message(problem, explanation, solution)

    # -- Listener

    def progressed(self, stage: str, fraction: float, structure: str | None) -> None:
        self._run.progressed(stage, fraction, structure)
        if stage != self._stage:
            self._stage = stage
            self._log.log.add(f"{stage} ({round(100 * fraction)} %)")

    def released(self) -> None:
        self._late_job, self._job = self._job, None
        self._run.show_running(False)
        self._run.show_message(*words.still_coming())
        self._refresh()

    def finished(self, node, transfer) -> None:
        job = self._ended()
        seconds = sum(transfer.timings.values()) or None
        note = words.run_note(seconds, transfer.cancelled, node is not None)
        self._log.log.add(f"{len(transfer.results)} structures; {note}")
        for warning in transfer.warnings:
            self._log.log.add(warning)
        if node is None and transfer.cancelled:
            # Nothing new: the result that was shown stays.
            node = self._results.node
            self._results.show(node, note)
        else:
            self._shown_result = node
            if self.parameters is not None:
                self.parameters.resultSegmentation = node
            if node is None:
                self._results.show(None, note, [record.row_of(result) for result in transfer.results])
            else:
                self._show_written(node, note, transfer, job)
        self._refresh()
        if transfer.warnings:
            self._run.show_message(_("Please note"), "\n".join(transfer.warnings))

    def failed(self, problem: str, explanation: str, solution: str) -> None:
        self._ended()
        self._show_failure(problem, explanation, solution)
        self._refresh()

    def _ended(self):
        """The job that has just ended; it may be the late one, with the next one waiting behind it."""
        if self._job is not None and not self._controller.running:
            job, self._job = self._job, None
        else:
            job, self._late_job = self._late_job, None
            self._run.hide_message()
        # A report that waits for a late run shows its progress itself.
        self._run.show_running(self._controller.running and not self._meaning.running)
        return job

    def _show_written(self, node, note: str, transfer, job) -> None:
        sources = {result.structure.id or result.structure.name for result in transfer.results}
        rows = [row for row in record.rows_of(node) if row.present and row.source in sources]
        self._results.show(node, note)
        self._results.wrote([row.key for row in rows])
        if isinstance(job, TransferJob):
            # Two people's anatomy on top of each other misleads: the views show the target with its result alone.
            views.show_volume(job.inputs.target_volume)
            reference = job.inputs.reference_segmentation
            if reference is not None and reference.GetDisplayNode() is not None and reference.GetScene() is not None:
                reference.GetDisplayNode().SetVisibility(False)
            self.ui.structuresSection.collapsed = True
        elif len(rows) == 1:
            self._results.table.select(rows[0].key)
