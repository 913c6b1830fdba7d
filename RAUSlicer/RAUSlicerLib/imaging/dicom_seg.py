"""Reads and writes DICOM Segmentation objects (SEG), whose geometry and identity come from the segmented series."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.sr.coding import Code

from .. import __version__
from ..errors import InputError, OutputError
from ..outputs import put_dicom
from .dicom import image_of, is_dicom, read_dicom_file, read_dicom_folder, series_files
from .dicom_planes import read_dataset
from .grids import same_grid
from .image_file import unreadable
from .labelmap import numbered, smallest_type
from .palette import label_color
from .segmentation import Segmentation, Structure
from .terminology import Terminology, parse_terminology, serialize_terminology

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_LONGEST_LABEL = 64
_ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")

_log = logging.getLogger(__name__)


def is_dicom_seg(path: Path) -> bool:
    """Whether a DICOM file is a Segmentation object."""
    return str(read_dataset(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).get("SOPClassUID")) in _SEG_CLASSES


def read_dicom_seg(path: Path) -> Segmentation:
    """Read a DICOM SEG; segment numbers become label values.

    The grid is that of the stored frames, often a part of the segmented series: frames without any segment may be left out.

    Raises:
        InputError: the file is damaged or holds probabilities instead of labels.
    """
    try:
        dataset = _opened(path)
        if dataset.segmentation_type == hd.seg.SegmentationTypeValues.FRACTIONAL:
            raise InputError(
                f"The DICOM segmentation {str(path)!r} holds probabilities instead of labels.",
                "It is of the type FRACTIONAL.",
                "Load it in 3D Slicer, threshold it and save it as .seg.nrrd.",
            )
        layers, layer_of = _read_layers(dataset, path)
        structures = tuple(_structure(dataset.get_segment_description(number), layer_of[number]) for number in dataset.segment_numbers)
    except (RuntimeError, ValueError, AttributeError, KeyError, TypeError, OSError, EOFError) as error:
        raise unreadable(path, "It is a damaged or incomplete DICOM segmentation.") from error
    return Segmentation(layers[0], structures, tuple(layers[1:]))


def _opened(path: Path) -> hd.seg.Segmentation:
    return hd.seg.Segmentation.from_dataset(read_dataset(path), copy=False)


def require_source_series(volume_path: str | Path | None, path: Path) -> list[Path]:
    """The files of the series that a DICOM SEG at ``path`` would belong to, in the order of the volume's slices.

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
        raise _no_source(path, error.problem) from error
    raise _no_source(path, "The target is not known." if source is None else f"The target {str(source)!r} is not DICOM.")


def write_dicom_seg(segmentation: Segmentation, path: Path, volume: sitk.Image, files: list[Path]) -> None:
    """Write a binary DICOM SEG of the series in ``files``, in whose patient and study it is filed.

    Structures are numbered from 1 in their order, as DICOM wants it. One without terminology is coded as tissue.

    Args:
        segmentation: On the grid of ``volume``.
        path: The file to write.
        volume: The image read from ``files``.
        files: The source series as ``require_source_series`` returns it.

    Raises:
        OutputError: the series is not the one ``volume`` was read from, or lacks what DICOM demands.
    """
    if not segmentation.structures:
        raise OutputError(
            f"The DICOM segmentation {str(path)!r} can't be written: there is no structure in it.",
            "DICOM allows no segmentation without segments.",
            "Choose an output name that ends in .seg.nrrd or .nii.gz, or more structures.",
        )
    source = read_dicom_file(files[0]) if len(files) == 1 else read_dicom_folder(files[0].parent)
    if not same_grid(source, volume):
        raise _no_source(path, "The segmented image is not the one in the DICOM series.")
    descriptions = [_description(number, structure) for number, structure in enumerate(segmentation.structures, start=1)]
    try:
        dataset = hd.seg.Segmentation(
            source_images=[source_header(file) for file in files],
            pixel_array=_pixels(segmentation),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=hd.UID(),
            series_number=300,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="RAUSlicer contributors",
            manufacturer_model_name="RAUSlicer",
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description="Research use only, not a medical device",
            series_description="RAUSlicer segmentation (research use only)",
            specific_character_set="ISO_IR 192",
        )
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _no_source(path, "The target's DICOM headers lack what a segmentation must repeat.") from error
    put_dicom(path, dataset)


def _no_source(path: Path, problem: str) -> OutputError:
    return OutputError(
        f"The DICOM segmentation {str(path)!r} can't be written. {problem}",
        "A DICOM segmentation belongs to a DICOM series, whose patient, study and geometry it repeats.",
        "Choose an output name that ends in .seg.nrrd or .nii.gz, or give the target as a DICOM folder.",
    )


def _require_position(file: Path, path: Path) -> None:
    header = read_dataset(file, stop_before_pixels=True, specific_tags=["ImagePositionPatient", "NumberOfFrames"])
    if "ImagePositionPatient" not in header and "NumberOfFrames" not in header:
        raise _no_source(path, "The target is a radiograph, which has no position in the patient.")


def _read_layers(dataset: hd.seg.Segmentation, path: Path) -> tuple[list[sitk.Image], dict[int, int]]:
    """Label maps of the segment numbers, and the one that holds each segment."""
    numbers = list(dataset.segment_numbers)
    try:
        return [image_of(dataset.get_volume(combine_segments=True))], dict.fromkeys(numbers, 0)
    except RuntimeError:
        # Segments overlap. Each goes into the first label map in which its voxels are free. The file is opened again, because highdicom
        # leaves the frame table of the failed attempt locked.
        stack = _opened(path).get_volume(segment_numbers=numbers)
    dtype = smallest_type(max(numbers))
    arrays: list[np.ndarray] = []
    layer_of: dict[int, int] = {}
    for channel, number in enumerate(numbers):
        mask = stack.array[..., channel] != 0
        layer_of[number] = next((k for k, array in enumerate(arrays) if not np.any(array[mask])), len(arrays))
        if layer_of[number] == len(arrays):
            arrays.append(np.zeros(mask.shape, dtype))
        arrays[layer_of[number]][mask] = number
    geometry = stack.get_geometry()
    return [image_of(geometry.with_array(array)) for array in arrays], layer_of


def _structure(description: hd.seg.SegmentDescription, layer: int) -> Structure:
    number = int(description.segment_number)
    lab = description.get("RecommendedDisplayCIELabValue")
    if lab:
        red, green, blue = (channel / 255 for channel in hd.color.CIELabColor.from_dicom_value(tuple(lab)).to_rgb())
        color = (red, green, blue)
    else:
        color = label_color(number)
    type_item = description.SegmentedPropertyTypeCodeSequence[0]
    regions = description.get("AnatomicRegionSequence") or []
    terminology = Terminology(
        category=_code(description.SegmentedPropertyCategoryCodeSequence[0]),
        type=_code(type_item),
        modifier=_first_code(type_item.get("SegmentedPropertyTypeModifierCodeSequence")),
        region=_first_code(regions),
        region_modifier=_first_code(regions[0].get("AnatomicRegionModifierSequence")) if regions else None,
    )
    return Structure(number, str(description.segment_label), color, serialize_terminology(terminology), layer=layer)


def _description(number: int, structure: Structure) -> hd.seg.SegmentDescription:
    terminology = parse_terminology(structure.terminology)
    label = structure.name.replace("\\", "/").strip() or f"label {structure.label}"
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:_LONGEST_LABEL],
        segmented_property_category=terminology.category,
        segmented_property_type=terminology.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence("RAUSlicer", _ALGORITHM_FAMILY, __version__),
        anatomic_regions=None if terminology.region is None else [terminology.region],
        display_color=hd.color.CIELabColor.from_rgb(*(round(channel * 255) for channel in structure.color or label_color(structure.label))),
    )
    if len(label) > _LONGEST_LABEL:
        _log.warning("A structure's name is longer than the %d characters of a DICOM segment label and was cut.", _LONGEST_LABEL)
        description.SegmentDescription = label
    if terminology.modifier is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [_item(terminology.modifier)]
    if terminology.region is not None and terminology.region_modifier is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_item(terminology.region_modifier)]
    return description


def _pixels(segmentation: Segmentation) -> np.ndarray:
    """Segment numbers, shape (z, y, x); where structures overlap a 0/1 mask for each, shape (z, y, x, structure)."""
    structures = segmentation.structures
    if segmentation.overlays:
        return np.stack([segmentation.array(structure) for structure in structures], axis=-1).astype(np.uint8)
    labels = [structure.label for structure in structures]
    return numbered(sitk.GetArrayViewFromImage(segmentation.labelmap), labels).astype(smallest_type(len(structures)))


def source_header(file: Path) -> pydicom.Dataset:
    """A source image's header; anonymizers sometimes empty its identity and leave that in the file's meta header alone."""
    dataset = read_dataset(file, stop_before_pixels=True)
    dataset.SOPClassUID = dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or dataset.file_meta.MediaStorageSOPInstanceUID
    return dataset


def _item(code: Code) -> pydicom.Dataset:
    return hd.sr.CodedConcept.from_code(code)


def _code(item: pydicom.Dataset) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return Code(str(value), str(item.CodingSchemeDesignator), str(item.CodeMeaning))


def _first_code(sequence: Sequence[pydicom.Dataset] | None) -> Code | None:
    return _code(sequence[0]) if sequence else None
