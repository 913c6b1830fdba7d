"""2D images as volumes of one slice: radiographs in PNG and JPEG, and masks drawn on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .grids import from_array, with_grid_of
from .image_file import read_image

# ITU-R BT.601, the weights that picture libraries use for luminance.
_LUMINANCE = (0.299, 0.587, 0.114)


def read_picture(path: Path) -> sitk.Image:
    """Read a PNG or JPEG as a gray volume of size (width, height, 1), 1 mm pixels where the file says nothing else.

    Raises:
        InputError: the file is missing or damaged.
    """
    return as_gray_volume(read_image(path))


def read_mask(path: Path, volume: sitk.Image | None) -> sitk.Image:
    """Read a PNG of label values as a volume of one slice on ``volume``'s grid.

    Raises:
        InputError: the picture is damaged, coloured, or of another size than the volume.
    """
    picture = read_image(path)
    if picture.GetNumberOfComponentsPerPixel() > 1 and not _is_gray(picture):
        raise InputError(
            f"The mask {str(path)!r} is a colour picture.",
            "Which colour stands for which structure can't be told.",
            "Save it with one gray value a structure, 0 for background.",
        )
    mask = as_gray_volume(picture)
    if volume is None:
        return mask
    if mask.GetSize() != volume.GetSize():
        shown = " x ".join(str(n) for n in mask.GetSize()[:2])
        raise InputError(
            f"The mask {str(path)!r} is {shown} pixels, the image {' x '.join(str(n) for n in volume.GetSize())}.",
            "A picture has no position in space, so a mask must have its image's size to be laid over it.",
            "Export the mask again in the size of the image.",
        )
    return with_grid_of(mask, volume)


def as_gray_volume(image: sitk.Image) -> sitk.Image:
    """A 2D or one-slice image of one (gray), two (gray, alpha), three (RGB) or four (RGBA) components as a gray volume."""
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        return image
    if components < 3 or _is_gray(image):
        return sitk.VectorIndexSelectionCast(image, 0)
    array = sitk.GetArrayViewFromImage(image)
    return from_array(np.rint(array[..., :3] @ np.array(_LUMINANCE)).astype(array.dtype), image)


def _is_gray(image: sitk.Image) -> bool:
    if image.GetNumberOfComponentsPerPixel() < 3:
        return True
    array = sitk.GetArrayViewFromImage(image)
    return bool(np.array_equal(array[..., 0], array[..., 1]) and np.array_equal(array[..., 0], array[..., 2]))
