"""Reads one image file of any format ITK knows, and says in words why a file can't be used."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from .nifti import nifti_fault

NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def require_exists(path: Path, kind: str) -> None:
    """Raise InputError unless ``path`` is a file or folder that can be opened; ``kind`` says what was expected there."""
    try:
        exists = path.exists()
    except OSError as error:
        raise unreadable(path, error.strerror or "The operating system refuses the path.") from error
    if not exists:
        raise InputError(
            f"The {kind} {str(path)!r} does not exist.",
            "There is no file or folder at this path.",
            "Check the spelling of the path and that the disk it lies on is connected.",
        )


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file name ends in one of the suffixes, upper or lower case."""
    return path.name.lower().endswith(suffixes)


def unreadable(path: Path, reason: str) -> InputError:
    """The error for a file that is there but can't be opened or is damaged."""
    return InputError(
        f"The file {str(path)!r} can't be read.",
        reason,
        "Check that the file opens in another program; if it is damaged or incomplete, copy or export it again.",
    )


def read_image(path: Path) -> sitk.Image:
    """Read an image file as it is, of any dimension and pixel type, with its header's metadata.

    Raises:
        InputError: the file is missing, empty, damaged, truncated, not permitted, or in a format or geometry that can't be read.
    """
    require_exists(path, "file")
    try:
        if path.stat().st_size == 0:
            raise unreadable(path, "The file is empty.")
        if has_suffix(path, NIFTI_SUFFIXES) and (fault := nifti_fault(path)):
            raise unreadable(path, fault)
        with path.open("rb"):
            return sitk.ReadImage(str(path))
    except OSError as error:
        raise unreadable(path, error.strerror or "The file is damaged.") from error
    except UnicodeDecodeError as error:
        raise unreadable(path, "Its header holds text that is not UTF-8.") from error
    except RuntimeError as error:
        raise unreadable(path, _explain(str(error))) from error


def as_volume(image: sitk.Image, path: Path) -> sitk.Image:
    """The image as a scalar 3D one: a 2D image becomes a volume of one slice, a fourth axis of length one is dropped.

    Raises:
        InputError: the image is a time series, has several values a voxel, or is complex.
    """
    if image.GetPixelID() in _COMPLEX:
        raise InputError(
            f"The image {str(path)!r} has complex voxels.",
            "Only real-valued images can be segmented.",
            "Save its magnitude as an image of its own and use that.",
        )
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(
            f"The image {str(path)!r} has {image.GetNumberOfComponentsPerPixel()} values a voxel.",
            "Colour, vector and tensor images can't be used: one intensity a voxel is needed.",
            "Save one component as an image of its own and use that.",
        )
    while image.GetDimension() > 3:
        if image.GetSize()[-1] != 1:
            raise InputError(
                f"The image {str(path)!r} has {image.GetDimension()} dimensions: {' x '.join(str(n) for n in image.GetSize())}.",
                "It is a series of volumes (time points, echoes or contrasts) rather than one volume.",
                "Save one of its volumes as a file of its own and use that.",
            )
        image = sitk.Extract(image, [*image.GetSize()[:-1], 0], [0] * image.GetDimension())
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return image


def _explain(message: str) -> str:
    """What a user can make of ITK's message, which itself names paths of the machine it was built on."""
    if "orthonormal" in message or "determinant" in message:
        return "Its header describes axes that are not at right angles to each other."
    if "spacing" in message:
        return f"Its header gives voxels a size of zero or none: {message.rpartition(' to ')[2].strip()} mm."
    if "Unable to determine ImageIO" in message:
        return "Its content is not of the format that its name says."
    if "memory" in message.lower() or "bad_alloc" in message:
        return "There is not enough memory to hold it, or its header is damaged and asks for an absurd size."
    return "It is damaged, or ends before all of its voxels are there."
