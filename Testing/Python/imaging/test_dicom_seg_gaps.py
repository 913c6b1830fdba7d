"""What anonymizers, old scanners and odd names leave to be made up for when a DICOM SEG is written, and what is told before a run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging import files as files_module
from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.files import prove_output, read_segmentation, read_volume, write_result, write_segmentation
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import make_segmentation, same_masks, write_enhanced, write_series

TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
SECRET = "Geheimrat"


def deleting(*keywords: str) -> Callable[[int, pydicom.Dataset], None]:
    def change(_k: int, header: pydicom.Dataset) -> None:
        for keyword in keywords:
            header.pop(keyword, None)

    return change


def emptying(*keywords: str) -> Callable[[int, pydicom.Dataset], None]:
    def change(_k: int, header: pydicom.Dataset) -> None:
        for keyword in keywords:
            setattr(header, keyword, None)

    return change


def round_trip(
    series: Path, folder: Path, make: Callable[[sitk.Image], Segmentation] = make_segmentation
) -> tuple[list[str], pydicom.Dataset]:
    """Proves, writes and reads back; returns what the user is told and what was written."""
    source = read_volume(series)
    segmentation = make(source)
    told = prove_output(folder / "out.dcm", segmentation, segmentation.structures, source, volume_path=series)
    assert write_segmentation(segmentation, folder / "out.dcm", source, volume_path=series) == told
    same_masks(align_segmentation(read_segmentation(folder / "out.dcm", source), source)[0], segmentation)
    return told, pydicom.dcmread(folder / "out.dcm")


@pytest.mark.parametrize("how", [deleting, emptying])
@pytest.mark.parametrize(
    "lacks", [*TYPE_2, "ReferringPhysicianName", "SliceThickness", "FrameOfReferenceUID", "StudyInstanceUID", "Modality"]
)
def test_a_series_without_it_gets_a_segmentation(oblique, lacks, how, tmp_path):
    series = write_series(oblique, tmp_path / "series", gap=how(lacks))

    told, written = round_trip(series, tmp_path)

    for keyword in TYPE_2:
        assert keyword in written
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert pydicom.uid.UID(written[keyword].value).is_valid
    assert float(written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) > 0
    if lacks in ("FrameOfReferenceUID", "StudyInstanceUID"):
        assert any(lacks in sentence and "made up" in sentence for sentence in told)
    elif lacks == "SliceThickness":
        assert any("how thick" in sentence for sentence in told)
    elif lacks in TYPE_2 and how is deleting:
        assert any(lacks in sentence and "empty" in sentence for sentence in told)


def test_nothing_but_the_image_is_enough(oblique, tmp_path):
    gone = (*TYPE_2, "ReferringPhysicianName", *"SliceThickness FrameOfReferenceUID StudyInstanceUID SeriesNumber InstanceNumber".split())
    series = write_series(oblique, tmp_path / "series", gap=deleting(*gone))

    first = round_trip(series, tmp_path)[1]
    (tmp_path / "out.dcm").unlink()
    second = round_trip(series, tmp_path)[1]

    # Objects of the same series stay together.
    assert (first.StudyInstanceUID, first.FrameOfReferenceUID) == (second.StudyInstanceUID, second.FrameOfReferenceUID)


def test_an_enhanced_image_with_gaps_gets_a_segmentation(oblique, tmp_path):
    target = write_enhanced(oblique, tmp_path / "target.dcm", [3, 0, 6, 1, 5, 2, 4], PatientID=None, StudyDate=None)
    dataset = pydicom.dcmread(target)
    del dataset.StudyID, dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    dataset.save_as(target)

    told, written = round_trip(target, tmp_path)

    assert len(told) == 2
    assert float(written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == pytest.approx(
        oblique.GetSpacing()[2]
    )


INVALID = {
    "PatientBirthDate": f"19{SECRET}",
    "PatientSex": f"{SECRET} diverse",
    "StudyDate": "2020-13-45",
    "StudyTime": "25:61",
    "PatientAge": "old",
    "StudyID": "much longer than sixteen characters",
    "PatientID": f"{SECRET} " * 20,
    "PatientName": f"{SECRET}^" * 9,
    "AccessionNumber": "much longer than sixteen characters",
    "PatientComments": "x" * 20_000,
}


@pytest.mark.parametrize("keyword", INVALID)
def test_an_invalid_field_of_the_patient_is_no_obstacle_and_is_shown_nowhere(oblique, keyword, tmp_path, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series = write_series(oblique, tmp_path / "series", **{keyword: INVALID[keyword]})
    source = read_volume(series)
    capfd.readouterr()
    caplog.clear()

    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        segmentation = make_segmentation(source)
        told = prove_output(tmp_path / "out.dcm", segmentation, segmentation.structures, source, volume_path=series)
        write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=series)
        read_segmentation(tmp_path / "out.dcm", source)

    shown = capfd.readouterr()
    for text in (shown.out, shown.err, caplog.text, *told, *(str(w.message) for w in caught)):
        assert SECRET not in text
    if keyword in ("PatientID", "StudyID"):
        # Filed as the images are, right or wrong.
        assert pydicom.dcmread(tmp_path / "out.dcm")[keyword].value.strip() == INVALID[keyword].strip()


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"], None])
def test_any_name_can_be_written_whatever_the_character_set_of_the_series(oblique, charset, tmp_path):
    changed = {} if charset is None else {"SpecificCharacterSet": charset}
    series = write_series(oblique, tmp_path / "series", PatientName="Yamada^Tarou", **changed)
    names = ("左腎 / ľavá oblička", "Leber\nlinks\t\x1b[31m", "a\\b", "\ud800half", "x" * 64, "y" * 2000, " ", "العربية", "🫀")
    labels = np.arange(7 * 8 * 9, dtype=np.uint16).reshape(7, 8, 9) % (len(names) + 1)
    colors = [(float("nan"),) * 3, (2.0, -1.0, float("inf")), None]
    structures = tuple(Structure(n, name, colors[n % 3]) for n, name in enumerate(names, start=1))

    told, written = round_trip(series, tmp_path, lambda source: Segmentation(from_array(labels, source), structures))

    read = read_segmentation(tmp_path / "out.dcm")
    kept = [names[0], "Leber links  [31m", "a/b", "?half", "x" * 64, "y" * 1024, "label 7", *names[7:]]
    assert [s.name for s in read.structures] == kept
    assert all(len(item.SegmentLabel) <= 64 for item in written.SegmentSequence)
    assert len([sentence for sentence in told if "64 characters" in sentence]) == 1
    assert written.PatientName == "Yamada^Tarou"


def test_codes_of_any_length_can_be_written(oblique, tmp_path):
    def entry(*code):
        return f"c~SCT^123037004^Anatomical Structure~{'^'.join(code)}~^^~r~SCT^{'5' * 30}^Region~^^"

    entries = (
        entry("SCT", "1" * 40, "a long value"),
        entry("SCT", "10200004", "m" * 100),
        entry("a designator that is too long", "1", "x"),
        entry("SCT", "a\\b", "y"),
    )
    series = write_series(oblique, tmp_path / "series")
    labels = np.arange(7 * 8 * 9, dtype=np.uint8).reshape(7, 8, 9) % 5
    structures = tuple(Structure(n, f"s{n}", None, text) for n, text in enumerate(entries, start=1))

    told, _ = round_trip(series, tmp_path, lambda source: Segmentation(from_array(labels, source), structures))

    first, second, third, fourth = read_segmentation(tmp_path / "out.dcm").structures
    assert "1" * 40 in first.terminology and "5" * 30 in first.terminology
    assert f"SCT^10200004^{'m' * 64}~" in second.terminology
    assert third.terminology is None and fourth.terminology is None
    assert any("can't hold" in sentence for sentence in told)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd", "out.mha", "out.nii"])
def test_overlapping_structures_in_a_label_map_are_told_before(oblique, name, tmp_path):
    reference = make_segmentation(oblique, overlapping=True)
    other = sitk.Image(20, 20, 20, sitk.sitkInt16)

    with pytest.raises(OutputError, match="one label map") as caught:
        prove_output(tmp_path / name, reference, reference.structures, other)

    assert ".seg.nrrd" in caught.value.solution
    # Those that don't overlap may be chosen, and .seg.nrrd holds all.
    assert prove_output(tmp_path / name, reference, reference.structures[:2], other) == []
    assert prove_output(tmp_path / "out.seg.nrrd", reference, reference.structures, other) == []


@pytest.mark.parametrize("name", ["out.dcm", "out.nii.gz", "out.nrrd", "out.mha", "out.nii", "out.seg.nrrd"])
@pytest.mark.parametrize("error", [OutputError("No.", "Why.", "Do."), ValueError("odd"), MemoryError(), OSError(28, "No space left")])
def test_what_can_not_be_written_in_the_end_is_kept(oblique, name, error, tmp_path, monkeypatch):
    segmentation = make_segmentation(oblique, overlapping=True)
    real = files_module._write
    (tmp_path / "out (2).seg.nrrd").write_text("precious")

    def fails(segmentation, part, path, volume, source):
        if path == tmp_path / name:
            raise error
        return real(segmentation, part, path, volume, source)

    monkeypatch.setattr(files_module, "_write", fails)
    monkeypatch.setattr(files_module, "source_series", lambda *_: None)
    with pytest.raises(OutputError) as caught:
        write_result(segmentation, tmp_path / name, oblique)

    kept = tmp_path / ("out (3).seg.nrrd" if name == "out.seg.nrrd" else "out.seg.nrrd")
    assert repr(str(kept)) in caught.value.problem
    assert not (tmp_path / name).exists() and (tmp_path / "out (2).seg.nrrd").read_text() == "precious"
    same_masks(read_segmentation(kept), segmentation)


def test_a_folder_that_is_gone_is_no_loss(oblique, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))

    with pytest.raises(OutputError) as caught:
        write_result(make_segmentation(oblique), tmp_path / "gone" / "out.nii.gz", oblique)

    assert repr(str(elsewhere / "out.seg.nrrd")) in caught.value.problem
    assert len(read_segmentation(elsewhere / "out.seg.nrrd").structures) == 4
