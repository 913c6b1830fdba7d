"""A report's measurements as DICOM structured report: a measurement report (TID 1500) filed in the study of the segmented series."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ... import __version__
from ...anatomy.graph import AnatomyGraph
from ...errors import OutputError
from ...imaging.dicom import is_dicom
from ...imaging.dicom_planes import read_dataset
from ...imaging.dicom_seg import dicom_code, dicom_text
from ...imaging.dicom_seg_reader import is_dicom_seg
from ...imaging.dicom_source import Source, SourceSeries, VolumeSource, authorship, stand_in
from ...imaging.segmentation import Structure
from ...imaging.terminology import UNCLASSIFIED, parse_terminology
from ...results import Status
from ...support.notices import hushed
from ...support.outputs import put_dicom
from ..evidence import Measurement, Quantity, Report, StructureFindings

PRIVATE_SCHEME = "99RAUSLICER"
"""The designator of this project's own codes, for what no public vocabulary has a word for."""

_LEFT, _RIGHT = codes.cid244.Left, codes.cid244.Right
_HOUNSFIELD = "[hnsf'U]"
_UNITS = {
    "mL": Code("mL", "UCUM", "milliliter"),
    "mm": Code("mm", "UCUM", "millimeter"),
    "%": Code("%", "UCUM", "percent"),
    _HOUNSFIELD: Code(_HOUNSFIELD, "UCUM", "Hounsfield unit"),
    "1": Code("1", "UCUM", "no units"),
}
_PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
}
_IMAGING = Code("363679005", "SCT", "Imaging procedure")
_LONGEST_MEANING = 64
# What highdicom describes by place, spacing and thickness.
_PLACED = ("CT", "MR", "PT")


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning[:_LONGEST_MEANING])


_VOLUME = Code("118565006", "SCT", "Volume")
_NAMES = {
    Quantity.EXTENT_RIGHT_LEFT: _private("EXTENT_RL", "Extent from right to left"),
    Quantity.EXTENT_ANTERIOR_POSTERIOR: _private("EXTENT_AP", "Extent from front to back"),
    Quantity.EXTENT_SUPERIOR_INFERIOR: _private("EXTENT_SI", "Extent from top to bottom"),
    Quantity.ASYMMETRY: _private("ASYMMETRY", "Left minus right volume in percent of their mean"),
    Quantity.POSITION: _private("OFFSET", "Distance from the place in the reference case"),
    Quantity.CENTRE_LEFT: _private("CENTER_L", "Center of gravity, patient coordinate towards the left"),
    Quantity.CENTRE_POSTERIOR: _private("CENTER_P", "Center of gravity, patient coordinate towards the back"),
    Quantity.CENTRE_SUPERIOR: _private("CENTER_S", "Center of gravity, patient coordinate towards the top"),
}
_INTENSITY = _private("INTENSITY", "Intensity in the units of the image")
_CONFIDENCE = _private("CONFIDENCE", "Expected agreement of the outline with an expert's")
_STATUS_NAME = _private("STATUS", "Status of the segmentation")
_STATUSES = {
    Status.FOUND: _private("FOUND", "Found"),
    Status.LOW_CONFIDENCE: _private("LOW_CONFIDENCE", "Found with low confidence"),
    Status.NOT_FOUND: _private("NOT_FOUND", "Not found; may be absent, outside of the image or missed"),
}
_CUT_NAME = _private("CUT", "Cut by the border of the image")
_CUT = _private("LOWER_BOUND", "Yes; size and extent are lower bounds")


@dataclass(frozen=True)
class Segments:
    """The DICOM SEG that was measured: its header, and the number of each structure's segment by name."""

    header: pydicom.Dataset
    numbers: Mapping[str, int]


def require_source(volume_path: Source, path: Path) -> SourceSeries:
    """The series that a structured report at ``path`` would belong to.

    Raises:
        OutputError: the measured image is unknown or was not DICOM, or its headers lack what DICOM demands.
        InputError: it can't be read.
    """
    series = VolumeSource.of(volume_path).series(lambda problem: _no_source(path, problem))
    # A report with a made up study would belong to nothing; that its images have no frame of reference does not matter to it.
    lacks = [keyword for keyword in series.made if keyword != "FrameOfReferenceUID"]
    if lacks:
        raise _incomplete(path, f"The target's DICOM headers lack the {', '.join(lacks)}.")
    return series


def segments_of(segmentation_path: str | Path | None, structures: Mapping[str, Structure]) -> Segments | None:
    """The DICOM SEG at a path as a report refers to it; None where the segmentation is of another format.

    Args:
        segmentation_path: Where the segmentation was read from.
        structures: Its structures by the names in the findings; a DICOM SEG's label values are its segment numbers.

    Raises:
        InputError: it can't be read.
    """
    path = None if segmentation_path is None else Path(segmentation_path)
    if path is None or not path.is_file() or not is_dicom(path) or not is_dicom_seg(path):
        return None
    with hushed(told=False):
        header = read_dataset(path, stop_before_pixels=True)
    return Segments(header, {name: structure.label for name, structure in structures.items()})


def write(
    report: Report,
    path: Path,
    series: SourceSeries,
    structures: Mapping[str, Structure],
    graphs: Mapping[str, AnatomyGraph],
    segments: Segments | None = None,
    *,
    named: Path | None = None,
) -> list[str]:
    """Write measurements, status and confidence of every structure as DICOM SR; the sentences themselves are not in it.

    Structures are coded by their terminology, else by their node of the anatomy graph, else by a private code of their name. With
    ``segments`` each found structure is a volumetric region of interest that refers to its segment (TID 1411), without it a group of
    measurements of the series (TID 1501).

    Args:
        report: What was found and measured.
        path: The file to write.
        series: The measured series, as ``require_source`` returns it.
        structures: Those of the segmentation by the names in the report.
        graphs: The anatomy graphs that findings name.
        segments: The DICOM SEG that was measured.
        named: What messages call the file, where ``path`` is not its name.

    Returns:
        Sentences for the user on what the series lacks.

    Raises:
        OutputError: the segmentation is of another series, or the series lacks what DICOM demands.
    """
    named = named or path
    if segments is not None:
        _require_same_series(segments.header, series.header, named)
    writer = _Groups(series, structures, graphs, segments)
    # Outside of the try: only what the images' headers lack may be blamed on them.
    with hushed(told=False):
        groups = [writer.group(found) for found in report.findings]
    images = _images(series)
    try:
        with hushed(told=False):
            content = hd.sr.MeasurementReport(
                observation_context=hd.sr.ObservationContext(observer_device_context=_observer()),
                procedure_reported=_PROCEDURES.get(str(series.header.get("Modality")), _IMAGING),
                imaging_measurements=groups,
                title=codes.DCM.ImagingMeasurementReport,
                referenced_images=images,
            )
            dataset = hd.sr.Comprehensive3DSR(
                evidence=[*images, *([] if segments is None else [segments.header])],
                content=content[0],
                is_complete=True,
                **authorship(301, "RAUSlicer report"),
            )
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise _incomplete(named, "The target's DICOM headers lack what it must repeat.") from error
    dataset.SpecificCharacterSet = series.header.SpecificCharacterSet
    scheme = pydicom.Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "RAUSlicer's own codes"
    scheme.CodingSchemeResponsibleOrganization = "RAUSlicer contributors"
    dataset.CodingSchemeIdentificationSequence = [scheme]
    with hushed(told=False):
        dataset.walk(lambda item, element: _refer(item, element, series.classes))
        put_dicom(path, dataset)
    return list(series.warnings)


class _Groups:
    """Makes the measurement group of each structure."""

    def __init__(
        self,
        series: SourceSeries,
        structures: Mapping[str, Structure],
        graphs: Mapping[str, AnatomyGraph],
        segments: Segments | None,
    ) -> None:
        self._series = series.header.SeriesInstanceUID
        self._structures = structures
        self._graphs = graphs
        self._segments = segments

    def group(
        self, found: StructureFindings
    ) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations | hd.sr.MeasurementsAndQualitativeEvaluations:
        concept, side = self._concept(found)
        evaluations = [hd.sr.QualitativeEvaluation(_STATUS_NAME, _STATUSES[found.status])]
        if any(measurement.is_cut for measurement in found.measurements):
            evaluations.append(hd.sr.QualitativeEvaluation(_CUT_NAME, _CUT))
        measurements = [self._measurement(measurement) for measurement in found.measurements]
        if found.status is not Status.NOT_FOUND and not math.isnan(found.confidence):
            measurements.append(hd.sr.Measurement(_CONFIDENCE, _decimal(found.confidence), _UNITS["1"]))
        common = {
            "tracking_identifier": hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=dicom_text(found.name)),
            "finding_type": concept,
            "finding_sites": [hd.sr.FindingSite(concept, laterality=side)],
            "algorithm_id": hd.sr.AlgorithmIdentification("RAUSlicer", __version__),
            "measurements": measurements or None,
            "qualitative_evaluations": evaluations,
        }
        number = None if self._segments is None else self._segments.numbers.get(found.name)
        if number is None or self._segments is None or found.status is Status.NOT_FOUND:
            return hd.sr.MeasurementsAndQualitativeEvaluations(**common)
        segment = hd.sr.ReferencedSegment(
            self._segments.header.SOPClassUID,
            self._segments.header.SOPInstanceUID,
            number,
            source_series=hd.sr.SourceSeriesForSegmentation(self._series),
        )
        return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)

    def _concept(self, found: StructureFindings) -> tuple[Code, Code | None]:
        """What a structure is, and its side."""
        structure = self._structures.get(found.name)
        terminology = parse_terminology(structure.terminology if structure else None)
        graph = self._graphs.get(found.graph or "")
        node = None if graph is None else graph.nodes.get(found.node or "")
        side = None if node is None or node.laterality is None else {"left": _LEFT, "right": _RIGHT}[node.laterality]
        type_ = dicom_code(terminology.type)
        if terminology != UNCLASSIFIED and type_ is not None:
            modifier = terminology.modifier or terminology.region_modifier
            is_side = modifier is not None and modifier in (_LEFT, _RIGHT)
            return type_, modifier if is_side else side
        if node is not None and node.code is not None:
            return Code(node.code.value, node.code.scheme, node.code.meaning), side
        # The same name has the same code in every report, whatever the language it is written in.
        digest = hashlib.sha256(" ".join(found.name.casefold().split()).encode("utf-8", "replace")).hexdigest()
        return _private(f"NAME_{digest[:10].upper()}", dicom_text(found.name)), side

    def _measurement(self, measurement: Measurement) -> hd.sr.Measurement:
        derivation = {
            Quantity.MEAN_INTENSITY: codes.SCT.Mean,
            Quantity.INTENSITY_SPREAD: codes.SCT.StandardDeviation,
        }.get(measurement.quantity)
        if measurement.quantity is Quantity.VOLUME:
            name = _VOLUME
        elif derivation is not None:
            name = codes.DCM.AttenuationCoefficient if measurement.unit == _HOUNSFIELD else _INTENSITY
        else:
            name = _NAMES[measurement.quantity]
        unit = _UNITS.get(measurement.unit) or Code(measurement.unit, "UCUM", measurement.unit)
        return hd.sr.Measurement(name, _decimal(measurement.value), unit, derivation=derivation, properties=_population(measurement, unit))


def _population(measurement: Measurement, unit: Code) -> hd.sr.MeasurementProperties | None:
    """The library's statistics, in the place that the standard has for them."""
    comparison = measurement.comparison
    if comparison.mean is None or comparison.n == 0:
        return None
    statistics = [(codes.cid226.MeanValueOfPopulation, comparison.mean, unit)]
    if comparison.spread is not None:
        statistics.append((codes.cid226.StandardDeviationOfPopulation, comparison.spread, unit))
    if comparison.z_score is not None:
        statistics.append((codes.cid227.ZScoreOfMeasurement, comparison.z_score, _UNITS["1"]))
    items = [
        hd.sr.NumContentItem(name, _decimal(value), one, relationship_type=hd.sr.RelationshipTypeValues.HAS_PROPERTIES)
        for name, value, one in statistics
    ]
    description = f"A research library of {comparison.n} cases, no normal range"
    return hd.sr.MeasurementProperties(measurement_statistical_properties=hd.sr.MeasurementStatisticalProperties(items, description))


def _observer() -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name="RAUSlicer (research use only)", manufacturer_name="RAUSlicer contributors", model_name="RAUSlicer"
        ),
    )


def _images(series: SourceSeries) -> list[pydicom.Dataset]:
    """A header for each file of the series; one that highdicom can't describe as a slice, as one of many frames, is of no modality."""
    images = []
    for path, plane in {plane.path: plane for plane in reversed(series.planes)}.items():
        thick = plane.thickness is not None and plane.thickness > 0
        is_slice = thick and plane.number is None and series.header.get("Modality") in _PLACED
        nowhere = {} if is_slice else {"Modality": "OT"}
        thickness = {"SliceThickness": plane.thickness} if thick else {}
        images.append(stand_in(series, plane, series.instances[path], **thickness, **nowhere))
    return images[::-1]


def _refer(item: pydicom.Dataset, element: pydicom.DataElement, classes: Mapping[str, str]) -> None:
    """Puts the real SOP class of an image in the place of its stand-in's."""
    if element.keyword == "ReferencedSOPClassUID" and item.get("ReferencedSOPInstanceUID") in classes:
        element.value = classes[item.ReferencedSOPInstanceUID]


def _require_same_series(segmentation: pydicom.Dataset, image: pydicom.Dataset, path: Path) -> None:
    series = {str(item.get("SeriesInstanceUID")) for item in segmentation.get("ReferencedSeriesSequence") or []}
    same_study = segmentation.get("StudyInstanceUID") == image.StudyInstanceUID
    if not same_study or (series and str(image.SeriesInstanceUID) not in series):
        raise OutputError(
            f"The structured report {str(path)!r} can't be written: the DICOM segmentation belongs to another series than the target.",
            "A report that names both would send its reader to the wrong images.",
            "Give the series that was segmented as the target.",
        )


def _no_source(path: Path, problem: str) -> OutputError:
    return OutputError(
        f"The structured report {str(path)!r} can't be written. {problem}",
        "A DICOM structured report belongs to a DICOM study, whose patient and images it names.",
        "Choose an output that ends in .md, .html or .json, or give the target as a DICOM folder.",
    )


def _incomplete(path: Path, problem: str) -> OutputError:
    return OutputError(
        f"The structured report {str(path)!r} can't be written. {problem}",
        "Anonymizers sometimes remove more than patients' names.",
        "Choose an output that ends in .md, .html or .json.",
    )


def _decimal(value: float) -> float:
    """A value with the digits that it deserves: DICOM's numbers have at most 16 characters."""
    return float(f"{value:.8g}")
