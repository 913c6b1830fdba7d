"""What is to be told of how an image was read, and the second place its header gives it: both travel with the image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

_KEY = "RAUSlicer_reading"


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


def add_note(image: sitk.Image, sentence: str) -> None:
    """Have an image carry a sentence for the user."""
    said = _said(image)
    _say(image, said | {"notes": [*said.get("notes", ()), sentence]})


def notes_of(image: sitk.Image) -> tuple[str, ...]:
    """The sentences for the user that an image carries."""
    return tuple(_said(image).get("notes", ()))


def set_two_places(image: sitk.Image, places: TwoPlaces) -> None:
    """Have an image carry the place that its header also names."""
    fields = {"used": places.used, "other": places.other, "affine": places.affine.tolist()}
    _say(image, _said(image) | {"places": fields | {"apart_mm": places.apart_mm, "apart_voxels": places.apart_voxels}})


def two_places(image: sitk.Image) -> TwoPlaces | None:
    """The place that an image's header also names; None where there is but one."""
    fields = _said(image).get("places")
    return None if fields is None else TwoPlaces(**fields | {"affine": np.array(fields["affine"])})


def copy_reading(source: sitk.Image, image: sitk.Image) -> sitk.Image:
    """Have ``image`` carry what ``source`` does, and return it."""
    if source.HasMetaDataKey(_KEY):
        image.SetMetaData(_KEY, source.GetMetaData(_KEY))
    return image


def forget_reading(image: sitk.Image) -> sitk.Image:
    """Take from an image what a file's own header may say in this one's place, and return it."""
    image.EraseMetaData(_KEY)
    return image


def only_reading(image: sitk.Image) -> sitk.Image:
    """Take from an image all that its file's header said beside voxels and place, and return it."""
    for key in image.GetMetaDataKeys():
        if key != _KEY:
            image.EraseMetaData(key)
    return image


def _said(image: sitk.Image) -> dict[str, Any]:
    return dict(json.loads(image.GetMetaData(_KEY))) if image.HasMetaDataKey(_KEY) else {}


def _say(image: sitk.Image, said: dict[str, Any]) -> None:
    image.SetMetaData(_KEY, json.dumps(said))
