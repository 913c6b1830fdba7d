"""What a user does, as a user does it, and how a test looks at what came of it."""

import os

import nodes
import numpy as np
import qt
import slicer
from host import modules

from RAUSlicerLib.scene.geometry import array_of

LIVER, MILZ = nodes.box((1, 4), (2, 6), (3, 7)), nodes.box((4, 6), (0, 2), (0, 3))
MASKS = {"Liver": LIVER, "Milz": MILZ}


def click(widget):
    """Click a widget that is enabled, on the place where it lies."""
    assert widget.enabled, f"{widget.objectName} is disabled"
    qt.QTest.mouseClick(widget, qt.Qt.LeftButton)


def click_item(widget, item):
    """Click an item of a list or a table."""
    widget.scrollToItem(item)
    qt.QTest.mouseClick(widget.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, widget.visualItemRect(item).center())


def click_row(panel, name):
    """Click a structure's row in the table of results."""
    row = [item.name for item in panel._results.table.rows].index(name)
    click_item(panel.ui.resultsTable, panel.ui.resultsTable.item(row, 0))


def load_case(masks=MASKS, reference="Reference CT", target="Target CT"):
    """A reference volume, its segmentation and a target volume, loaded and paired."""
    volume = nodes.volume(reference)
    loaded = volume, nodes.segmentation(volume, masks), nodes.volume(target)
    modules.settle()
    return loaded


def results_of(segmentation):
    """All segmentations but the reference's."""
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not segmentation]


def voxels(node, key, target):
    """A segment on the target's grid, as booleans."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, key, target) > 0


def replace(node, key, target, mask):
    """Give a segment other voxels, and let the panel notice it."""
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, key, target)
    modules.settle(500)


def paint(node, key, target, mask):
    """What a stroke of the Segment Editor does, by its own logic."""
    logic = slicer.vtkSlicerSegmentEditorLogic()
    editor = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetOverwriteMode(editor.OverwriteNone)
    logic.SetMRMLScene(slicer.mrmlScene)
    logic.SetSegmentEditorNode(editor)
    logic.SetSegmentationNode(node)
    logic.SetSourceVolumeNode(target)
    logic.SetCurrentSegmentID(key)
    logic.ResetModifierLabelmapToDefault()
    modifier = logic.GetModifierLabelmap()
    array_of(modifier)[:] = mask
    modifier.Modified()
    logic.ModifySegmentByLabelmap(node, key, modifier, logic.ModificationModeAdd, False, True)
    slicer.mrmlScene.RemoveNode(editor)
    modules.settle(500)


def is_gone(group):
    """Whether no process of a group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
