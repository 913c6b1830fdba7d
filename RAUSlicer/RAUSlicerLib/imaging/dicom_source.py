"""The DICOM series that a derived object belongs to: where its frames lie, and what of its headers the object repeats."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DA, TM, PersonName, format_number_as_ds

from ..errors import InputError, OutputError
from .dicom import is_dicom, series_files
from .notices import hushed

UTF8 = "ISO_IR 192"

# What DICOM wants in every object of a patient's study, if only empty (type 2).
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# What an object names of the images it belongs to, beside the frame of reference.
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# The groups of patient, study, equipment and series; private groups are odd.
_REPEATED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0040)
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
_SEXES = ("", "M", "F", "O")

# A frame lies on a slice of the volume if it is turned, stretched and shifted within it by no more than this.
_TURNED = 2e-3
_STRETCHED = 1e-3
_SHIFTED_PIXELS = 0.1
_SHIFTED_SLICES = 0.06
# In units of the distance between slices. Readers of DICOM segmentations look for even steps with a tolerance of a hundredth.
_UNEVEN = 0.01


@dataclass(frozen=True)
class SourceFrame:
    """One frame of the series.

    ``number`` counts from 1 in a file of several frames, None in a file of one. ``position`` and the rows of ``axes`` (row and column
    direction) are in patient space (LPS, mm), ``spacing`` is the distance of rows and of columns (mm), ``thickness`` is in mm too, 0 where
    it is not said.
    """

    instance: str
    number: int | None
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    thickness: float


@dataclass(frozen=True)
class SourceSeries:
    """A series as derived objects need it.

    ``header`` holds what they repeat of patient and study, whole and in UTF-8. ``classes`` are the SOP classes by SOP instance, one a file.
    ``made`` are the UIDs that the series lacks and that were made up. ``warnings`` are sentences for the user.
    """

    header: pydicom.Dataset
    classes: Mapping[str, str]
    frames: tuple[SourceFrame, ...]
    made: tuple[str, ...]
    warnings: tuple[str, ...]

    def slices_of(self, volume: sitk.Image) -> list[int] | None:
        """The slice of the volume that each frame is, by where it lies; None where frames and slices are not the same planes."""
        direction = np.reshape(volume.GetDirection(), (3, 3))
        columns_mm, rows_mm, step = volume.GetSpacing()
        count = volume.GetSize()[2]
        origin = np.array(volume.GetOrigin())
        allowed = max(_SHIFTED_PIXELS * min(columns_mm, rows_mm), _SHIFTED_SLICES * step if count > 1 else 0.0)
        found = []
        for frame in self.frames:
            turned = float(np.abs(frame.axes - direction[:, :2].T).max())
            stretched = float(np.abs(np.divide(frame.spacing, (rows_mm, columns_mm)) - 1).max())
            offset = direction.T @ (frame.position - origin)
            nearest = round(float(offset[2]) / step)
            if turned > _TURNED or stretched > _STRETCHED or np.abs(offset[:2]).max() > allowed:
                return None
            found.append(nearest)
        return found if sorted(found) == list(range(count)) else None

    def is_uneven(self) -> bool:
        """Whether frames are farther from even steps than other readers of DICOM segmentations allow."""
        normal = np.cross(*self.frames[0].axes)
        heights = np.sort([frame.position @ normal for frame in self.frames])
        if len(heights) < 3:
            return False
        gaps = np.diff(heights)
        return bool(np.abs(gaps / gaps.mean() - 1).max() > _UNEVEN)


def require_source_series(volume_path: str | Path | None, path: Path) -> list[Path]:
    """The files of the series that a DICOM SEG at ``path`` would belong to.

    Raises:
        OutputError: the segmented image is unknown or was not DICOM.
    """
    source = None if volume_path is None else Path(volume_path)
    try:
        if source is not None and source.is_dir():
            files = series_files(source)
            _require_position(files[0], path)
            return files
        if source is not None and source.is_file() and is_dicom(source):
            _require_position(source, path)
            return [source]
    except InputError as error:
        raise no_source(path, error.problem) from error
    raise no_source(path, "The target is not known." if source is None else f"The target {str(source)!r} is not DICOM.")


def read_source(files: Sequence[Path], refused: Callable[[str], OutputError]) -> SourceSeries:
    """Read the headers of a series, with what anonymizers and old scanners leave out made up for.

    Args:
        files: As ``require_source_series`` returns them.
        refused: The error for a sentence on what can't be made up for.

    Raises:
        OutputError: frames that don't say where they lie.
    """
    frames: list[SourceFrame] = []
    classes: dict[str, str] = {}
    header: pydicom.Dataset | None = None
    notes: list[str] = []
    made: list[str] = []
    with hushed(told=False):
        for file in files:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            # Anonymizers sometimes empty the identity and leave that in the file's meta header alone.
            meta = dataset.file_meta
            dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""
            made += _identify(dataset, header)
            instance = str(dataset.SOPInstanceUID)
            modality = str(dataset.get("Modality"))
            sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
            classes[instance] = str(sop_class or _CLASSES.get(modality, SecondaryCaptureImageStorage))
            try:
                frames += _frames(dataset, instance)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise refused("The target's frames don't all say where in the patient they lie.") from error
            if header is None:
                header, notes = _repeated(dataset)
                # A class of single images for all: where highdicom looks for attributes depends on it, and it does not know private ones.
                header.SOPClassUID = _CLASSES.get(modality, SecondaryCaptureImageStorage)
    assert header is not None
    if made:
        missing = ", ".join(dict.fromkeys(made))
        notes.append(f"The target's DICOM headers lack {missing}; made up ones are written, by which nothing connects it with the images.")
    return SourceSeries(header, classes, tuple(frames), tuple(dict.fromkeys(made)), tuple(notes))


def no_source(path: Path, problem: str) -> OutputError:
    """The error for a DICOM segmentation without a series that it could belong to."""
    return OutputError(
        f"The DICOM segmentation {str(path)!r} can't be written. {problem}",
        "A DICOM segmentation belongs to a DICOM series, whose patient, study and geometry it repeats.",
        "Choose an output name that ends in .seg.nrrd or .nii.gz, or give the target as a DICOM folder.",
    )


def stand_in(series: SourceSeries, frame: SourceFrame, instance: str, **changed: object) -> pydicom.Dataset:
    """The header of a single image at a frame's place, under an instance UID of its own; ``changed`` overrides elements.

    highdicom takes each of them as it is, while it demands much of multi-frame images, and of their number in a series.
    """
    header = pydicom.Dataset()
    header.update(series.header)
    own = {
        "SOPInstanceUID": instance,
        "ImagePositionPatient": [format_number_as_ds(float(value)) for value in frame.position],
        # One direction for all: differences in the last digits keep highdicom from taking them for one series.
        "ImageOrientationPatient": [format_number_as_ds(float(value)) for value in series.frames[0].axes.ravel()],
        "PixelSpacing": [format_number_as_ds(value) for value in series.frames[0].spacing],
    }
    for keyword, value in {**own, **changed}.items():
        # Elements are shared with the other frames' headers, so that they are replaced and not changed.
        header.pop(keyword, None)
        setattr(header, keyword, value)
    return header


def _require_position(file: Path, path: Path) -> None:
    with hushed(told=False):
        tags = ["ImagePositionPatient", "NumberOfFrames", "PerFrameFunctionalGroupsSequence"]
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
    if not any(keyword in header for keyword in tags):
        raise no_source(path, "The target is a radiograph, which has no position in the patient.")


def _frames(dataset: pydicom.Dataset, instance: str) -> list[SourceFrame]:
    """The frames of one file in their order."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise ValueError("several frames without functional groups")
        return [_frame(instance, None, dataset, dataset, dataset)]
    groups = dataset.PerFrameFunctionalGroupsSequence
    return [
        _frame(
            instance,
            number,
            functional_group(dataset, group, "PlanePositionSequence"),
            functional_group(dataset, group, "PlaneOrientationSequence"),
            functional_group(dataset, group, "PixelMeasuresSequence"),
        )
        for number, group in enumerate(groups, start=1)
    ]


def functional_group(dataset: pydicom.Dataset, frame: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    """A frame's own item of a functional group, else the one that all frames share.

    Raises:
        KeyError: there is none.
    """
    for place in (frame, *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]):
        if place.get(keyword):
            return place[keyword].value[0]
    raise KeyError(keyword)


def _frame(
    instance: str, number: int | None, position: pydicom.Dataset, orientation: pydicom.Dataset, measures: pydicom.Dataset
) -> SourceFrame:
    place = np.array(position.ImagePositionPatient, dtype=float)
    axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    rows_mm, columns_mm = (float(value) for value in measures.PixelSpacing)
    if place.shape != (3,) or not np.isfinite([*place, *axes.ravel(), rows_mm, columns_mm]).all():
        raise ValueError("a frame's place is no place")
    return SourceFrame(instance, number, place, axes, (rows_mm, columns_mm), _positive(measures.get("SliceThickness")))


def _positive(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if 0 < number < math.inf else 0.0


def _identify(dataset: pydicom.Dataset, first: pydicom.Dataset | None) -> list[str]:
    """Makes up the UIDs that a header lacks, and says which; the same ones whenever the same series is read."""
    made = []
    for keyword in (*_IDENTITY, "FrameOfReferenceUID"):
        if not dataset.get(keyword):
            made.append(keyword)
            same = None if first is None or keyword == "SOPInstanceUID" else first.get(keyword)
            known = [str(dataset.get(key)) for key in (*_IDENTITY, "InstanceNumber", "ImagePositionPatient")]
            setattr(dataset, keyword, same or generate_uid(entropy_srcs=[keyword, *known]))
    return made


def _repeated(dataset: pydicom.Dataset) -> tuple[pydicom.Dataset, list[str]]:
    """What objects of the same study repeat of a header, and sentences on what was made up for."""
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
