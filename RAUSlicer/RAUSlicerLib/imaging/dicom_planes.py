"""Reads from DICOM headers where image planes lie: the slices of a series, the frames of an enhanced object."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..errors import InputError
from ..support.text import plain_text
from .image_file import unreadable

_TAGS = """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID SeriesNumber SeriesDescription FrameOfReferenceUID
    SpecificCharacterSet PatientID PatientName PatientBirthDate Modality ImageType InstanceNumber AcquisitionNumber EchoTime
    TemporalPositionIdentifier TriggerTime NominalPercentageOfCardiacPhase DiffusionBValue ConcatenationUID InConcatenationNumber
    InConcatenationTotalNumber PhotometricInterpretation SamplesPerPixel BitsAllocated BitsStored HighBit PixelRepresentation Rows
    Columns NumberOfFrames ImagePositionPatient ImageOrientationPatient PixelSpacing ImagerPixelSpacing SliceThickness
    SpacingBetweenSlices RescaleSlope RescaleIntercept SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
""".split()

# Objects with pixels that are not intensities: segmentations, label maps, doses.
_NOT_IMAGES = ("SEG", "RTDOSE")
_NOT_IMAGE_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.481.2")
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10", b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00")

APART: dict[str, tuple[str | None, str]] = {
    "StackID": ("FrameContentSequence", "stacks"),
    "TemporalPositionIdentifier": (None, "time points"),
    "TemporalPositionIndex": ("FrameContentSequence", "time points"),
    "TemporalPositionTimeOffset": ("TemporalPositionSequence", "time points"),
    "TriggerTime": (None, "heart phases"),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence", "heart phases"),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence", "heart phases"),
    "DiffusionBValue": ("MRDiffusionSequence", "b-values"),
    "DiffusionDirectionality": ("MRDiffusionSequence", "diffusion directions"),
    "EchoTime": (None, "echoes"),
    "EffectiveEchoTime": ("MREchoSequence", "echoes"),
    "FrameType": ("MRImageFrameTypeSequence", "kinds of image"),
    "ImageType": (None, "kinds of image"),
    "AcquisitionNumber": (None, "acquisitions"),
    "FrameAcquisitionNumber": ("FrameContentSequence", "acquisitions"),
}
"""What can tell planes at the same place apart: keyword -> the functional group that holds it, and what its values stand for."""

_GROUPS = {
    tag_for_keyword(keyword): keyword
    for keyword in (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        *(sequence for sequence, _ in APART.values() if sequence is not None),
    )
}

# Directions have length one and are at right angles, up to what rounding to two digits leaves; finer rounding is left as it is.
_SKEW, _ROUNDING = 0.02, 1e-4
_NUMERIC = re.compile(r"[-+0-9.eEnaifNAIF\\\[\], ']*")
_UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# A film is refused anyway; a header may promise any number of frames.
_LONGEST_FILM = 10000
_FIRST_TYPES = (b"UI", b"CS", b"DA", b"TM", b"UL", b"SH", b"LO", b"DT", b"OB")


@dataclass(frozen=True)
class Plane:
    """One image plane: a slice's file, or one frame of a file.

    ``frame`` counts from 1 within the file, ``size`` is rows and columns. ``position`` (mm) and the rows of ``axes`` (row, column, normal
    direction) are in patient space (LPS), None for radiographs and films. ``spacing`` is the distance of rows and of columns (mm),
    ``rescale`` slope and intercept, ``between`` and ``thickness`` what the header says of slices (mm). ``apart`` is what may tell the
    plane from others at the same place, by the keywords of ``APART``.
    """

    path: Path
    frame: int
    size: tuple[int, int]
    header: pydicom.Dataset
    position: np.ndarray | None = None
    axes: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    rescale: tuple[float, float] = (1.0, 0.0)
    between: float | None = None
    thickness: float | None = None
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int | None:
        """The frame's number as references to it name it; None where the file is one image."""
        return self.frame if "PerFrameFunctionalGroupsSequence" in self.header else None


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file: ``planes`` are empty for what is no image, ``fault`` says why a damaged one can't be used."""

    path: Path
    header: pydicom.Dataset | None
    planes: tuple[Plane, ...]
    fault: InputError | None = None

    @property
    def series(self) -> str:
        """The series' UID; empty where there is none or it can't be read."""
        return text(self.header, "SeriesInstanceUID")


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file: by the mark behind its preamble or, where it has none, by the elements that it starts with.

    Raises:
        InputError: the file can't be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise _unopened(path, error) from error
    if start[128:] == b"DICM":
        return True
    # Without preamble: a first element of group 2 or 8 in little or big endian, with a known type or a short length.
    if start[:2] in (b"\x08\x00", b"\x02\x00") and start[2:4] <= b"\x20\x00" and start[3:4] == b"\x00":
        return start[4:6] in _FIRST_TYPES or 0 < int.from_bytes(start[4:8], "little") <= 128
    return start[:2] == b"\x00\x08" and start[2:3] == b"\x00" and start[4:6] in _FIRST_TYPES


def read_dataset(path: Path, **options: Any) -> pydicom.Dataset:
    """A DICOM file as ``pydicom.dcmread`` reads it with these options; the transfer syntax is found where there is no meta header.

    Raises:
        InputError: the file can't be opened or parsed.
    """
    try:
        with path.open("rb") as file:
            return _parse(file, path, **options)
    except OSError as error:
        raise _unopened(path, error) from error


def look_into(path: Path) -> DicomFile | None:
    """What image planes a file holds; None for what is not DICOM. A damaged file is told in ``fault``, not raised."""
    header = None
    try:
        if not is_dicom(path):
            return None
        with path.open("rb") as file:
            header = _parse(file, path, stop_before_pixels=True, specific_tags=_TAGS)
            whole = header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian or file.read(4) in _PIXELS
        if not whole and ("Rows" in header or not header or "Image Storage" in _class_name(header)):
            raise unreadable(path, "It ends before its pixels, or its header is damaged.")
        if not _is_image(header):
            return DicomFile(path, header, ())
        _require_size(header, path)
        return DicomFile(path, header, planes_of(header, path))
    except OSError as error:
        return DicomFile(path, header, (), _unopened(path, error))
    except InputError as error:
        return DicomFile(path, header, (), error)


def planes_of(header: pydicom.Dataset, path: Path) -> tuple[Plane, ...]:
    """The planes of an image or a segmentation, in the order in which they are stored.

    Raises:
        InputError: what the header says of them contradicts itself, or is damaged.
    """
    stored, rows, columns = _form(header, path)
    frames = _items(header, "PerFrameFunctionalGroupsSequence")
    shared = _items(header, "SharedFunctionalGroupsSequence")
    if frames and len(frames) != stored:
        raise unreadable(path, f"Its header speaks of {stored} frames and describes {len(frames)}.")
    of_all = [_first_items(group) for group in shared[:1]]
    if frames:
        return tuple(_plane(header, path, k, [_first_items(frame), *of_all]) for k, frame in enumerate(frames, start=1))
    if stored > 1:
        # Without functional groups only the first frame's place could be known.
        return tuple(Plane(path, k, (rows, columns), header) for k in range(1, min(stored, _LONGEST_FILM) + 1))
    return (_plane(header, path, 1, of_all),)


def functional_group(dataset: pydicom.Dataset, frame: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    """A frame's own item of a functional group, else the one that all frames share. Raises KeyError: there is none."""
    for place in (frame, *_items(dataset, "SharedFunctionalGroupsSequence")[:1]):
        for item in _items(place, keyword):
            return item
    raise KeyError(keyword)


def text(dataset: pydicom.Dataset | None, keyword: str) -> str:
    """An element as text without control characters; empty where it is absent or can't be decoded."""
    try:
        value = "" if dataset is None else dataset.get(keyword)
    except Exception:  # Whatever a parser meets in a damaged element.
        return ""
    return plain_text("" if value is None else str(value)).strip()


def numbers(dataset: pydicom.Dataset, keyword: str, count: int, path: Path) -> tuple[float, ...] | None:
    """An element of ``count`` finite numbers; None where it is absent or empty.

    Raises:
        InputError: there are fewer or more, or some are no numbers.
    """
    try:
        value = dataset.get(keyword)
        values = [] if value is None or value == "" else list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]
        found = tuple(float(one) for one in values)
    except Exception:  # Whatever a parser meets in a damaged element.
        found = (math.nan,)
    if not found:
        return None
    if len(found) != count or not all(math.isfinite(one) for one in found):
        shown = text(dataset, keyword)
        raise InputError(
            f"The DICOM file {str(path)!r} is damaged: its {dictionary_description(keyword)} is "
            f"{shown if _NUMERIC.fullmatch(shown) else 'not a number'}.",
            f"{count} finite number{'s' if count > 1 else ''} should stand there; without, pixels would be put in a wrong place or value.",
            "Export the series again from the archive or scanner.",
        )
    return found


def _unopened(path: Path, error: OSError) -> InputError:
    return unreadable(path, error.strerror or "The operating system refuses to open it.")


def _parse(file: Any, path: Path, **options: Any) -> pydicom.Dataset:
    try:
        dataset = pydicom.dcmread(file, force=True, **options)
        if not text(dataset.file_meta, "TransferSyntaxUID"):
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            )
    except Exception as error:  # Whatever a parser meets in a damaged file.
        raise unreadable(path, "Its DICOM header is damaged.") from error
    return dataset


def _class_name(header: pydicom.Dataset) -> str:
    return UID(text(header, "SOPClassUID") or text(header.file_meta, "MediaStorageSOPClassUID")).name


def _is_image(header: pydicom.Dataset) -> bool:
    no_image = text(header, "Modality") in _NOT_IMAGES or text(header, "SOPClassUID") in _NOT_IMAGE_CLASSES
    return "Rows" in header and not no_image


def _form(header: pydicom.Dataset, path: Path) -> tuple[int, int, int]:
    """How many frames, rows and columns there are."""
    counts = [numbers(header, keyword, 1, path) for keyword in ("NumberOfFrames", "Rows", "Columns")]
    frames, rows, columns = (int(count[0]) if count else default for count, default in zip(counts, (1, 0, 0), strict=True))
    if min(rows, columns, frames) < 1:
        raise unreadable(path, f"Its header speaks of {frames} frames of {rows} x {columns} pixels.")
    return frames, rows, columns


def _require_size(header: pydicom.Dataset, path: Path) -> None:
    """Refuse an uncompressed image that ends early, or whose header asks for an absurd size, before anything is decoded."""
    frames, rows, columns = _form(header, path)
    bits = numbers(header, "BitsAllocated", 1, path) or (1.0,)
    if header.file_meta.TransferSyntaxUID in _UNCOMPRESSED and frames * rows * columns * bits[0] / 8 > path.stat().st_size:
        raise unreadable(path, f"It ends before all pixels of its {frames} frames of {rows} x {columns} are there.")


def _plane(header: pydicom.Dataset, path: Path, frame: int, groups: Sequence[Mapping[str, pydicom.Dataset]]) -> Plane:
    """One plane, from the functional groups of its frame where there are any, then those of all frames, then the header itself."""

    def sources(sequence: str | None) -> list[pydicom.Dataset]:
        return [*(group[sequence] for group in groups if sequence is not None and sequence in group), header]

    def find(keyword: str, sequence: str | None, count: int = 1) -> tuple[float, ...] | None:
        for source in sources(sequence):
            if found := numbers(source, keyword, count, path):
                return found
        return None

    position = find("ImagePositionPatient", "PlanePositionSequence", 3)
    orientation = find("ImageOrientationPatient", "PlaneOrientationSequence", 6)
    spacing = find("PixelSpacing", "PixelMeasuresSequence", 2)
    slope = find("RescaleSlope", "PixelValueTransformationSequence") or (1.0,)
    intercept = find("RescaleIntercept", "PixelValueTransformationSequence") or (0.0,)
    between = find("SpacingBetweenSlices", "PixelMeasuresSequence")
    thickness = find("SliceThickness", "PixelMeasuresSequence")
    if slope[0] == 0:
        raise unreadable(path, "Its rescale slope is 0, which would make all pixels the same.")
    apart = {}
    for keyword, (sequence, _meaning) in APART.items():
        shown = next((said for source in sources(sequence) if (said := text(source, keyword))), "")
        if shown:
            apart[keyword] = shown
    return Plane(
        path,
        frame,
        (int(header.Rows), int(header.Columns)),
        header,
        None if position is None or orientation is None else np.array(position),
        None if position is None or orientation is None else _axes(orientation, path),
        None if spacing is None else (spacing[0], spacing[1]),
        (slope[0], intercept[0]),
        None if between is None else abs(between[0]),
        None if thickness is None else thickness[0],
        apart,
    )


def _axes(orientation: Sequence[float], path: Path) -> np.ndarray:
    """The directions of a row, of a column, and of the slices' normal, as rows."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    skew = max(abs(row @ row - 1) / 2, abs(column @ column - 1) / 2, abs(row @ column))
    if skew > _SKEW:
        raise InputError(
            f"The DICOM file {str(path)!r} is damaged: its rows and columns are not at right angles.",
            f"Its Image Orientation (Patient) is {', '.join(f'{x:g}' for x in orientation)}, no two directions of length one.",
            "Export the series again from the archive or scanner.",
        )
    if skew > _ROUNDING:
        row = row / np.linalg.norm(row)
        column = column - (column @ row) * row
        column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def _items(dataset: pydicom.Dataset, sequence: str) -> list[pydicom.Dataset]:
    try:
        return list(dataset.get(sequence) or ())
    except Exception:  # Whatever a parser meets in a damaged element.
        return []


def _first_items(group: pydicom.Dataset) -> dict[str, pydicom.Dataset]:
    """The first item of every functional group that says something of planes, by its keyword."""
    every = {keyword: _items(group, keyword) for tag in tuple(group.keys()) if (keyword := _GROUPS.get(tag))}
    return {keyword: items[0] for keyword, items in every.items() if items}
