"""The Results section: the table and what can be done with its rows."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from ..scene import boxes, record, review, views
from . import words
from .editor import EditorSection
from .results import ResultTable
from .update import UpdateControl


class ResultsSection:
    """Shows one result and lets the user look at it, accept, correct, repeat and remove it.

    Args:
        ui: The panel's widgets.
        undo: Returns the steps that can be taken back.
        redo: Called with (node, row) to carry a structure over again.
        correct: Called with (node, row, mask, planes, box) to update a structure.
        chosen: Called when other rows are selected.
    """

    def __init__(self, ui, undo: Callable, redo: Callable, correct: Callable, chosen: Callable[[], None]) -> None:
        self._ui, self._undo, self._redo, self._correct, self._chosen = ui, undo, redo, correct, chosen
        self._node = None
        self._note = ""
        self._running = self._in_3d = False
        self._loose: list = []
        self._counts = record.VoxelCounts()
        self.table = ResultTable(ui.resultsTable, self._selected)
        self.editor = EditorSection(ui, self.refresh)
        self.update = UpdateControl(ui, self._press_update, self.refresh)
        ui.acceptButton.clicked.connect(self.accept)
        ui.editButton.clicked.connect(self.edit)
        ui.redoButton.clicked.connect(self.redo)
        ui.removeButton.clicked.connect(self.remove)
        ui.undoButton.clicked.connect(self.take_back)
        ui.show3DButton.clicked.connect(self._toggle_3d)
        ui.boxesButton.clicked.connect(self._toggle_boxes)
        ui.resultsTable.customContextMenuRequested.connect(self._menu)
        ui.resultsSection.visible = False

    @property
    def node(self):
        """The result that is shown; None where there is none, or it is no longer in the scene."""
        return self._node if self._node is not None and self._node.GetScene() is not None else None

    def show(self, node, note: str = "", loose: list | None = None) -> None:
        """Show a result, or with ``loose`` rows that were not written anywhere because nothing was found."""
        if node is not self._node:
            self.editor.close()
            self.table.clear()
            self._in_3d = node is not None and views.shows_3d(node)
        self._node, self._note, self._loose = node, note, loose or []
        if node is not None:
            self.update.baselines.take_missing(node, [row.key for row in self._rows() if row.present])
        self.refresh()

    def wrote(self, keys) -> None:
        """A run has written these segments: what the user paints from now on is compared with them."""
        if self.node is not None:
            before = self.update.baselines.take(self.node, keys)
            self._undo().also(lambda: self.update.baselines.put_back(before))
            self._keep_3d()

    def set_running(self, running: bool) -> None:
        """Rows can be looked at during a run, but not changed."""
        self._running = running
        self.update.set_running(running)
        self._offer()

    def refresh(self) -> None:
        """Show the result as it is in the scene now."""
        rows = self._rows()
        self._ui.resultsSection.visible = bool(rows) or bool(self._note)
        self.table.show(rows)
        cancelled = bool(self._note) and not rows
        self._ui.resultsLabel.text = self._note if cancelled else f"{words.summary(rows)} {self._note}".strip()
        if self.editor.key is not None and self.editor.key not in [row.key for row in rows]:
            self.editor.close()
        self._watch()
        self._offer()

    def forget(self) -> None:
        """The scene is closing."""
        self.editor.close()
        self.update.watch(None, None, None)
        self.update.baselines.clear()
        self._node, self._note, self._loose = None, "", []
        self.refresh()

    # -- what the buttons do

    def accept(self) -> None:
        """Accept the selected drafts; where all of them are accepted, make them drafts again."""
        rows = [row for row in self.table.selected if row.present]
        if self.node is None or not rows or self._running:
            return
        accepted = not all(row.accepted for row in rows)
        label = _("accepting {structures}") if accepted else _("reopening {structures}")
        review.accept(self.node, [row.key for row in rows], self._undo(), label.format(structures=_named(rows)), accepted)
        self.refresh()

    def edit(self) -> None:
        """Open the Segment Editor on the selected structure; close it where it is open on it already."""
        selected, target = self.table.selected, self._inputs()[2]
        if self.node is None or target is None or len(selected) != 1 or self._running:
            return
        row = selected[0]
        if self.editor.key == row.key:
            self.editor.close()
            return
        if not row.present:
            key = review.add_empty(self.node, row, self._undo(), _("new segment {structure}").format(structure=row.name))
            self.wrote([key])
            self.refresh()
            row = next(item for item in record.rows_of(self.node) if item.key == key)
            self.table.select(key)
        self.editor.open(self.node, row, target)
        self.refresh()

    def redo(self) -> None:
        """Carry the selected structure over again, as if it had never been done."""
        selected = self.table.selected
        if self.node is not None and len(selected) == 1 and not self._running:
            self._redo(self.node, selected[0])

    def remove(self) -> None:
        """Remove the selected structures from the result."""
        rows = self.table.selected
        if self.node is None or not rows or self._running:
            return
        if self.editor.key in [row.key for row in rows]:
            self.editor.close()
        kept = tuple(row.key for row in self._rows() if row.key not in [removed.key for removed in rows])
        boxes.hide_boxes(self.node, except_keys=kept)
        review.remove(self.node, rows, self._undo(), _("removing {structures}").format(structures=_named(rows)))
        self.refresh()

    def take_back(self) -> None:
        """Undo the latest step of the module."""
        if self._running or not self._undo().available:
            return
        self._note = _("Undone: {step}.").format(step=self._undo().label)
        self._undo().undo()
        if self.node is None:
            self.editor.close()
            self._node, self._loose = None, []
        self._keep_3d()
        self.refresh()

    def _toggle_3d(self) -> None:
        if self.node is not None:
            self._in_3d = not views.shows_3d(self.node)
            self._show_3d(self._in_3d)
            self._offer()

    def _keep_3d(self) -> None:
        # Segments that are written anew lose their surfaces.
        if self.node is not None and self._in_3d and not views.shows_3d(self.node):
            self._show_3d(True)

    def _show_3d(self, shown: bool) -> None:
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            views.show_3d(self.node, shown)
        finally:
            qt.QApplication.restoreOverrideCursor()

    def _toggle_boxes(self) -> None:
        target = self._inputs()[2]
        if self.node is None or target is None:
            return
        if self._boxes_shown():
            boxes.hide_boxes(self.node)
        else:
            for row in self.table.selected or self._rows():
                boxes.show_box(self.node, row, target)
        self.refresh()

    def _press_update(self, row, mask, planes, box) -> None:
        if self.node is not None:
            self._correct(self.node, row, mask, planes, box)

    # -- looking

    def point_at(self, keys: list[str]) -> None:
        """Select the rows of structures and move the views to the first of them that can be seen."""
        self.table.select_all(keys)
        if self.node is not None and len(self.table.selected) > 1:
            views.show_volume(self._inputs()[2])
            any(views.jump_to(self.node, key) for key in keys)

    def _selected(self) -> None:
        selected, target = self.table.selected, self._inputs()[2]
        if self.node is not None and len(selected) == 1:
            row = selected[0]
            views.show_volume(target)
            if (not row.present or not views.jump_to(self.node, row.key)) and row.box_mm is not None and target is not None:
                views.jump_to_box(row.box_mm, target)
            if self.editor.key not in (None, row.key) and row.present and target is not None:
                self.editor.open(self.node, row, target)
        self._watch()
        self._offer()
        self._chosen()

    def _watch(self) -> None:
        rows = self.table.selected
        row = rows[0] if len(rows) == 1 else next((row for row in self.table.rows if row.key == self.editor.key), None)
        self.update.watch(self.node, row, self._inputs()[2], editing=self.editor.key is not None)

    def _rows(self) -> list:
        return record.rows_of(self.node, self._counts) if self.node is not None else self._loose

    def _inputs(self) -> tuple:
        return record.inputs_of(self.node) if self.node is not None else (None, None, None)

    def _boxes_shown(self) -> bool:
        return self.node is not None and any(boxes.box_of(self.node, row.key) is not None for row in self.table.rows)

    def _offer(self) -> None:
        ui, selected = self._ui, self.table.selected
        present = [row for row in selected if row.present]
        free = self.node is not None and not self._running
        inputs = self._inputs()
        choose = _("Select a structure in the table first.")
        offers = (
            (ui.acceptButton, free and bool(present), _("Mark as checked and right. Again: make it a draft.")),
            (ui.editButton, free and len(selected) == 1 and inputs[2] is not None, _("Correct it in the Segment Editor.")),
            (ui.redoButton, free and len(selected) == 1 and None not in inputs, _("Find it again from nothing.")),
            (ui.removeButton, free and bool(selected), _("Remove it from the result.")),
        )
        for button, enabled, tool_tip in offers:
            button.enabled = enabled
            button.toolTip = tool_tip if enabled or not free else choose
        ui.acceptButton.text = _("Reopen") if present and all(row.accepted for row in present) else _("Accept")
        ui.editButton.text = _("Close") if self.editor.key is not None and self.editor.key in [r.key for r in selected] else _("Edit")
        for button, checked in (
            (ui.show3DButton, self.node is not None and views.shows_3d(self.node)),
            (ui.boxesButton, self._boxes_shown()),
        ):
            button.checked = checked
            button.enabled = self.node is not None
        steps = self._undo()
        ui.undoButton.enabled = steps.available and not self._running
        ui.undoButton.text = _("Undo")
        ui.undoButton.toolTip = _("Undo {step}").format(step=steps.label) if steps.available else _("There is nothing to undo.")

    def _menu(self, position) -> None:
        menu = qt.QMenu(self._ui.resultsTable)
        for button, action in (
            (self._ui.acceptButton, self.accept),
            (self._ui.editButton, self.edit),
            (self._ui.redoButton, self.redo),
            (self._ui.removeButton, self.remove),
        ):
            entry = menu.addAction(button.text)
            entry.enabled = button.enabled
            entry.triggered.connect(action)
        menu.exec_(self._ui.resultsTable.viewport().mapToGlobal(position))


def _named(rows) -> str:
    return rows[0].name if len(rows) == 1 else _("{count} structures").format(count=len(rows))
