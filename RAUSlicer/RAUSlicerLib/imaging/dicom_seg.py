"""Writes DICOM Segmentation objects (SEG), whose geometry and identity come from the segmented series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

from .. import __version__
from ..errors import InputError, OutputError
from ..support.notices import hushed
from ..support.outputs import put_dicom
from ..support.text import plain_text
from .dicom_planes import Plane
from .dicom_seg_reader import parse_dicom_seg
from .dicom_source import SourceSeries, VolumeSource, authorship, stand_in
from .grids import from_array, resample_labels
from .label_values import numbered
from .labelmap import smallest_type
from .palette import shown_color
from .segmentation import Segmentation, Structure
from .terminology import UNCLASSIFIED, Terminology, parse_terminology

# Characters that DICOM's kinds of text hold.
_LONGEST_LABEL = 64
_LONGEST_DESCRIPTION = 1024
_LONGEST_SCHEME = 16
_ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")


def write_dicom_seg(segmentation: Segmentation, path: Path, volume: sitk.Image, source: VolumeSource, *, named: Path) -> list[str]:
    """Write a DICOM SEG, which messages call ``named``: see ``compose_dicom_seg``, whose sentences it returns."""
    dataset, notes = compose_dicom_seg(segmentation, named, volume, source)
    with hushed(told=False):
        put_dicom(path, dataset)
    return notes


def prove_dicom_seg(structures: Sequence[Structure], path: Path, volume: sitk.Image, source: VolumeSource) -> list[str]:
    """Make a DICOM SEG of these structures in memory and read it back, before hours of work are spent on a real one.

    Returns the sentences of ``compose_dicom_seg``.

    Raises:
        OutputError: it can't be made, or what is read is not what was written.
    """
    array = np.zeros(volume.GetSize()[::-1], smallest_type(len(structures)))
    # From corner to corner, so that a slice or an axis in the wrong place is seen.
    places = np.linspace(0, array.size - 1, len(structures)).astype(int)
    array.ravel()[places] = np.arange(1, len(structures) + 1)
    labels = from_array(array, volume)
    in_turn = tuple(replace(structure, label=number, layer=0) for number, structure in enumerate(structures, start=1))
    dataset, notes = compose_dicom_seg(Segmentation(labels, in_turn), path, volume, source)
    buffer = BytesIO()
    with hushed(told=False):
        dataset.save_as(buffer)
        buffer.seek(0)
        try:
            read = parse_dicom_seg(pydicom.dcmread(buffer), path, volume)
        except InputError as error:
            raise no_source(path, f"A trial could not be read back: {error.explanation}") from error
    back = sitk.GetArrayFromImage(resample_labels(read.labelmap, volume))
    if len(read.structures) != len(structures) or not np.array_equal(back, array):
        raise no_source(path, "What was read back from a trial is not what was written.")
    return notes


def compose_dicom_seg(
    segmentation: Segmentation, path: Path, volume: sitk.Image, source: VolumeSource
) -> tuple[pydicom.Dataset, list[str]]:
    """A binary DICOM SEG of the series in ``source``, in whose patient and study it is filed, and sentences for the user.

    Every mask goes to the frame that lies where its slice lies, whatever the order of files and frames. Structures are numbered from 1 in
    their order, as DICOM wants it. One without terminology is coded as tissue.

    Args:
        segmentation: On the grid of ``volume``.
        path: Where it is to be written, for messages.
        volume: The image read from ``source``.
        source: Where it was read from.

    Raises:
        OutputError: the source is no series, is not the one ``volume`` was read from, or lacks what DICOM demands.
        InputError: the source can't be read.
    """
    if not segmentation.structures:
        raise OutputError(
            f"The DICOM segmentation {str(path)!r} can't be written: there is no structure in it.",
            "DICOM allows no segmentation without segments.",
            "Choose an output name that ends in .seg.nrrd or .nii.gz, or more structures.",
        )
    series = source_series(source, path)
    slices = series.slices_of(volume)
    if slices is None:
        raise no_source(path, "The segmented image is not the one in the DICOM series.")
    measures, of_measures = _measures(series, volume)
    notes = [*series.warnings, *of_measures]
    descriptions = [_description(number, structure, notes) for number, structure in enumerate(segmentation.structures, start=1)]
    planes: dict[str, Plane] = {generate_uid(): plane for plane in series.planes}
    try:
        with hushed(told=False):
            dataset = hd.seg.Segmentation(
                source_images=[stand_in(series, plane, uid, **measures) for uid, plane in planes.items()],
                pixel_array=_pixels(segmentation)[slices],
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=descriptions,
                content_label="SEGMENTATION",
                content_description="Research use only, not a medical device",
                **authorship(300, "RAUSlicer segmentation"),
            )
            dataset.SpecificCharacterSet = series.header.SpecificCharacterSet
            _refer(dataset, series, planes)
    except (ValueError, AttributeError, LookupError, TypeError, NotImplementedError) as error:
        raise no_source(path, "The target's DICOM headers lack what a segmentation must repeat.") from error
    return dataset, list(dict.fromkeys(notes))


def source_series(source: VolumeSource, path: Path) -> SourceSeries:
    """The series that a DICOM SEG at ``path`` belongs to: see ``VolumeSource.series``, whose errors it raises."""
    return source.series(lambda problem: no_source(path, problem))


def no_source(path: Path, problem: str) -> OutputError:
    """The error for a DICOM segmentation without a series that it could belong to."""
    return OutputError(
        f"The DICOM segmentation {str(path)!r} can't be written. {problem}",
        "A DICOM segmentation belongs to a DICOM series, whose patient, study and geometry it repeats.",
        "Choose an output name that ends in .seg.nrrd or .nii.gz, or give the target as a DICOM folder.",
    )


def _measures(series: SourceSeries, volume: sitk.Image) -> tuple[dict[str, Any], list[str]]:
    """The distance of slices for the header that frames repeat; what the series says of it is often missing or wrong."""
    step, notes = float(volume.GetSpacing()[2]), []
    thickness = series.planes[0].thickness or 0.0
    if thickness <= 0:
        notes.append(f"The target's DICOM headers don't say how thick its slices are; {step:g} mm, their distance, is written.")
    if series.is_uneven():
        notes.append(
            "The target's slices are unevenly spaced, and so are those of a DICOM segmentation: other programs may refuse to read it as a "
            "volume. A .seg.nrrd file has no such difficulty."
        )
    between = format_number_as_ds(step) if volume.GetDepth() > 1 else None
    return {"SliceThickness": format_number_as_ds(thickness if thickness > 0 else step), "SpacingBetweenSlices": between}, notes


def _refer(dataset: pydicom.Dataset, series: SourceSeries, planes: Mapping[str, Plane]) -> None:
    """Puts the real images and frame numbers in the place of the stand-ins in all references."""
    dataset.SourceImageSequence = [_reference(instance, series) for instance in series.classes]
    referenced = pydicom.Dataset()
    referenced.SeriesInstanceUID = series.header.SeriesInstanceUID
    referenced.ReferencedInstanceSequence = [_reference(instance, series) for instance in series.classes]
    dataset.ReferencedSeriesSequence = [referenced]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence") or []:
            for item in derivation.SourceImageSequence:
                plane = planes.get(item.ReferencedSOPInstanceUID)
                # Segments share these items, so that some have been seen to.
                if plane is not None:
                    item.ReferencedSOPInstanceUID = series.instances[plane.path]
                    item.ReferencedSOPClassUID = series.classes[item.ReferencedSOPInstanceUID]
                    if plane.number is not None:
                        item.ReferencedFrameNumber = plane.number


def _reference(instance: str, series: SourceSeries) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = series.classes[instance]
    item.ReferencedSOPInstanceUID = instance
    return item


def _description(number: int, structure: Structure, notes: list[str]) -> hd.seg.SegmentDescription:
    terminology = _codable(parse_terminology(structure.terminology), notes)
    name = dicom_text(structure.name) or f"label {structure.label}"
    rgb = [round(255 * channel) for channel in shown_color(structure.color, structure.label)]
    with hushed(told=False):
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:_LONGEST_LABEL].strip(),
            segmented_property_category=_item(terminology.category),
            segmented_property_type=_item(terminology.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence("RAUSlicer", _ALGORITHM_FAMILY, __version__),
            anatomic_regions=None if terminology.region is None else [_item(terminology.region)],
            display_color=hd.color.CIELabColor.from_rgb(*rgb),
        )
        if len(name) > _LONGEST_LABEL:
            notes.append(
                f"Names of more than {_LONGEST_LABEL} characters are cut in a DICOM segment's label; its description has all of it."
            )
            description.SegmentDescription = name[:_LONGEST_DESCRIPTION].strip()
        if terminology.modifier is not None:
            item = description.SegmentedPropertyTypeCodeSequence[0]
            item.SegmentedPropertyTypeModifierCodeSequence = [_item(terminology.modifier)]
        if terminology.region is not None and terminology.region_modifier is not None:
            description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_item(terminology.region_modifier)]
    return description


def _codable(terminology: Terminology, notes: list[str]) -> Terminology:
    """The codes as DICOM can hold them; one that it can't hold at all is left out."""
    held = {code: dicom_code(code) for code in vars(terminology).values() if code is not None}
    lost = [str(code.meaning) for code, kept in held.items() if kept is None]
    if lost:
        notes.append(f"Codes that DICOM can't hold are left out: {', '.join(repr(meaning) for meaning in lost)}.")
    category, type_ = held[terminology.category], held[terminology.type]
    if category is None or type_ is None:
        return UNCLASSIFIED
    others = (terminology.modifier, terminology.region, terminology.region_modifier)
    return Terminology(category, type_, *(code and held[code] for code in others))


def dicom_code(code: Code) -> Code | None:
    """A code with a meaning of a length that DICOM allows; None for what DICOM can't hold."""
    value, scheme = dicom_text(code.value), dicom_text(code.scheme_designator)
    if not value or (value, scheme) != (code.value, code.scheme_designator) or not 0 < len(scheme) <= _LONGEST_SCHEME:
        return None
    return Code(value, scheme, dicom_text(code.meaning)[:_LONGEST_LABEL].strip() or value[:_LONGEST_LABEL])


def dicom_text(text: str) -> str:
    """A text without what DICOM does not allow in one line: control characters, halves of characters, and the separator of values."""
    return plain_text(text).replace("\\", "/").strip()


def _pixels(segmentation: Segmentation) -> np.ndarray:
    """Segment numbers, shape (z, y, x); where structures overlap a 0/1 mask for each, shape (z, y, x, structure)."""
    structures = segmentation.structures
    if segmentation.overlays:
        return np.stack([segmentation.array(structure) for structure in structures], axis=-1).astype(np.uint8)
    labels = [structure.label for structure in structures]
    return numbered(sitk.GetArrayViewFromImage(segmentation.labelmap), labels).astype(smallest_type(len(structures)))


def _item(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept.from_code(code)
