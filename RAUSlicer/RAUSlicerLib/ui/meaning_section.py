"""The section Report and questions: sentences about the shown result, and what they rest on one click away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..scene import record, views
from ..support.text import printable
from . import words
from .meaning_jobs import QuestionJob, ReportJob
from .results_section import ResultsSection
from .run import RunController
from .sentence_list import SentenceList

# Whether a report is still true is looked at once the user pauses.
_PAUSE_MS = 400
_EVENTS = ("SourceRepresentationModified", "SegmentModified", "SegmentAdded", "SegmentRemoved")


class MeaningSection(VTKObservationMixin):
    """Lets the user have a report written and ask questions about the result that is shown. It changes nothing in the scene.

    It is the listener of its own jobs (see ``run.Listener``).

    Args:
        ui: The panel's widgets.
        results: The section that shows the result.
        controller: Runs the jobs.
        changed: Called when a job of this section has begun or ended.
        log: Gets what is worth a line of the log.
    """

    def __init__(
        self, ui, results: ResultsSection, controller: RunController, changed: Callable[[], None], log: Callable[[str], None]
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._results, self._controller, self._changed, self._log = ui, results, controller, changed, log
        self._node = self._report = self._stamp = None
        self._keys: dict[str, str] = {}
        self._job = None
        self._stale = self._choosing = False
        self._report_list = SentenceList(ui.reportList, self._choose)
        self._answer_list = SentenceList(ui.answerList, self._choose)
        self._pause = qt.QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(_PAUSE_MS)
        self._pause.timeout.connect(self._look)
        for button, action in (
            (ui.reportButton, self.write),
            (ui.saveReportButton, self.save),
            (ui.askButton, self.ask),
            (ui.hereButton, self.ask_here),
            (ui.cancelReportButton, self.cancel),
        ):
            button.clicked.connect(lambda _checked=False, action=action: action())
        ui.questionEdit.returnPressed.connect(self.ask)
        ui.selectedOnlyBox.toggled.connect(lambda _checked: self._filter())
        self._show_progress(False)
        self._forget_report()
        self.refresh()

    @property
    def running(self) -> bool:
        """Whether a report is being written or a question answered."""
        return self._job is not None

    def refresh(self) -> None:
        """Show what can be done with the result as it is now, or why nothing can."""
        node = self._results.node
        if node is not self._node:
            self._watch(node)
            self._forget_report()
        ui = self._ui
        reason = words.why_no_report(node is not None, node is not None and record.inputs_of(node)[2] is not None, self._controller.running)
        for widget, tool_tip in (
            (ui.reportButton, _("Describe the structures as they are now, in sentences that name what they rest on.")),
            (ui.saveReportButton, _("Write the report as it is now to a file: a page with pictures, Markdown, JSON, or DICOM.")),
            (ui.hereButton, _("Name the structures at the crosshair, or the nearest one.")),
            (ui.questionEdit, words.question_tool_tip()),
        ):
            widget.enabled = reason is None
            widget.toolTip = reason or tool_tip
        ui.askButton.enabled = reason is None
        ui.askButton.toolTip = reason or words.question_tool_tip()
        self._look()

    def follow(self, _rows=None) -> None:
        """Other rows of the results are selected: show their sentences."""
        if not self._choosing:
            self._filter()

    def forget(self) -> None:
        """The scene is closing."""
        self._watch(None)
        self._forget_report()

    def cleanup(self) -> None:
        """The module is going away."""
        self._pause.stop()
        self.removeObservers()

    # -- what the buttons do

    def write(self) -> None:
        """Write the report anew."""
        self._begin(ReportJob(self._node))

    def save(self) -> None:
        """Ask for a file and write the report to it; what is shown is then what was saved."""
        path = self._ask_path() if self._ui.saveReportButton.enabled else None
        if path is not None:
            self._begin(ReportJob(self._node, path))

    def ask(self) -> None:
        """Answer what is written in the line."""
        question = self._ui.questionEdit.text.strip()
        if question:
            self._ask(question)
        else:
            self._ui.questionEdit.setFocus()

    def ask_here(self) -> None:
        """Answer what is at the crosshair."""
        self._ask(words.here_question())

    def cancel(self) -> None:
        """Stop the report or the question."""
        if self.running and not self._controller.cancelling:
            self._ui.cancelReportButton.enabled = False
            self._controller.cancel()

    def _ask(self, question: str) -> None:
        target = record.inputs_of(self._node)[2] if self._alive() else None
        if target is None:
            return
        region = None
        if words.asks_about_region(question):
            from ..scene import cases

            region = cases.marked_region(target)
        self._answer_list.clear()
        self._begin(QuestionJob(self._node, question, views.crosshair_point(target), region))

    def _begin(self, job) -> None:
        if self._controller.running or not self._alive():
            return
        self._say("")
        self._log(type(job).__name__)
        self._job = job
        self._show_progress(True)
        self._ui.cancelReportButton.enabled = True
        # The snapshot of a large volume takes a moment; the user sees the panel react first.
        slicer.app.processEvents()
        if self._alive():
            self._controller.run(job, self)
        else:
            self._ended()
        self._changed()

    def _ask_path(self) -> Path | None:
        dicom = _is_dicom(record.inputs_of(self._node)[2])
        chosen = qt.QFileDialog.getSaveFileName(self._ui.meaningSection, _("Save the report"), "report.html", words.report_forms(dicom))
        # PythonQt returns the path, PySide a pair of path and filter.
        text = chosen if isinstance(chosen, str) else chosen[0]
        if not text:
            return None
        path = Path(text)
        return path if path.suffix else path.with_suffix(".html")

    # -- the job's listener

    def progressed(self, stage: str, fraction: float, _structure: str | None) -> None:
        """See ``run.Listener``."""
        self._ui.reportProgressBar.value = round(100 * fraction)
        self._ui.reportProgressBar.toolTip = words.progress(stage, None)

    def released(self) -> None:
        """See ``run.Listener``."""

    def finished(self, job, said, keys: dict[str, str], stamp=None) -> None:
        """A report was written, or a question answered; if the result is gone meanwhile, nobody wants to know."""
        self._ended()
        if job.node is self._node and self._alive():
            if isinstance(job, ReportJob):
                self._show_report(said, keys, stamp)
                if job.save is not None:
                    self._say("\n".join([_("Saved as {path}.").format(path=job.save), *job.warnings]))
            else:
                self._show_answer(said, keys)
        self._changed()

    def failed(self, problem: str, explanation: str, solution: str) -> None:
        """See ``run.Listener``."""
        self._ended()
        self._log(f"{problem} {explanation}")
        self._say(f"{problem} {explanation} {solution}".strip())
        self._changed()

    def _ended(self) -> None:
        self._job = None
        self._show_progress(False)

    # -- what is shown

    def _show_report(self, report, keys: dict[str, str], stamp) -> None:
        self._report, self._stamp, self._stale = report, stamp, False
        self._keys.update(keys)
        self._report_list.show([(section.title, [*section.sentences, *section.details]) for section in report.sections])
        self._ui.reportList.visible = True
        self._filter()

    def _show_answer(self, answer, keys: dict[str, str]) -> None:
        self._keys.update(keys)
        self._answer_list.show([(answer.question, list(answer.sentences))], words.rests_on(answer.sentences))
        self._ui.answerList.visible = True

    def _filter(self) -> None:
        selected = {row.key for row in self._results.table.selected}
        only = self._ui.selectedOnlyBox.checked and bool(selected)
        names = {name for name, key in self._keys.items() if key in selected} if only else None
        self._report_list.filter(names)
        self._label()

    def _label(self) -> None:
        shown, count = len(self._report_list.shown), self._report_list.count
        self._ui.reportLabel.text = words.report_note(count, shown, self._stale) if self._report is not None else ""
        self._ui.reportLabel.visible = self._report is not None
        self._ui.selectedOnlyBox.visible = self._report is not None

    def _choose(self, names: tuple[str, ...]) -> None:
        """A sentence was clicked: select its structures, and move the views to the first of them."""
        keys = [self._keys[name] for name in names if name in self._keys]
        if not keys or not self._alive():
            return
        # The list must not shrink below the mouse to the sentences of what it has just selected.
        self._choosing = True
        try:
            self._results.point_at(keys)
        finally:
            self._choosing = False

    def _forget_report(self) -> None:
        self._report = self._stamp = None
        self._keys = {}
        self._stale = False
        for sentences in (self._report_list, self._answer_list):
            sentences.clear()
        self._ui.reportList.visible = self._ui.answerList.visible = False
        self._say("")
        self._label()

    def _say(self, text: str) -> None:
        self._ui.reportMessageLabel.text = printable(text, keep="\n")
        self._ui.reportMessageLabel.visible = bool(text)

    def _show_progress(self, running: bool) -> None:
        self._ui.reportProgressBar.value = 0
        self._ui.reportProgressBar.visible = running
        self._ui.cancelReportButton.visible = running

    # -- the scene

    def _alive(self) -> bool:
        return self._node is not None and self._node.GetScene() is not None

    def _watch(self, node) -> None:
        self.removeObservers()
        self._node = node
        if node is not None:
            for event in _EVENTS:
                self.addObserver(node.GetSegmentation(), getattr(slicer.vtkSegmentation, event), self._modified)

    def _modified(self, _caller=None, _event=None) -> None:
        if self._report is not None:
            self._pause.start()

    def _look(self) -> None:
        """Whether the report still describes the segments."""
        if self._report is None or not self._alive():
            return
        from ..scene import cases

        self._stale = cases.stamp(self._node) != self._stamp
        self._label()


def _is_dicom(target) -> bool:
    from ..scene import cases

    return cases.dicom_folder(target) is not None
