"""Volume nodes to volumes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from .geometry import array_of, image_on_grid

# Slicer compares directions with this tolerance too; beyond it, the axes are sheared and no image library would place the voxels right.
_ORTHOGONAL = 1e-3


def volume_from_node(node) -> sitk.Image:
    """A copy of a scalar volume node's voxels with its own geometry, in LPS and mm.

    The parent transform is left out: results are written back under the same transform, so the two cancel exactly.

    Raises:
        InputError: there is no node, it has no voxels, several values a voxel, or sheared axes.
    """
    if node is None:
        raise InputError(_("No volume is chosen."), _("A run needs a reference volume and a target volume."), _("Choose one in the panel."))
    name = node.GetName()
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        raise InputError(
            _("The volume {name!r} has no voxels.").format(name=name),
            _("Its file was not loaded, or the node is new and empty."),
            _("Load it again."),
        )
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("The volume {name!r} has {count} values in each voxel.").format(name=name, count=image.GetNumberOfScalarComponents()),
            _("Colour and vector volumes have no single intensity to compare."),
            _("Convert it to a scalar volume (module Vector to Scalar Volume) and choose that."),
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    directions = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
    if not np.allclose(directions.T @ directions, np.eye(3), atol=_ORTHOGONAL):
        raise InputError(
            _("The axes of the volume {name!r} are not at right angles.").format(name=name),
            _("This happens with a tilted CT gantry or a hardened shearing transform."),
            _("Resample it onto a regular grid (module Resample Scalar/Vector/DWI Volume) and choose the result."),
        )
    first = image.GetExtent()[::2]
    origin = np.array(node.GetOrigin()) + directions @ (np.array(node.GetSpacing()) * first)
    return image_on_grid(array_of(image), node.GetSpacing(), origin, directions)
