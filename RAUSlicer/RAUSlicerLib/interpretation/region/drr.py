"""Digitally reconstructed radiographs: a labelled CT seen from the front as an X-ray tube would, with its labels' shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ...imaging.frame import canonical

# Where public abdominal CT is clipped: air and lung can't be told apart there and count as no attenuation, bone is no denser than this.
FLOOR, CEILING = -125.0, 275.0
# A structure casts a shadow where the ray passes this much of it, in mm.
LEAST_PATH = 3.0


@dataclass(frozen=True)
class Projection:
    """A frontal projection as one looks at a radiograph: the head above, the patient's right on the left of the picture.

    ``image`` (rows, columns) is the mean path through attenuating tissue, 0 where there is none; ``masks`` maps a label to its shadow on
    the same grid, partly on top of each other; ``spacing`` is the side of a square pixel in mm.
    """

    image: np.ndarray
    masks: dict[int, np.ndarray]
    spacing: float


def project(volume: sitk.Image, labels: sitk.Image, *, turn: float = 0.0, tilt: float = 0.0, spacing: float = 2.5) -> Projection:
    """Project a CT from front to back with parallel rays.

    Args:
        volume: CT in HU.
        labels: Label map on the same grid.
        turn: Degrees around the axis from foot to head.
        tilt: Degrees around the axis from right to left.
        spacing: Of the projection, in mm.
    """
    ct = canonical(volume)
    grid = _grid(ct, spacing)
    middle = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in grid.GetSize()])
    # Axes are the volume's own, so that a gantry tilt is not taken for the patient's.
    axes = np.array(ct.GetDirection()).reshape(3, 3)
    turned = sitk.VersorTransform(tuple(axes[:, 2]), np.radians(turn), middle)
    tilted = sitk.VersorTransform(tuple(axes[:, 0]), np.radians(tilt), middle)
    transform = sitk.CompositeTransform([turned, tilted])
    hu = sitk.GetArrayFromImage(sitk.Resample(ct, grid, transform, sitk.sitkLinear, FLOOR, sitk.sitkFloat32))
    # (z, y, x) to (rows from the head down, columns from the patient's right to left): x grows to the left in LPS already.
    image = np.clip(hu - FLOOR, 0, CEILING - FLOOR).mean(1)[::-1]
    known = sitk.GetArrayFromImage(sitk.Resample(canonical(labels), grid, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8))
    masks = {
        int(label): np.ascontiguousarray(((known == label).sum(1) * spacing >= LEAST_PATH)[::-1]) for label in np.unique(known) if label
    }
    return Projection(np.ascontiguousarray(image), masks, spacing)


def _grid(image: sitk.Image, spacing: float) -> sitk.Image:
    grid = sitk.Image([max(1, round(n * s / spacing)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)], sitk.sitkUInt8)
    grid.SetSpacing((spacing,) * 3)
    grid.SetDirection(image.GetDirection())
    half = [(spacing / s - 1) / 2 for s in image.GetSpacing()]
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(half))
    return grid
