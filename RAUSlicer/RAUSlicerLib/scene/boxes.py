"""Boxes of structures as ROI nodes, shown on demand and moved by the user."""

from __future__ import annotations

import numpy as np
import slicer

from .record import Corner, Row

_RESULT = "RAUSlicer.result"
_KEY = "RAUSlicer.structure"
_WRITTEN = "RAUSlicer.box"
# A box that was moved by less than this was not moved; the views round positions.
_MOVED_MM = 0.1


def box_of(result_node, key: str):
    """The ROI node of a structure; None where it is not shown."""
    scene = result_node.GetScene()
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") if scene is not None else []
    return next((node for node in nodes if node.GetAttribute(_KEY) == key and node.GetNodeReference(_RESULT) is result_node), None)


def show_box(result_node, row: Row, target):
    """The ROI node of a row, made where it is not there yet; None where the run knew no place for the structure."""
    existing = box_of(result_node, row.key)
    if existing is not None or row.box_mm is None:
        return existing
    node = result_node.GetScene().AddNewNodeByClass("vtkMRMLMarkupsROINode", f"{row.name} box")
    node.SetAttribute(_KEY, row.key)
    node.SetNodeReferenceID(_RESULT, result_node.GetID())
    # Boxes are in the target's own coordinates, so they go under its transform, as the segmentation does.
    node.SetAndObserveTransformNodeID(target.GetTransformNodeID())
    low, high = _to_ras(row.box_mm)
    node.SetCenter(*((low + high) / 2))
    node.SetSize(*(high - low))
    node.SetAttribute(_WRITTEN, _text(read_box(node)))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*row.color)
    display.SetSelectedColor(*row.color)
    display.SetFillOpacity(0.08)
    display.SetHandlesInteractive(True)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result_node)))
    return node


def hide_boxes(result_node, except_keys: tuple[str, ...] = ()) -> None:
    """Remove a result's ROI nodes."""
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        if node.GetNodeReference(_RESULT) is result_node and node.GetAttribute(_KEY) not in except_keys:
            node.GetScene().RemoveNode(node)


def read_box(node) -> tuple[Corner, Corner]:
    """The smallest box along the axes (LPS, mm, in the target's own coordinates) around an ROI, which may have been turned."""
    half = np.array(node.GetSize()) / 2
    to_node = slicer.util.arrayFromVTKMatrix(node.GetObjectToNodeMatrix())
    corners = np.array([[x, y, z, 1.0] for x in (-half[0], half[0]) for y in (-half[1], half[1]) for z in (-half[2], half[2])])
    points = (corners @ to_node.T)[:, :3] * (-1, -1, 1)
    return tuple(float(v) for v in points.min(axis=0)), tuple(float(v) for v in points.max(axis=0))


def moved_box(result_node, key: str) -> tuple[Corner, Corner] | None:
    """Where the user has moved a structure's box to; None where it is not shown or lies where it was."""
    node = box_of(result_node, key)
    if node is None:
        return None
    box = read_box(node)
    written = np.array([float(value) for value in (node.GetAttribute(_WRITTEN) or "").split()])
    return box if written.shape != (6,) or np.abs(np.ravel(box) - written).max() > _MOVED_MM else None


def mark_used(result_node, key: str) -> None:
    """A box was used for an update: it counts as moved only when it is moved again."""
    node = box_of(result_node, key)
    if node is not None:
        node.SetAttribute(_WRITTEN, _text(read_box(node)))


def _to_ras(box: tuple[Corner, Corner]) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array(box) * (-1, -1, 1)
    return corners.min(axis=0), corners.max(axis=0)


def _text(box: tuple[Corner, Corner]) -> str:
    return " ".join(f"{value:.4f}" for corner in box for value in corner)
