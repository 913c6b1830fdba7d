"""The embedded Segment Editor."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ..support.text import printable

_EDITOR_NODE = "RAUSlicerSegmentEditor"


class EditorSection:
    """Slicer's own Segment Editor, opened below the results while a structure is edited.

    Args:
        ui: The panel's widgets.
        closed: Called when the user has finished editing.
    """

    def __init__(self, ui, closed: Callable[[], None]) -> None:
        self._ui, self._closed = ui, closed
        self._editor = None
        self._node = self._target = self._key = None
        ui.doneEditingButton.clicked.connect(self.close)
        ui.editorFrame.visible = False

    @property
    def key(self) -> str | None:
        """The segment that is edited."""
        return self._key

    def open(self, node, row, target) -> None:
        """Edit a segment of a result; ``row`` says which, and ``target`` is the volume it lies on."""
        self.close()
        self._node, self._target, self._key = node, target, row.key
        name = printable(row.name)
        self._ui.editingLabel.text = _("Editing {structure}: correct one or more slices, then press Update.").format(structure=name)
        self._ui.editorFrame.visible = True
        self._show_editor(row)

    def close(self) -> None:
        """Leave the editor; what was painted stays."""
        if self._node is None:
            return
        self._node = self._target = self._key = None
        if self._editor is not None:
            self._editor.setActiveEffectByName("")
            self._editor.uninstallKeyboardShortcuts()
            self._editor.setSegmentationNode(None)
        self._ui.editorFrame.visible = False
        self._closed()

    def enter(self) -> None:
        """The module is opened again."""
        if self._editor is not None and self._node is not None:
            self._editor.setupViewObservations()
            self._editor.installKeyboardShortcuts()

    def exit(self) -> None:
        """The module is left; the editor must not paint in other modules."""
        if self._editor is not None and self._node is not None:
            self._editor.setActiveEffectByName("")
            self._editor.uninstallKeyboardShortcuts()
            self._editor.removeViewObservations()

    def _show_editor(self, row) -> None:
        if self._editor is None:
            self._editor = _make_editor(self._ui.editorFrame)
            self._ui.editorFrame.layout().insertWidget(1, self._editor)
        self._editor.setMRMLSegmentEditorNode(_editor_node())
        self._editor.setSegmentationNode(self._node)
        self._editor.setSourceVolumeNode(self._target)
        self._editor.setCurrentSegmentID(row.key)
        self._editor.setupViewObservations()
        self._editor.installKeyboardShortcuts()
        self._editor.setActiveEffectByName("Paint")


def _make_editor(parent):
    editor = slicer.qMRMLSegmentEditorWidget(parent)
    editor.setObjectName("segmentEditor")
    editor.setAccessibleName(_("Segment Editor"))
    editor.setMaximumNumberOfUndoStates(10)
    editor.setMRMLScene(slicer.mrmlScene)
    # The segmentation and its volume are those of the result; the table of segments is the results table above.
    editor.setSegmentationNodeSelectorVisible(False)
    editor.setSourceVolumeNodeSelectorVisible(False)
    editor.setSwitchToSegmentationsButtonVisible(False)
    return editor


def _editor_node():
    node = slicer.mrmlScene.GetSingletonNode(_EDITOR_NODE, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag(_EDITOR_NODE)
        node = slicer.mrmlScene.AddNode(node)
    # Neighbours keep their voxels where the user paints over them: correcting one structure must not damage another.
    node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
    return node
