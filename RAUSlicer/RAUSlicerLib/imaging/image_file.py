"""Reads one image file of any format ITK knows, and says in words why a file can't be used."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..support.header_fields import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, Unsound
from ..support.text import is_text
from .headers import check_metaimage, check_nrrd, check_picture, require_file
from .nifti import read_nifti
from .places import forget_places, keep_places, set_no_place

NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

# Each says why it can't be told how the image lies in the patient, if so.
_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Path], str | None]], ...] = (
    (METAIMAGE_SUFFIXES, check_metaimage),
    (NRRD_SUFFIXES, check_nrrd),
    (PICTURE_SUFFIXES, check_picture),
)
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def require_exists(path: Path, kind: str) -> Path:
    """The path of a file or folder that can be opened; one whose accents are stored in another way is found too.

    ``kind`` is what was expected there, for the message.

    Raises:
        InputError: there is nothing at the path, something that is neither file nor folder, or a path that libraries can't be given.
    """
    try:
        found = _as_stored(path)
        if found is not None and not found.is_dir():
            require_file(found)
    except Unsound as error:
        raise unreadable(path, error.reason, error.solution) from error
    except OSError as error:
        raise unreadable(path, error.strerror or "The operating system refuses the path.") from error
    except ValueError as error:
        raise unreadable(path, "The path holds a character that no path may hold.") from error
    if found is None:
        raise InputError(
            f"The {kind} {str(path)!r} does not exist.",
            "There is no file or folder at this path.",
            "Check the spelling of the path and that the disk it lies on is connected.",
        )
    if not is_text(str(found)):
        raise unreadable(
            path,
            "Its path holds bytes that are not UTF-8, which the image library can't be given.",
            "Rename the file or folder, or give it by another path.",
        )
    return found


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file name ends in one of the suffixes, upper or lower case."""
    return path.name.lower().endswith(suffixes)


def unreadable(path: Path, reason: str, solution: str | None = None) -> InputError:
    """The error for a file that is there but can't be opened or is damaged."""
    return InputError(
        f"The file {str(path)!r} can't be read.",
        reason,
        solution or "Check that the file opens in another program; if it is damaged or incomplete, copy or export it again.",
    )


def read_image(path: Path) -> sitk.Image:
    """Read an image file as it is, of any dimension and pixel type, with its header's metadata.

    Raises:
        InputError: the file is missing, empty, damaged, truncated, not permitted, or in a format or geometry that can't be read.
    """
    path = require_exists(path, "file")
    try:
        with quiet():
            return _read(path)
    except Unsound as error:
        raise unreadable(path, error.reason, error.solution) from error
    except OSError as error:
        raise unreadable(path, error.strerror or "The file is damaged.") from error
    except UnicodeDecodeError as error:
        raise unreadable(path, "Its header holds text that is not UTF-8.") from error
    except RuntimeError as error:
        raise unreadable(path, _explain(str(error))) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what ITK warns of, with places in its own code: what a user has to know is looked for here, and told in words."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _read(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise Unsound("The file is empty.")
    if has_suffix(path, NIFTI_SUFFIXES):
        return read_nifti(path)
    check = next((check for suffixes, check in _CHECKS if has_suffix(path, suffixes)), None)
    with path.open("rb"):
        why = check(path) if check is not None else None
        image = _scalar(forget_places(sitk.ReadImage(str(path))))
    if why is not None:
        set_no_place(image, path.name, why)
    return image


def require_no_pair(path: Path) -> None:
    """Raise InputError for one file of a pair, .hdr and .img, as Analyze and old NIfTI have it."""
    if has_suffix(path, (".hdr", ".img", ".hdr.gz", ".img.gz")):
        raise unreadable(
            path,
            "It is one of a pair of files, .hdr and .img. Such pairs come apart, and older ones do not say which side is left.",
            "Load the image in 3D Slicer, check left and right, and save it as .nrrd or .nii.gz.",
        )


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
    given = image
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
    return image if image is given else keep_places(given, image)


def _scalar(image: sitk.Image) -> sitk.Image:
    """The image, of numbers where it is one of vectors of one number."""
    if image.GetNumberOfComponentsPerPixel() > 1 or "vector" not in image.GetPixelIDTypeAsString():
        return image
    scalar = sitk.VectorIndexSelectionCast(image, 0)
    for key in image.GetMetaDataKeys():
        scalar.SetMetaData(key, image.GetMetaData(key))
    return scalar


def _as_stored(path: Path) -> Path | None:
    """The path as the disk has it, None where there is nothing: "é" may be one character or two, and most disks tell these apart."""
    if path.exists():
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        step = found / part
        if not step.exists():
            if not found.is_dir():
                return None
            wanted = unicodedata.normalize("NFC", part)
            step = next((entry for entry in found.iterdir() if unicodedata.normalize("NFC", entry.name) == wanted), step)
            if not step.exists():
                return None
        found = step
    return found


def _explain(message: str) -> str:
    """What a user can make of ITK's message, which itself names paths of the machine it was built on."""
    if "orthonormal" in message or "determinant" in message:
        return "Its header describes axes that are not at right angles to each other."
    if (sizes := re.search(r"spacing.* to (\[[^\]]*\])", message, re.IGNORECASE | re.DOTALL)) is not None:
        return f"Its header gives voxels a size of zero or none: {sizes[1]} mm."
    if "Unable to determine ImageIO" in message:
        return "Its content is not of the format that its name says."
    if "memory" in message.lower() or "bad_alloc" in message:
        return "There is not enough memory to hold it, or its header is damaged and asks for an absurd size."
    return "It is damaged, or ends before all of its voxels are there."
