"""Whether a body is one of those that the network was trained on, or the mirror image of one.

Where organs are not symmetric, as in the abdomen, a mirrored target fits the reference hardly worse than it would as it is. But no patch of
training was ever mirrored, and in a mirrored body the training labels are less sure: what lies where the spleen should be looks like a
liver.
"""

from __future__ import annotations

from collections.abc import Sequence

import SimpleITK as sitk

from ..imaging.frame import from_array, working_spacing
from ..imaging.segmentation import Reference
from ..matching.label_posteriors import LabelHead, telling_set
from ..matching.matcher import Matcher, Reading, affordable_spacing, numbered_layers
from ..progress import CancelToken


def label_margins(
    matcher: Matcher, reference: Reference, frames: Sequence[sitk.Image], cancel: CancelToken, most_voxels: int
) -> tuple[float, float] | None:
    """By how much the training labels are surer of the reference, and of the target, than of their mirror images.

    None where the network knows no labels, or after a cancel.

    Args:
        frames: Both volumes, canonical and normalized.
        most_voxels: At how many voxels labels are read.

    Source: own design.
    """
    head = matcher.head
    if head is None:
        return None
    which: int | None = None
    margins = []
    for frame in frames:
        spacing = working_spacing(frame, sitk.GetArrayViewFromImage(frame))
        spacing = max(spacing, affordable_spacing(frame, min(matcher.most_voxels, most_voxels)))
        sure = []
        for volume in (frame, mirrored(frame)):
            if cancel.cancelled:
                return None
            reading = matcher.read(volume, spacing)
            if which is None:
                layers, counts, _ = numbered_layers(reference, reference.segmentation.structures, reading.grid)
                which = telling_set(reading.rows, layers, counts, head, matcher.settings)
            sure.append(_sureness(reading, head, which))
        margins.append(sure[0] - sure[1])
    return margins[0], margins[1]


def _sureness(reading: Reading, head: LabelHead, which: int) -> float:
    """Mean over the labels, less background, of the probability that voxels have a label where it is likely."""
    whole, squared = head.masses(reading.rows[reading.inside], which)
    return float((squared[1:] / whole[1:].clamp(min=1)).mean())


def mirrored(frame: sitk.Image) -> sitk.Image:
    """A canonical volume with its left and right exchanged, on the same grid."""
    return from_array(sitk.GetArrayViewFromImage(frame)[:, :, ::-1].copy(), frame)
