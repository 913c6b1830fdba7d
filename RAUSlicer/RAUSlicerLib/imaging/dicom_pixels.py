"""Decodes the pixels of DICOM image planes, in whatever way they are compressed, and rescales them to their units."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, SecondaryCaptureImageStorage, generate_uid

from ..errors import InputError
from ..support.scratch import ScratchFolder
from .dicom_planes import Plane, numbers, read_dataset, text
from .image_file import unreadable

_FORM = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
_KNOWN_TO_GDCM = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
# Their values are physical units, whichever way round they are meant to be shown.
_IN_UNITS = ("CT", "PT", "NM")


def read_planes(planes: Sequence[Plane]) -> np.ndarray:
    """Rescaled values of planes of one size, shape (plane, row, column).

    They are of the smallest integer type that holds every value which could be stored, or float32 where a rescaled one may be a fraction.

    Raises:
        InputError: pixels are in colour, damaged, or compressed in a way that can't be decoded.
    """
    array: np.ndarray = np.empty((len(planes), *planes[0].size), _type_for(planes))
    places = sorted(enumerate(planes), key=lambda one: (str(one[1].path), one[1].frame))
    for path, group in groupby(places, key=lambda one: one[1].path):
        wanted = {plane.frame: (place, plane) for place, plane in group}
        for number, stored in enumerate(_stored_frames(path), start=1):
            if number in wanted:
                place, plane = wanted.pop(number)
                array[place] = _rescaled(stored, plane)
        if wanted:
            raise broken_pixels(path)
    return array


def broken_pixels(path: Path) -> InputError:
    """The error for a file whose header is sound and whose pixels are not."""
    return unreadable(path, "The pixels of a DICOM file are damaged, incomplete or compressed in an unknown way.")


def _type_for(planes: Sequence[Plane]) -> type[np.generic]:
    lowest, highest = 0.0, 0.0
    for plane in planes:
        bits, signed = _bits(plane)
        slope, intercept = plane.rescale
        if bits > 32 or not slope.is_integer() or not intercept.is_integer():
            return np.float32
        ends = [slope * value + intercept for value in ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1))]
        lowest, highest = min(lowest, *ends), max(highest, *ends)
    return next((kind for kind in _INTEGERS if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max), np.float32)


def _bits(plane: Plane) -> tuple[int, bool]:
    """How many bits a stored value has, 64 where they are floating-point; and whether it has a sign."""
    stored = numbers(plane.header, "BitsStored", 1, plane.path) or numbers(plane.header, "BitsAllocated", 1, plane.path)
    signed = numbers(plane.header, "PixelRepresentation", 1, plane.path)
    return (int(stored[0]), bool(signed and signed[0])) if stored and signed else (64, True)


def _rescaled(stored: np.ndarray, plane: Plane) -> np.ndarray:
    if stored.shape != plane.size:
        raise broken_pixels(plane.path)
    if text(plane.header, "PhotometricInterpretation") == "MONOCHROME1" and text(plane.header, "Modality") not in _IN_UNITS:
        # As ITK does it: bright tissue is bright in every image.
        bits, signed = _bits(plane)
        stored = (-1 if signed else 2**bits - 1) - stored.astype(np.int64)
    slope, intercept = plane.rescale
    return stored if (slope, intercept) == (1.0, 0.0) else stored * slope + intercept


def _stored_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a file as stored, shape (row, column), in the order of the file."""
    dataset = read_dataset(path)
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    try:
        _complete(dataset)
        if dataset.SamplesPerPixel != 1 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            raise InputError(
                f"The image {str(path)!r} has 3 values a voxel.",
                "Colour images can't be used: one intensity a voxel is needed.",
                "Give the series that the colours were made from, or save one component as an image of its own.",
            )
        # A length is left out only where frames are wrapped one by one, which a syntax that pydicom has never heard of does not tell.
        wrapped = "PixelData" in dataset and dataset["PixelData"].is_undefined_length
        if wrapped or (syntax.is_transfer_syntax and syntax.is_encapsulated):
            yield from _decompressed(dataset, syntax, path)
        else:
            yield from (_cleaned(frame, dataset) for frame in iter_pixels(dataset, raw=True))
    except InputError:
        raise
    except Exception as error:  # Whatever a decoder meets in damaged pixels.
        raise broken_pixels(path) from error


def _complete(dataset: Dataset) -> None:
    """Give elements that have one usual value that value where a broken header leaves them out."""
    usual = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "BitsStored": dataset.BitsAllocated,
        "HighBit": int(dataset.get("BitsStored") or dataset.BitsAllocated) - 1,
    }
    for keyword, value in usual.items():
        if not text(dataset, keyword):
            setattr(dataset, keyword, value)


def _cleaned(frame: np.ndarray, dataset: Dataset) -> np.ndarray:
    """A frame without what old scanners kept in the bits that a pixel does not use: overlays, or nothing where the sign should be."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if frame.dtype.kind not in "iu" or stored >= allocated:
        return frame
    unused = allocated - stored
    above = allocated - 1 - int(dataset.HighBit)
    # Shifting up drops the bits above, shifting down those below and spreads the sign.
    return (frame << above) >> unused


def _decompressed(dataset: Dataset, syntax: UID, path: Path) -> Iterator[np.ndarray]:
    """Through GDCM, which is part of SimpleITK and knows all of JPEG; what it can't decode through pydicom and the decoders it finds."""
    total = int(dataset.get("NumberOfFrames") or 1)
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    with _scratch() as scratch:
        for number, encoded in enumerate(generate_frames(dataset.PixelData, number_of_frames=total, extended_offsets=offsets)):
            try:
                yield _through_gdcm(encoded, dataset, scratch / "frame.dcm")
            except (RuntimeError, ValueError) as error:
                if not _known_to_pydicom(syntax):
                    raise _cannot_decode(path, syntax, f"frame {number + 1}") from error
                yield _cleaned(next(iter_pixels(dataset, raw=True, indices=[number])), dataset)


def _through_gdcm(encoded: bytes, dataset: Dataset, scratch: Path) -> np.ndarray:
    """One compressed frame, wrapped in a file that says nothing but its form, so that GDCM rescales and inverts nothing."""
    single = Dataset()
    single.SOPClassUID, single.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    for keyword in _FORM:
        setattr(single, keyword, dataset[keyword].value)
    single.SamplesPerPixel, single.PhotometricInterpretation = 1, "MONOCHROME2"
    single.PixelData = encapsulate([encoded])
    single["PixelData"].is_undefined_length = True
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with _written_to_scratch():
        single.save_as(scratch, enforce_file_format=True)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(scratch), imageIO="GDCMImageIO"))[0]


@contextmanager
def _scratch() -> Iterator[Path]:
    with _written_to_scratch():
        folder = ScratchFolder(Path(tempfile.gettempdir()))
    with folder as path:
        yield path


@contextmanager
def _written_to_scratch() -> Iterator[None]:
    """Tell what hinders writing of temporary files from damaged pixels."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"No temporary files can be written to {tempfile.gettempdir()!r}, through which compressed pixels are read.",
            f"The operating system says: {error.strerror or error}.",
            "Free some space there, or have the variable TMPDIR name another folder.",
        ) from error


def _known_to_pydicom(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _cannot_decode(path: Path, syntax: UID, where: str) -> InputError:
    if syntax in _KNOWN_TO_GDCM:
        return unreadable(path, f"Its pixels are damaged or incomplete: {where} can't be decompressed ({syntax.name}).")
    return InputError(
        f"The pixels of the DICOM file {str(path)!r} can't be decompressed.",
        f"They are compressed as {syntax.name}, for which there is no decoder here.",
        "Export the series again uncompressed (transfer syntax Explicit VR Little Endian), or load it in 3D Slicer and save it as .nrrd.",
    )
