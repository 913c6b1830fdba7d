"""The DICOM series that a derived object belongs to: where its frames lie, and what of its headers the object repeats."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DA, TM, PersonName, format_number_as_ds

from .. import __version__
from ..errors import OutputError
from ..support.notices import hushed
from .dicom import is_dicom, source_planes
from .dicom_planes import Plane, read_dataset, text
from .dicom_stack import on_slices

UTF8 = "ISO_IR 192"

# What DICOM wants in every object of a patient's study, if only empty (type 2).
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
# What an object names of the images it belongs to, beside the frame of reference.
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# The groups of patient, study, equipment and series; private groups are odd.
_REPEATED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0040)
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
_SEXES = ("", "M", "F", "O")

# A plane is a slice of the volume if it is shifted by no more than this share of a pixel or of the distance between slices; sideways also
# by what rounded directions of thick slices make of it.
_SHIFTED, _SHIFTED_SLICES = 0.1, 0.06
# In units of the distance between slices. Readers of DICOM segmentations look for even steps with a tolerance of a hundredth.
_UNEVEN = 0.01


@dataclass(frozen=True)
class SourceSeries:
    """A series as derived objects need it.

    ``header`` holds what they repeat of patient and study, whole and in UTF-8. ``planes`` are in the order of the volume's slices, and all
    have a place. ``instances`` are the SOP instances by file, ``classes`` the SOP classes by instance. ``made`` are the UIDs that the
    series lacks and that were made up. ``warnings`` are sentences for the user.
    """

    header: pydicom.Dataset
    planes: tuple[Plane, ...]
    instances: Mapping[Path, str]
    classes: Mapping[str, str]
    made: tuple[str, ...]
    warnings: tuple[str, ...]

    def slices_of(self, volume: sitk.Image) -> list[int] | None:
        """The slice of the volume that each plane is, by where it lies; None where planes and slices are not the same."""
        placed = on_slices(self.planes, volume)
        if placed is None:
            return None
        *pixel, step = volume.GetSpacing()
        sideways, along = np.abs(placed.beside[:, :2]).max(), np.abs(placed.beside[:, 2])
        # Uneven slices lie beside a volume's, but its ends were laid through the first and the last of them.
        ends = along[[placed.slices.argmin(), placed.slices.argmax()]].max()
        several = volume.GetDepth() > 1
        if sideways > max(_SHIFTED * min(pixel), _SHIFTED_SLICES * step * several) or ends > _SHIFTED * step:
            return None
        return placed.slices.tolist() if sorted(placed.slices) == list(range(volume.GetDepth())) else None

    def is_uneven(self) -> bool:
        """Whether planes are farther from even steps than other readers of DICOM segmentations allow."""
        axes = self.planes[0].axes
        assert axes is not None
        heights = np.sort([plane.position @ axes[2] for plane in self.planes])
        if len(heights) < 3:
            return False
        gaps = np.diff(heights)
        return bool(np.abs(gaps / gaps.mean() - 1).max() > _UNEVEN)


class VolumeSource:
    """Where a volume was read from, None where that is not known.

    The headers of a DICOM series are read when an object first wants to belong to it, and kept.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._series: SourceSeries | None = None

    @classmethod
    def of(cls, source: Source) -> VolumeSource:
        """The source itself, or that of a path."""
        return source if isinstance(source, VolumeSource) else cls(source)

    @property
    def paths(self) -> list[Path]:
        """The path, where it is known."""
        return [] if self.path is None else [self.path]

    def series(self, refused: Callable[[str], OutputError]) -> SourceSeries:
        """The series, with what anonymizers and old scanners leave out of its headers made up for.

        Raises:
            OutputError: what ``refused`` makes of the reason: it is unknown, no DICOM, or has no place in the patient.
            InputError: it can't be read as a volume.
        """
        if self._series is None:
            self._series = _read_series(self.path, refused)
        return self._series


Source: TypeAlias = str | Path | VolumeSource | None
"""Where a volume was read from; a ``VolumeSource`` that is handed from one call to the next reads headers but once."""


@hushed(told=False)
def _read_series(path: Path | None, refused: Callable[[str], OutputError]) -> SourceSeries:
    planes = _planes(path, refused)
    first = read_dataset(planes[0].path, stop_before_pixels=True)
    instances: dict[Path, str] = {}
    classes: dict[str, str] = {}
    made: list[str] = []
    shared: dict[str, str] = {}
    for file, header in {plane.path: plane.header for plane in planes}.items():
        identity, lacking = _identity(header, shared)
        shared = shared or identity
        made += lacking
        instances[file] = identity["SOPInstanceUID"]
        sop_class = text(header, "SOPClassUID") or text(header.file_meta, "MediaStorageSOPClassUID")
        classes[identity["SOPInstanceUID"]] = sop_class or _class_of(header)
    header, notes = _repeated(first, shared)
    # A class of single images for all: where highdicom looks for attributes depends on it, and it does not know private ones.
    header.SOPClassUID = _class_of(first)
    if made:
        missing = ", ".join(dict.fromkeys(made))
        notes.append(f"The target's DICOM headers lack {missing}; made up ones are written, by which nothing connects it with the images.")
    return SourceSeries(header, planes, instances, classes, tuple(dict.fromkeys(made)), tuple(notes))


def _planes(path: Path | None, refused: Callable[[str], OutputError]) -> tuple[Plane, ...]:
    if path is None:
        raise refused("The target comes from no DICOM series that is known.")
    if not path.is_dir() and not (path.is_file() and is_dicom(path)):
        raise refused(f"The target {str(path)!r} is no DICOM series.")
    planes = source_planes(path)
    if any(plane.position is None for plane in planes):
        raise refused("The target is a radiograph, which has no position in the patient.")
    if any(plane.spacing is None for plane in planes):
        raise refused("The target's images don't say how far apart their pixels are in the patient.")
    return planes


def stand_in(series: SourceSeries, plane: Plane, instance: str, **changed: object) -> pydicom.Dataset:
    """The header of a single image at a plane's place, under an instance UID of its own; ``changed`` overrides elements, None removes one.

    highdicom takes each of them as it is, while it demands much of multi-frame images, and of their number in a series.
    """
    first = series.planes[0]
    assert plane.position is not None and first.axes is not None and first.spacing is not None
    header = pydicom.Dataset()
    header.update(series.header)
    own = {
        "SOPInstanceUID": instance,
        "ImagePositionPatient": [format_number_as_ds(float(value)) for value in plane.position],
        # One direction for all: differences in the last digits keep highdicom from taking them for one series.
        "ImageOrientationPatient": [format_number_as_ds(float(value)) for value in first.axes[:2].ravel()],
        "PixelSpacing": [format_number_as_ds(value) for value in first.spacing],
    }
    for keyword, value in {**own, **changed}.items():
        # Elements are shared with the other planes' headers, so that they are replaced and not changed.
        header.pop(keyword, None)
        if value is not None:
            setattr(header, keyword, value)
    return header


def authorship(number: int, description: str) -> dict[str, Any]:
    """What every object made here says of itself, for highdicom's constructors: its series and instance, and what made it."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": number,
        "series_description": f"{description} (research use only)",
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "RAUSlicer contributors",
        "manufacturer_model_name": "RAUSlicer",
        "software_versions": __version__,
        "device_serial_number": "0",
    }


def _class_of(header: pydicom.Dataset) -> str:
    return _CLASSES.get(text(header, "Modality"), SecondaryCaptureImageStorage)


def _identity(header: pydicom.Dataset, first: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """An image's UIDs, and which of them it lacks; these are made up, the same ones whenever the same series is read.

    ``first`` are the UIDs of the series' first image, empty for that itself.
    """
    identity = {keyword: text(header, keyword) for keyword in (*_IDENTITY, "FrameOfReferenceUID")}
    # Anonymizers sometimes empty the identity and leave that in the file's meta header alone.
    identity["SOPInstanceUID"] = identity["SOPInstanceUID"] or text(header.file_meta, "MediaStorageSOPInstanceUID")
    lacking = [keyword for keyword, uid in identity.items() if not uid]
    for keyword in lacking:
        known = [*(identity[key] for key in _IDENTITY), *(text(header, key) for key in ("InstanceNumber", "ImagePositionPatient"))]
        same = None if keyword == "SOPInstanceUID" else first.get(keyword)
        identity[keyword] = same or generate_uid(entropy_srcs=[keyword, *known])
    return identity, lacking


def _repeated(dataset: pydicom.Dataset, identity: Mapping[str, str]) -> tuple[pydicom.Dataset, list[str]]:
    """What objects of the same study repeat of a header, under these UIDs, and sentences on what was made up for."""
    header = pydicom.Dataset()
    left_out = []
    for tag in list(dataset.keys()):
        if tag.group not in _REPEATED_GROUPS:
            continue
        try:
            element = copy.deepcopy(dataset[tag])
            if element.VR == "PN":
                # Decoded here, for otherwise its bytes would be written as they are, in the source's character set.
                element.value = PersonName(_encodable(str(element.value)))
            _check(element)
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OverflowError):
            left_out.append(pydicom.datadict.keyword_for_tag(tag) or str(tag))
            continue
        header[tag] = element
    header.SpecificCharacterSet = UTF8
    for keyword, uid in identity.items():
        setattr(header, keyword, uid)
    absent = [keyword for keyword in _MAY_BE_EMPTY if keyword not in header and keyword not in left_out]
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    notes = []
    if absent:
        notes.append(f"The target's DICOM headers lack {', '.join(absent)}; in what is written there it is left empty.")
    if left_out:
        notes.append(f"Values in the target's DICOM headers that DICOM does not allow are left out: {', '.join(left_out)}.")
    for keyword in ("Rows", "Columns"):
        setattr(header, keyword, int(dataset[keyword].value))
    return header, notes


def _check(element: pydicom.DataElement) -> None:
    """Raises an error where a value is not one of its kind or can't be encoded."""
    if element.VR == "DA" and element.value:
        DA(str(element.value))
    elif element.VR == "TM" and element.value:
        TM(str(element.value))
    elif element.keyword == "PatientSex" and str(element.value or "") not in _SEXES:
        raise ValueError("no sex that DICOM knows")
    alone = pydicom.Dataset()
    alone[element.tag] = element
    alone.SpecificCharacterSet = UTF8
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, alone)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
