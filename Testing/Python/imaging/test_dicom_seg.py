"""DICOM Segmentation objects, written for a series and read back."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.files import check_output, prove_output, read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import make_segmentation, noise, same_masks, values, write_series


@pytest.fixture
def series(volume, tmp_path):
    return write_series(volume, tmp_path / "series")


@pytest.fixture
def source(series):
    return read_volume(series)


@pytest.fixture
def come_back(series, source, tmp_path):
    """come_back(segmentation): what becomes of it, written for the series and read back, and the file."""

    def come_back(segmentation):
        write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=series)
        read, warnings = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)
        assert warnings == []
        return read, tmp_path / "out.dcm"

    return come_back


@pytest.mark.parametrize("overlapping", [False, True])
def test_everything_comes_back_on_the_series_grid(source, come_back, overlapping):
    segmentation = make_segmentation(source, overlapping)

    read, _ = come_back(segmentation)

    assert [s.label for s in read.structures] == [1, 2, 3, 4]
    same_masks(read, segmentation)
    for expected, found in zip(segmentation.structures, read.structures, strict=True):
        assert (found.name, found.terminology) == (expected.name, expected.terminology)
        # Colors are stored as 16-bit CIELab of 8-bit RGB.
        np.testing.assert_allclose(found.color, expected.color, atol=2 / 255)


def test_it_is_filed_in_the_patient_and_study_of_its_series(tmp_path):
    series = write_series(noise("oblique"), tmp_path / "series", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
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


def test_a_structure_on_one_slice_alone_comes_back(source, come_back):
    array = np.zeros(source.GetSize()[::-1], np.uint8)
    array[4, 2:5, 3:6] = 1
    segmentation = Segmentation(from_array(array, source), (Structure(1, "x" * 80),))

    read, path = come_back(segmentation)

    same_masks(read, segmentation)
    assert read.structures[0].name == "x" * 80
    assert len(pydicom.dcmread(path).SegmentSequence[0].SegmentLabel) == 64


def test_labels_of_any_size_become_segments(source, come_back):
    segmentation = make_segmentation(source)
    large = {3: 614454277, 300: 4294967295, 7: 997, 12: 70000}
    array = sum((values(segmentation.labelmap) == old).astype(np.uint32) * np.uint32(new) for old, new in large.items())
    structures = tuple(Structure(large[s.label], s.name) for s in segmentation.structures)

    same_masks(come_back(Segmentation(from_array(array, source), structures))[0], segmentation)


@pytest.mark.data
def test_a_real_anonymized_series_gets_one(ct_series, tmp_path):
    source = read_volume(ct_series)
    segmentation = make_segmentation(source)
    write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=ct_series)

    read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm"), source)

    np.testing.assert_array_equal(read.array(read.structures[0]), segmentation.array(segmentation.structures[0]))


def test_a_radiograph_is_refused_early(oblique, tmp_path):
    def radiograph(_k, header):
        del header.ImagePositionPatient, header.ImageOrientationPatient

    folder = write_series(oblique[:, :, :1], tmp_path / "series", radiograph=radiograph)

    for target in (folder, next(folder.iterdir())):
        with pytest.raises(OutputError, match="no position in the patient"):
            check_output(tmp_path / "out.dcm", volume_path=target)


@pytest.mark.parametrize("moved", [(500, 0, 0), "0.4 slices"])
def test_another_image_than_that_of_the_series_is_refused(series, source, tmp_path, moved):
    other = sitk.Image(source)
    other.SetOrigin(source.TransformContinuousIndexToPhysicalPoint((0, 0, 0.4)) if moved == "0.4 slices" else moved)
    segmentation = make_segmentation(other)

    with pytest.raises(OutputError, match="not the one in the DICOM series"):
        prove_output(tmp_path / "out.dcm", segmentation, segmentation.structures, other, volume_path=series)
    with pytest.raises(OutputError, match="not the one in the DICOM series"):
        write_segmentation(segmentation, tmp_path / "out.dcm", other, volume_path=series)
    assert not (tmp_path / "out.dcm").exists()


def test_a_damaged_one_is_refused(source, come_back, tmp_path):
    content = come_back(make_segmentation(source))[1].read_bytes()
    (tmp_path / "half.dcm").write_bytes(content[: len(content) // 2])

    with pytest.raises(InputError, match="damaged"):
        read_segmentation(tmp_path / "half.dcm")


def test_an_image_is_not_taken_for_a_segmentation_nor_the_other_way_round(series, source, come_back):
    with pytest.raises(InputError, match="not a segmentation"):
        read_segmentation(next(series.iterdir()))
    with pytest.raises(InputError, match="holds no image"):
        read_volume(come_back(make_segmentation(source))[1])


def test_one_without_structures_is_refused(source, come_back):
    with pytest.raises(OutputError, match="no structure"):
        come_back(Segmentation(sitk.Cast(source * 0, sitk.sitkUInt8), ()))


def test_an_older_highdicom_writes_it_too(source, come_back, monkeypatch):
    """3D Slicer 5.12 brings 0.27, whose constructors take no character set; ``make test-highdicom`` runs all of this with it."""
    real = hd.seg.Segmentation.__init__

    def old(self, *given, **named):
        if "specific_character_set" in named:
            raise TypeError("SOPClass.__init__() got an unexpected keyword argument 'specific_character_set'")
        real(self, *given, **named)

    monkeypatch.setattr(hd.seg.Segmentation, "__init__", old)

    assert pydicom.dcmread(come_back(make_segmentation(source))[1]).SpecificCharacterSet == "ISO_IR 192"
