"""What a user does with drafts: accept them, take that back, remove them, start one by hand."""

from __future__ import annotations

from collections.abc import Sequence

import slicer

from . import record
from .undo import UndoSteps


def accept(node, keys: Sequence[str], undo: UndoSteps, label: str = "", accepted: bool = True) -> None:
    """Mark segments as completed, or as drafts again."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segmentation = node.GetSegmentation()
    ids = [id_ for id_ in keys if segmentation.GetSegment(id_) is not None]
    with undo.changing(node, ids, label, voxels=False):
        for id_ in ids:
            logic.SetSegmentStatus(segmentation.GetSegment(id_), logic.Completed if accepted else logic.InProgress)


def remove(node, rows: Sequence[record.Row], undo: UndoSteps, label: str = "") -> None:
    """Remove structures from a result: their segments, or the note that they were not found."""
    with undo.changing(node, [row.key for row in rows if row.present], label):
        for row in rows:
            if row.present:
                node.GetSegmentation().RemoveSegment(row.key)
            else:
                record.forget_missing(node, row.name)


def add_empty(node, row: record.Row, undo: UndoSteps, label: str = "") -> str:
    """An empty segment for a structure that was not found, to be painted by hand; returns its id."""
    reference_segmentation = record.inputs_of(node)[1]
    reference = reference_segmentation.GetSegmentation() if reference_segmentation is not None else None
    original = reference.GetSegment(row.source) if reference is not None else None
    segmentation = node.GetSegmentation()
    with undo.changing(node, (), label):
        id_ = segmentation.AddEmptySegment(segmentation.GenerateUniqueSegmentID(row.name), row.name, row.color)
        segment = segmentation.GetSegment(id_)
        if original is not None and original.GetTerminology():
            segment.SetTerminology(original.GetTerminology())
        slicer.vtkSlicerSegmentationsModuleLogic.SetSegmentStatus(segment, slicer.vtkSlicerSegmentationsModuleLogic.InProgress)
        record.remember(segment, row)
        record.forget_missing(node, row.name)
    return id_
