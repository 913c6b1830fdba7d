"""What the views show of a result."""

from __future__ import annotations

import numpy as np
import slicer


def show_volume(volume) -> None:
    """Show a volume in the slice views and fit them to it, where they show another one."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    if volume is None or (composites and all(node.GetBackgroundVolumeID() == volume.GetID() for node in composites)):
        return
    selection.SetActiveVolumeID(volume.GetID())
    slicer.app.applicationLogic().PropagateVolumeSelection(1)


def jump_to(node, key: str) -> bool:
    """Move all slice views to the centre of a segment; False where it has no voxels."""
    center = node.GetSegmentCenterRAS(key)
    if center is None:
        return False
    _jump(node.GetScene(), center)
    return True


def jump_to_box(box, target) -> None:
    """Move all slice views to the centre of a box (LPS, mm, in the target's own coordinates)."""
    center = [(low + high) / 2 for low, high in zip(*box, strict=True)]
    world = [0.0, 0.0, 0.0]
    target.TransformPointToWorld((-center[0], -center[1], center[2]), world)
    _jump(target.GetScene(), world)


def crosshair_point(target) -> tuple[float, float, float] | None:
    """Where the crosshair is, LPS, mm, in the target's own coordinates; None without a crosshair."""
    crosshair = target.GetScene().GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is None:
        return None
    own = [0.0, 0.0, 0.0]
    target.TransformPointFromWorld(crosshair.GetCrosshairRAS(), own)
    return -own[0], -own[1], own[2]


def _jump(scene, position) -> None:
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        # A view keeps its zoom and place where the point can be seen in it; otherwise it is centred there.
        if _within(view, position):
            view.JumpSliceByOffsetting(*position)
        else:
            view.JumpSliceByCentering(*position)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*position)


def _within(view, position) -> bool:
    to_view = slicer.util.arrayFromVTKMatrix(view.GetXYToRAS())
    x, y = (np.linalg.inv(to_view) @ (*position, 1.0))[:2]
    width, height, _depth = view.GetDimensions()
    return bool(0 <= x < width and 0 <= y < height)


def shows_3d(node) -> bool:
    """Whether a segmentation's surfaces are made and shown."""
    display = node.GetDisplayNode()
    made = node.GetSegmentation().ContainsRepresentation("Closed surface")
    return made and display is not None and bool(display.GetVisibility3D())


def show_3d(node, shown: bool) -> None:
    """Make a segmentation's surfaces and show them in the 3D views, or remove them."""
    node.CreateDefaultDisplayNodes()
    if shown:
        node.CreateClosedSurfaceRepresentation()
        node.GetDisplayNode().SetVisibility3D(True)
    else:
        node.RemoveClosedSurfaceRepresentation()
