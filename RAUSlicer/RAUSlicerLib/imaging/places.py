"""What is odd about the place that a header gives an image, a second one or none: it travels with it until it meets its segmentation."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

_log = logging.getLogger(__name__)

_KEY = "RAUSlicer_other_place"
_NO_PLACE = "RAUSlicer_no_place"
_KEYS = (_KEY, _NO_PLACE)


@dataclass(frozen=True)
class TwoPlaces:
    """The two geometries of one header, where they disagree.

    ``used`` and ``other`` are their names ("qform", "sform"), ``affine`` (4, 4) the other one's, from voxel index to patient space (LPS,
    mm). ``apart_mm`` and ``apart_voxels`` say how far the voxel lies apart for which they differ most.
    """

    used: str
    other: str
    affine: np.ndarray
    apart_mm: float
    apart_voxels: float


def set_two_places(image: sitk.Image, places: TwoPlaces) -> None:
    """Have an image carry the place that its header also names."""
    image.SetMetaData(_KEY, json.dumps([places.used, places.other, places.affine.tolist(), places.apart_mm, places.apart_voxels]))


def two_places(image: sitk.Image) -> TwoPlaces | None:
    """The place that an image's header also names; None where there is but one."""
    if not image.HasMetaDataKey(_KEY):
        return None
    used, other, affine, *distances = json.loads(image.GetMetaData(_KEY))
    return TwoPlaces(used, other, np.array(affine), *distances)


def set_no_place(image: sitk.Image, name: str, why: str) -> None:
    """Have an image carry that its header does not say how it lies in the patient, which is logged as a warning with the reason."""
    image.SetMetaData(_NO_PLACE, why)
    _log.warning(
        "The header of %r does not say how the image lies in the patient (%s): left and right may be exchanged, and so may front and back.",
        name,
        why,
    )


def has_no_place(image: sitk.Image) -> bool:
    """Whether an image's header does not say how it lies in the patient."""
    return bool(image.HasMetaDataKey(_NO_PLACE))


def keep_places(source: sitk.Image, image: sitk.Image) -> sitk.Image:
    """Have ``image`` carry what ``source`` does, and return it."""
    for key in _KEYS:
        if source.HasMetaDataKey(key):
            image.SetMetaData(key, source.GetMetaData(key))
    return image


def forget_places(image: sitk.Image) -> sitk.Image:
    """Take from an image what a file's own header may say in this one's place, and return it."""
    for key in _KEYS:
        image.EraseMetaData(key)
    return image


def only_places(image: sitk.Image) -> sitk.Image:
    """Take from an image all that its file's header said beside voxels and place, and return it."""
    for key in image.GetMetaDataKeys():
        if key not in _KEYS:
            image.EraseMetaData(key)
    return image
