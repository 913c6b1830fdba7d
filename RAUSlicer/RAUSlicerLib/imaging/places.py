"""The second place that a header may give an image: it travels with the image until the image meets its segmentation."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

_KEY = "RAUSlicer_other_place"


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


def keep_places(source: sitk.Image, image: sitk.Image) -> sitk.Image:
    """Have ``image`` carry the place that ``source`` does, and return it."""
    if source.HasMetaDataKey(_KEY):
        image.SetMetaData(_KEY, source.GetMetaData(_KEY))
    return image


def forget_places(image: sitk.Image) -> sitk.Image:
    """Take from an image what a file's own header may say in this one's place, and return it."""
    image.EraseMetaData(_KEY)
    return image


def only_places(image: sitk.Image) -> sitk.Image:
    """Take from an image all that its file's header said beside voxels and place, and return it."""
    for key in image.GetMetaDataKeys():
        if key != _KEY:
            image.EraseMetaData(key)
    return image
