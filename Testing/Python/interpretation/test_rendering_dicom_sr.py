"""A report as DICOM structured report, read back with highdicom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.interpretation.evidence import Report
from RAUSlicerLib.interpretation.rendering import dicom_sr
from RAUSlicerLib.interpretation.rendering.files import ReportedCase, check_outputs, save_reports
from RAUSlicerLib.interpretation.report import write_report

from ..imaging.builders import write_enhanced
from .report_cases import GRAPHS, abdomen

# As the report's findings name them; the gallbladder was not found, the spleen has a terminology of its own.
SPLEEN = "c~SCT^123037004^Anatomical Structure~SCT^78961009^Spleen~^^~r~^^~^^"
# DICOM PS3.3, table C.17.3-8.
RELATIONSHIPS = {"CONTAINS", "HAS PROPERTIES", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "INFERRED FROM", "SELECTED FROM", "HAS CONCEPT MOD"}
NAMES = ("Lesion 12", "Left kidney", "Right kidney", "Liver", "Spleen")


def _series(folder: Path, **changed: str) -> Path:
    """A CT series of six slices of noise."""
    folder.mkdir()
    uids = {f"{kind}InstanceUID": generate_uid() for kind in ("Study", "Series")}
    frame_of_reference = generate_uid()
    pixels = np.random.default_rng(0).integers(-900, 900, (6, 16, 16)).astype(np.int16)
    for k, plane in enumerate(pixels):
        slice_ = pydicom.Dataset()
        slice_.SOPClassUID, slice_.SOPInstanceUID, slice_.FrameOfReferenceUID = CTImageStorage, generate_uid(), frame_of_reference
        patient = {"PatientName": "Test^Phantom", "PatientID": "T1", "PatientBirthDate": "", "PatientSex": "O"}
        study = {"StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": ""}
        values = {**uids, "Modality": "CT", **patient, **study, **changed}
        for keyword, value in values.items():
            setattr(slice_, keyword, value)
        slice_.SeriesNumber, slice_.InstanceNumber = 1, k + 1
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [1, 1], 3
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept, slice_.PixelData = 1, 0, plane.tobytes()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return _series(tmp_path / "series")


@pytest.fixture
def report() -> Report:
    return write_report(abdomen(), {}, graphs=GRAPHS)


def _segmentation(series: Path, path: Path) -> dict[str, Structure]:
    """Writes a DICOM SEG of five structures and returns them by name, as they are read back."""
    volume = read_volume(series)
    array = np.zeros((6, 16, 16), np.uint8)
    for index in range(5):
        array[1:5, 2 : 5 + index, 3 * index : 3 * index + 2] = index + 1
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(volume)
    structures = tuple(
        Structure(index, name, terminology=SPLEEN if name == "Spleen" else None) for index, name in enumerate(NAMES, start=1)
    )
    write_segmentation(Segmentation(labels, structures), path, volume, volume_path=series)
    return {structure.name: structure for structure in read_segmentation(path).structures}


def _write(
    report: Report, series: Path, path: Path, structures: dict[str, Structure], segmentation: Path | None
) -> hd.sr.Comprehensive3DSR:
    files = dicom_sr.require_source(series, path)
    dicom_sr.write(report, path, files, structures, GRAPHS, dicom_sr.segments_of(segmentation, structures))
    return hd.sr.srread(path)


@pytest.fixture
def document(series: Path, report: Report, tmp_path: Path) -> hd.sr.Comprehensive3DSR:
    """The report on a DICOM SEG of the series, written and read back."""
    return _write_on_segmentation(report, series, tmp_path)


def _write_on_segmentation(report: Report, series: Path, folder: Path) -> hd.sr.Comprehensive3DSR:
    return _write(report, series, folder / "report.dcm", _segmentation(series, folder / "seg.dcm"), folder / "seg.dcm")


def test_each_found_structure_is_a_region_of_interest_that_refers_to_its_segment(document, series: Path, tmp_path: Path) -> None:
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    groups = {group.tracking_identifier: group for group in document.content.get_volumetric_roi_measurement_groups()}
    assert set(groups) == set(NAMES)
    for name, group in groups.items():
        item = next(item for item in group[0].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121191")
        reference = item.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == 1 + NAMES.index(name)
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.SeriesInstanceUID for item in evidence} == {
        segmentation.SeriesInstanceUID,
        pydicom.dcmread(series / "0.dcm").SeriesInstanceUID,
    }


def test_measurements_come_back_with_their_units_and_codes(document) -> None:
    (liver,) = document.content.get_volumetric_roi_measurement_groups(finding_type=hd.sr.CodedConcept("10200004", "SCT", "Liver"))
    measured = [(m.name.meaning, m.derivation and m.derivation.meaning, m.value, m.unit.value) for m in liver.get_measurements()]
    assert measured == [
        ("Volume", None, 1533.27, "mL"),
        ("Extent from right to left", None, 211.6, "mm"),
        ("Extent from front to back", None, 160.2, "mm"),
        ("Extent from top to bottom", None, 169.5, "mm"),
        ("Attenuation Coefficient", "Mean", -3.2, "[hnsf'U]"),
        ("Attenuation Coefficient", "Standard Deviation", 14.4, "[hnsf'U]"),
        ("Distance from the place in the reference case", None, 8.26, "mm"),
        ("Expected agreement of the outline with an expert's", None, 0.9, "1"),
    ]
    properties = liver.get_measurements()[0][0].ContentSequence
    population = {item.ConceptNameCodeSequence[0].CodeValue: item for item in properties if item.ValueType == "NUM"}
    values = {code: float(item.MeasuredValueSequence[0].NumericValue) for code, item in population.items()}
    assert values == {
        codes.cid226.MeanValueOfPopulation.value: 1450.0,
        codes.cid226.StandardDeviationOfPopulation.value: 120.0,
        codes.cid227.ZScoreOfMeasurement.value: 0.694,
    }


def test_structures_are_coded_by_terminology_graph_or_name(document) -> None:
    groups = {group.tracking_identifier: group for group in document.content.get_volumetric_roi_measurement_groups()}
    found = {name: (group.finding_type.scheme_designator, group.finding_type.value) for name, group in groups.items()}
    assert found["Spleen"] == ("SCT", "78961009")
    assert found["Left kidney"] == found["Right kidney"] == ("SCT", "64033007")
    assert found["Lesion 12"][0] == "99RAUSLICER"
    assert groups["Lesion 12"].finding_type.meaning == "Lesion 12"
    sides = {name: [site.laterality.meaning for site in group.finding_sites if site.laterality] for name, group in groups.items()}
    assert (sides["Left kidney"], sides["Right kidney"], sides["Liver"]) == (["Left"], ["Right"], [])
    (scheme,) = document.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99RAUSLICER"


def test_uncertain_cut_and_missing_structures_are_marked(document) -> None:
    groups = document.content.get_volumetric_roi_measurement_groups()
    said = {group.tracking_identifier: [e.value.value for e in group.get_qualitative_evaluations()] for group in groups}
    assert said["Liver"] == ["FOUND"]
    assert said["Left kidney"] == ["LOW_CONFIDENCE"]
    assert said["Spleen"] == ["FOUND", "LOWER_BOUND"]
    (missing,) = document.content.get_image_measurement_groups()
    assert missing.tracking_identifier == "Gallbladder" and missing.get_measurements() == []
    assert [e.value.value for e in missing.get_qualitative_evaluations()] == ["NOT_FOUND"]


def test_it_is_filed_in_the_patient_and_study_under_new_uids(series: Path, report: Report, tmp_path: Path) -> None:
    structures, segmentation = _segmentation(series, tmp_path / "seg.dcm"), tmp_path / "seg.dcm"
    first, second = (_write(report, series, tmp_path / name, structures, segmentation) for name in ("report.dcm", "again.dcm"))

    source = pydicom.dcmread(series / "0.dcm")
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
        assert first[keyword].value == source[keyword].value
    assert len({source.SeriesInstanceUID, first.SeriesInstanceUID, second.SeriesInstanceUID}) == 3
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.Modality, first.VerificationFlag) == ("SR", "UNVERIFIED")
    assert first.content[0].ConceptNameCodeSequence[0].CodeValue == "126000"
    assert first.content[0].ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_without_a_dicom_segmentation_the_measurements_are_of_the_series(series: Path, report: Report, tmp_path: Path) -> None:
    structures = {name: Structure(index, name) for index, name in enumerate(NAMES, start=1)}

    document = _write(report, series, tmp_path / "report.dcm", structures, None)

    assert document.content.get_volumetric_roi_measurement_groups() == []
    groups = {group.tracking_identifier: group for group in document.content.get_image_measurement_groups()}
    assert set(groups) == {*NAMES, "Gallbladder"}
    assert groups["Liver"].get_measurements()[0].value == 1533.27


def test_an_unknown_confidence_and_a_very_long_name_can_be_written(series: Path, report: Report, tmp_path: Path) -> None:
    name = "a very long name " * 8
    odd = Report(report.sections, findings=(replace(report.findings[0], name=name, confidence=float("nan"), node=None, graph=None),))

    document = _write(odd, series, tmp_path / "report.dcm", {}, None)

    (group,) = document.content.get_image_measurement_groups()
    assert group.tracking_identifier == name.strip()
    assert len(group.finding_type.meaning) <= 64
    assert "CONFIDENCE" not in [m.name.value for m in group.get_measurements()]


def test_a_segmentation_of_another_series_is_refused(series: Path, report: Report, tmp_path: Path) -> None:
    other = _series(tmp_path / "other")
    structures = _segmentation(other, tmp_path / "seg.dcm")

    with pytest.raises(OutputError, match="belongs to another series"):
        _write(report, series, tmp_path / "report.dcm", structures, tmp_path / "seg.dcm")


def test_a_target_that_is_no_dicom_is_refused_with_a_way_out(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / "t.nii.gz"))

    with pytest.raises(OutputError, match="no DICOM series") as caught:
        dicom_sr.require_source(tmp_path / "t.nii.gz", tmp_path / "report.dcm")

    assert ".html" in caught.value.solution


def test_a_series_that_lacks_what_dicom_demands_is_refused(report: Report, tmp_path: Path) -> None:
    series = _series(tmp_path / "series", StudyInstanceUID="")

    with pytest.raises(OutputError, match="lack the StudyInstanceUID"):
        _write(report, series, tmp_path / "report.dcm", {}, None)

    assert not (tmp_path / "report.dcm").exists()


def test_a_report_of_an_enhanced_image_is_written_and_refers_to_it(report: Report, tmp_path: Path) -> None:
    volume = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (6, 16, 16)).astype(np.int16))
    target = write_enhanced(volume, tmp_path / "target.dcm", [5, 2, 0, 1, 4, 3])
    document = _write_on_segmentation(report, target, tmp_path)

    image, segmentation = pydicom.dcmread(target), pydicom.dcmread(tmp_path / "seg.dcm")
    named = set()
    for item in document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        named |= {(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in item.ReferencedSOPSequence}
    assert named == {(one.SOPClassUID, one.SOPInstanceUID) for one in (image, segmentation)}
    referred = [item.ReferencedSOPSequence[0] for item in _items(document) if item.get("ValueType") == "IMAGE"]
    assert {(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in referred} == named
    # An image of many frames lies in no one place.
    assert not any(item.ConceptNameCodeSequence[0].CodeMeaning.startswith("Image Position") for item in _items(document)[1:])
    assert len(document.content.get_volumetric_roi_measurement_groups()) == len(NAMES)


@pytest.mark.parametrize("lacks", ["PatientID", "PatientName", "StudyDate", "StudyID", "SliceThickness", "FrameOfReferenceUID", "Modality"])
def test_a_report_of_a_series_with_gaps_is_written(report: Report, lacks: str, tmp_path: Path) -> None:
    series = _series(tmp_path / "series")
    for file in series.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset[lacks]
        dataset.save_as(file)

    document = _write_on_segmentation(report, series, tmp_path)

    assert "PatientID" in document and "StudyDate" in document
    assert len(document.content.get_volumetric_roi_measurement_groups()) == len(NAMES)


def test_a_report_that_can_not_be_filed_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    series = _series(tmp_path / "series", StudyInstanceUID="")

    with pytest.raises(OutputError, match="lack the StudyInstanceUID"):
        check_outputs([tmp_path / "report.dcm"], [series], target=series)


def test_any_name_can_be_written_and_no_patient_is_shown(report: Report, tmp_path: Path, capfd, caplog) -> None:
    series = _series(tmp_path / "series", PatientName="Geheimrat", SpecificCharacterSet="ISO_IR 100")
    names = ("左腎", "a\\b\x1b[31m", "\ud800", "b\u202ec", "x" * 200)
    findings = tuple(replace(report.findings[0], name=name, node=None, graph=None) for name in names)
    long = f"c~SCT^1^x~{'s' * 30}^1^meaning~^^~r~^^~^^"
    structures = {name: Structure(n, name, terminology=long) for n, name in enumerate(names, start=1)}
    capfd.readouterr()

    document = _write(Report(report.sections, findings=findings), series, tmp_path / "report.dcm", structures, None)

    groups = {group.tracking_identifier: group for group in document.content.get_image_measurement_groups()}
    assert set(groups) == {"左腎", "a/b [31m", "?", "bc", "x" * 200}
    shown = capfd.readouterr()
    assert "Geheimrat" not in shown.out + shown.err + caplog.text
    assert document.PatientName == "Geheimrat"


def _items(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """A content item and all below it."""
    return [item, *(below for child in item.get("ContentSequence", ()) for below in _items(child))]


def _code(item: pydicom.Dataset, keyword: str) -> tuple[str, str]:
    (code,) = item[keyword].value
    # What the standard demands of every code, and its limits.
    assert 0 < len(code.CodeValue) <= 16 and code.CodingSchemeDesignator and 0 < len(code.CodeMeaning) <= 64
    return code.CodingSchemeDesignator, code.CodeValue


def test_another_reader_finds_a_whole_tree_with_the_numbers_of_the_report(series: Path, report: Report, tmp_path: Path) -> None:
    _write_on_segmentation(report, series, tmp_path)
    # highdicom has written it; pydicom knows nothing of its templates.
    document = pydicom.dcmread(tmp_path / "report.dcm")

    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "ContentDate", "ContentTime", "InstanceNumber"):
        assert str(document[keyword].value) != ""
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.ValueType == "CONTAINER" and _code(document, "ConceptNameCodeSequence") == ("DCM", "126000")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    items = _items(document)
    for item in items[1:]:
        assert item.RelationshipType in RELATIONSHIPS
        _code(item, "ConceptNameCodeSequence")
        if item.ValueType == "CODE":
            _code(item, "ConceptCodeSequence")
        elif item.ValueType == "TEXT":
            assert item.TextValue.strip()
        elif item.ValueType == "UIDREF":
            assert pydicom.uid.UID(item.UID).is_valid
        elif item.ValueType == "NUM":
            (measured,) = item.MeasuredValueSequence
            assert _code(measured, "MeasurementUnitsCodeSequence")[0] == "UCUM"
        elif item.ValueType == "IMAGE":
            assert pydicom.uid.UID(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID).is_valid

    groups = [item for item in items if item.get("ConceptNameCodeSequence") and _code(item, "ConceptNameCodeSequence") == ("DCM", "125007")]
    found = {one.name: one for one in report.findings}
    assert len(groups) == len(found)
    for group in groups:
        children = {_code(child, "ConceptNameCodeSequence"): child for child in group.ContentSequence}
        name = children["DCM", "112039"].TextValue
        numbers = [float(child.MeasuredValueSequence[0].NumericValue) for child in group.ContentSequence if child.ValueType == "NUM"]
        # A DICOM number has 16 characters; the report's has as many digits as it has.
        expected = [one.value for one in found[name].measurements if one.structures == (name,)]
        assert [value for value in expected if not any(abs(number - value) <= 1e-6 * abs(value) for number in numbers)] == []


def _case(series: Path, structures: dict[str, Structure], segmentation: Path | None = None) -> ReportedCase:
    return ReportedCase(read_volume(series), Segmentation(sitk.Image(4, 4, 4, sitk.sitkUInt8), ()), structures, series, segmentation)


def test_what_was_made_up_for_is_returned_before_and_after(report: Report, tmp_path: Path) -> None:
    series = _series(tmp_path / "series")
    for file in series.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.PatientID, dataset.FrameOfReferenceUID
        dataset.save_as(file)
    paths = [tmp_path / "report.dcm", tmp_path / "again.dcm", tmp_path / "report.md"]
    case = _case(series, {})

    before = check_outputs(paths, [series], target=series)

    assert ["PatientID" in one for one in before] == [True, False] and "FrameOfReferenceUID" in before[1]
    assert save_reports(report, paths, case) == before


@pytest.mark.parametrize("read", ["series/2.dcm", "seg.dcm"])
def test_what_can_not_be_read_is_named_and_not_the_report(report: Report, series: Path, tmp_path: Path, monkeypatch, read: str) -> None:
    case = _case(series, _segmentation(series, tmp_path / "seg.dcm"), tmp_path / "seg.dcm")
    real = Path.open

    def failing(path: Path, *given, **named):
        if path == tmp_path / read:
            raise OSError(5, "Input/output error", str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(InputError) as caught:
        save_reports(report, [tmp_path / "report.dcm"], case)

    assert str(tmp_path / read) in caught.value.problem and "report.dcm" not in str(caught.value)


def test_a_refused_report_is_called_by_its_own_name(report: Report, series: Path, tmp_path: Path) -> None:
    case = _case(series, _segmentation(_series(tmp_path / "other"), tmp_path / "seg.dcm"), tmp_path / "seg.dcm")

    with pytest.raises(OutputError, match="another series") as caught:
        save_reports(report, [tmp_path / "report.dcm"], case)

    assert repr(str(tmp_path / "report.dcm")) in caught.value.problem
