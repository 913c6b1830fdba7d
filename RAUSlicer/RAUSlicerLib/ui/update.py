"""The Update button: finds a structure anew from the slices that were painted, or from where its box was moved to."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..scene import boxes
from . import words

# Comparing a large scan takes a moment; it is done once the user pauses.
_PAUSE_MS = 400


class UpdateControl(VTKObservationMixin):
    """Watches one structure of a result and offers to update it.

    Args:
        ui: The panel's widgets.
        update: Called with (row, mask, planes, box) when the user presses Update.
        changed: Called when the watched result has changed, once the user pauses.
    """

    def __init__(self, ui, update: Callable, changed: Callable[[], None]) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._update, self._changed = ui, update, changed
        self._baselines = None
        self._node = self._target = self._row = self._box_node = None
        self._planes: tuple = ()
        self._running = self._editing = False
        self._pause = qt.QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(_PAUSE_MS)
        self._pause.timeout.connect(self._settled)
        ui.updateButton.clicked.connect(self.press)
        self._offer()

    @property
    def baselines(self):
        """What runs wrote last, to tell what the user has painted since."""
        if self._baselines is None:
            from ..scene.edits import Baselines

            self._baselines = Baselines()
        return self._baselines

    def watch(self, node, row, target, editing: bool = False) -> None:
        """Offer updates of a row's structure; ``row`` is None where none is selected, ``editing`` where the editor is open on it."""
        self._editing = editing
        if node is not self._node:
            self._watch_node(node)
        self._target, self._row = target, row if row is not None and row.present else None
        self._watch_box()
        self._look()

    def set_running(self, running: bool) -> None:
        """Nothing can be updated during a run."""
        self._running = running
        self._offer()

    def cleanup(self) -> None:
        """The module is going away."""
        self._pause.stop()
        self.removeObservers()

    def press(self) -> None:
        """What the Update button does."""
        # What was painted in the last moment counts too.
        self._pause.stop()
        self._look()
        if self._row is not None and self._ui.updateButton.enabled:
            from ..scene.segmentations import segment_mask

            mask = segment_mask(self._node, self._row.key, self._target)
            self._update(self._row, mask, self._planes, self._moved_box())

    def _watch_node(self, node) -> None:
        self.removeObservers()
        self._node, self._box_node = node, None
        if node is not None:
            events = ("SourceRepresentationModified", "SegmentModified", "SegmentAdded", "SegmentRemoved")
            for event in events:
                self.addObserver(node.GetSegmentation(), getattr(slicer.vtkSegmentation, event), self._modified)

    def _watch_box(self) -> None:
        box = boxes.box_of(self._node, self._row.key) if self._node is not None and self._row is not None else None
        if box is self._box_node:
            return
        if self._box_node is not None:
            self.removeObserver(self._box_node, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, self._modified)
        self._box_node = box
        if box is not None:
            self.addObserver(box, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, self._modified)

    def _modified(self, _caller=None, _event=None) -> None:
        self._pause.start()

    def _settled(self) -> None:
        self._changed()
        self._look()

    def _look(self) -> None:
        self._planes = self.baselines.painted(self._node, self._target, self._row.key) if self._alive() else ()
        self._offer()

    def _alive(self) -> bool:
        nodes = (self._node, self._target)
        there = self._row is not None and all(node is not None and node.GetScene() is not None for node in nodes)
        return there and self._node.GetSegmentation().GetSegment(self._row.key) is not None

    def _moved_box(self):
        return boxes.moved_box(self._node, self._row.key) if self._alive() else None

    def _offer(self) -> None:
        box = self._moved_box() if self._row is not None else None
        ready = bool(self._planes) or box is not None
        self._ui.updateButton.visible = ready or self._editing
        self._ui.updateButton.enabled = ready and not self._running
        self._ui.updateReasonLabel.visible = self._editing and not ready
        if self._row is None:
            return
        self._ui.updateButton.text = words.update_button(len(self._planes), box is not None)
        reason = _("Paint at least one slice, or move the structure's box, to update the rest from it.")
        self._ui.updateReasonLabel.text = reason
        self._ui.updateButton.toolTip = (
            _("Find the rest of {structure} anew; painted slices stay as they are.").format(structure=self._row.name) if ready else reason
        )
