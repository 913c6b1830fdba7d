"""DICOM Segmentation objects, written for a series and read back."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.coding import Code

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.dicom import source_planes
from RAUSlicerLib.imaging.files import check_output, read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import make_segmentation, write_series


@pytest.mark.parametrize("overlapping", [False, True])
def test_everything_comes_back_on_the_series_grid(volume, overlapping, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    segmentation = make_segmentation(source, overlapping)
    write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=series)

    read, warnings = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)

    assert warnings == []
    assert [s.label for s in read.structures] == [1, 2, 3, 4]
    for expected, found in zip(segmentation.structures, read.structures, strict=True):
        assert (found.name, found.terminology) == (expected.name, expected.terminology)
        # Colors are stored as 16-bit CIELab of 8-bit RGB.
        np.testing.assert_allclose(found.color, expected.color, atol=2 / 255)
        np.testing.assert_array_equal(read.array(found), segmentation.array(expected))


def test_it_is_filed_in_the_patient_and_study_of_its_series(volume, tmp_path):
    series = write_series(volume, tmp_path / "series", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    source = read_volume(series)
    write_segmentation(make_segmentation(source), tmp_path / "out.dcm", source, volume_path=series)

    written = pydicom.dcmread(tmp_path / "out.dcm")

    origin = pydicom.dcmread(next(series.iterdir()))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert written[keyword].value == origin[keyword].value
    assert written.PatientName == "Müller^Jörg"
    assert written.SeriesInstanceUID != origin.SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced <= {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}
    assert "not a medical device" in written.ContentDescription


def test_a_structure_on_one_slice_alone_comes_back(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    array = np.zeros(source.GetSize()[::-1], np.uint8)
    array[4, 2:5, 3:6] = 1
    labelmap = sitk.GetImageFromArray(array)
    labelmap.CopyInformation(source)
    write_segmentation(Segmentation(labelmap, (Structure(1, "x" * 80),)), tmp_path / "out.dcm", source, volume_path=series)

    read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)

    np.testing.assert_array_equal(read.array(read.structures[0]), array == 1)
    assert read.structures[0].name == "x" * 80
    assert len(pydicom.dcmread(tmp_path / "out.dcm").SegmentSequence[0].SegmentLabel) == 64


def test_labels_of_any_size_become_segments(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    segmentation = make_segmentation(source)
    large = {3: 614454277, 300: 4294967295, 7: 997, 12: 70000}
    array = sitk.GetArrayFromImage(segmentation.labelmap)
    labelmap = sitk.GetImageFromArray(sum((array == old).astype(np.uint32) * np.uint32(new) for old, new in large.items()))
    labelmap.CopyInformation(source)
    structures = tuple(Structure(large[s.label], s.name) for s in segmentation.structures)
    write_segmentation(Segmentation(labelmap, structures), tmp_path / "out.dcm", source, volume_path=series)

    read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)

    for expected, found in zip(segmentation.structures, read.structures, strict=True):
        np.testing.assert_array_equal(read.array(found), segmentation.array(expected))


@pytest.mark.data
def test_a_real_anonymized_series_gets_one(ct_series, tmp_path):
    source = read_volume(ct_series)
    segmentation = make_segmentation(source)
    write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=ct_series)

    read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)

    np.testing.assert_array_equal(read.array(read.structures[0]), segmentation.array(segmentation.structures[0]))


def test_a_radiograph_is_refused_early(volume, tmp_path):
    def radiograph(_k, header):
        del header.ImagePositionPatient, header.ImageOrientationPatient

    folder = write_series(volume[:, :, :1], tmp_path / "series", radiograph=radiograph)

    for target in (folder, next(folder.iterdir())):
        with pytest.raises(OutputError, match="no position in the patient"):
            check_output(tmp_path / "out.dcm", volume_path=target)


def test_a_target_that_is_no_dicom_is_refused_early(volume, tmp_path):
    sitk.WriteImage(volume, str(tmp_path / "target.nrrd"))

    for target in (None, tmp_path / "target.nrrd"):
        with pytest.raises(OutputError, match=r"\.seg\.nrrd") as caught:
            check_output(tmp_path / "out.dcm", volume_path=target)
        assert "DICOM" in caught.value.explanation


def test_another_image_than_that_of_the_series_is_refused(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    other = sitk.Image(volume)
    other.SetOrigin((500, 0, 0))

    with pytest.raises(OutputError, match="not the one in the DICOM series"):
        write_segmentation(make_segmentation(other), tmp_path / "out.dcm", other, volume_path=series)
    assert not (tmp_path / "out.dcm").exists()


def test_a_damaged_one_is_refused(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    write_segmentation(make_segmentation(source), tmp_path / "out.dcm", source, volume_path=series)
    content = (tmp_path / "out.dcm").read_bytes()
    (tmp_path / "half.dcm").write_bytes(content[: len(content) // 2])

    with pytest.raises(InputError, match="damaged"):
        read_segmentation(tmp_path / "half.dcm")


def test_an_image_is_not_taken_for_a_segmentation_nor_the_other_way_round(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    write_segmentation(make_segmentation(source), tmp_path / "out.dcm", source, volume_path=series)

    with pytest.raises(InputError, match="not a segmentation"):
        read_segmentation(next(series.iterdir()))
    with pytest.raises(InputError, match="holds no image"):
        read_volume(tmp_path / "out.dcm")


def test_one_without_structures_is_refused(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)

    with pytest.raises(OutputError, match="no structure"):
        write_segmentation(Segmentation(sitk.Cast(source * 0, sitk.sitkUInt8), ()), tmp_path / "out.dcm", source, volume_path=series)


def other_seg(series: Path, pixels: np.ndarray, kind: str, path: Path) -> None:
    """A DICOM SEG as another program may write it."""
    sources = [pydicom.dcmread(plane.path) for plane in source_planes(series)]
    tissue = Code("85756007", "SCT", "Tissue")
    descriptions = [hd.seg.SegmentDescription(n, f"part {n}", tissue, tissue, "MANUAL") for n in (1, 2)]
    hd.seg.Segmentation(
        sources, pixels, kind, descriptions, hd.UID(), 9, hd.UID(), 1, "maker", "model", "1", "0", omit_empty_frames=True
    ).save_as(path)


def test_the_newer_labelmap_form_is_read(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    source = read_volume(series)
    pixels = np.zeros(source.GetSize()[::-1], np.uint8)
    pixels[1:3, 2:4, 3:6], pixels[4:6, 1:3, 2:5] = 1, 2
    other_seg(series, pixels, "LABELMAP", tmp_path / "other.dcm")

    read, _ = align_segmentation(read_segmentation(tmp_path / "other.dcm"), source)

    assert [(s.label, s.name) for s in read.structures] == [(1, "part 1"), (2, "part 2")]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labelmap), pixels)


def test_probabilities_are_refused(volume, tmp_path):
    series = write_series(volume, tmp_path / "series")
    shape = (*read_volume(series).GetSize()[::-1], 2)
    other_seg(series, np.random.default_rng(0).random(shape) / 2, "FRACTIONAL", tmp_path / "other.dcm")

    with pytest.raises(InputError, match="probabilities"):
        read_segmentation(tmp_path / "other.dcm")
