"""Enhanced DICOM objects: frames in any order, in several files, of several volumes."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedCTImageStorage, RLELossless

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.dicom import source_planes
from RAUSlicerLib.imaging.files import read_volume

from .builders import item, noise, right_handed, same_image, values, write_enhanced

PART = {"ConcatenationUID": "1.9", "InConcatenationTotalNumber": 3}


@pytest.fixture
def block():
    return noise("plain", (6, 10, 8), 0, 4000, np.uint16)


@pytest.mark.parametrize("grid", ["anisotropic", "flipped", "sagittal", "oblique", "oblique flipped"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
@pytest.mark.parametrize("files", [1, 2, 3])
def test_frames_are_ordered_by_where_they_lie(tmp_path, grid, order, files):
    volume = noise(grid, (6, 10, 8), 0, 4000, np.uint16)
    for n in range(files):
        part = {"ConcatenationUID": "1.9", "InConcatenationNumber": n + 1, "InConcatenationTotalNumber": files} if files > 1 else {}
        write_enhanced(volume, tmp_path / "series" / f"{files - n}.dcm", order[n::files], **part)

    expected = right_handed(volume)
    same_image(read_volume(tmp_path / "series"), expected)
    planes = source_planes(tmp_path / "series")
    assert len(planes) == 6
    for k, plane in enumerate(planes):
        np.testing.assert_allclose(plane.position, expected.TransformIndexToPhysicalPoint((0, 0, k)), atol=1e-6)
        described = pydicom.dcmread(plane.path).PerFrameFunctionalGroupsSequence[plane.frame - 1]
        np.testing.assert_allclose(described.PlanePositionSequence[0].ImagePositionPatient, plane.position, atol=1e-6)
    assert {plane.path for plane in planes} == set((tmp_path / "series").iterdir())


def test_a_missing_part_of_a_concatenation_is_an_error_and_one_alone_says_so(block, tmp_path, caplog):
    for number in (1, 2):
        path = write_enhanced(
            block, tmp_path / "series" / f"{number}.dcm", [2 * number, 2 * number + 1], InConcatenationNumber=number, **PART
        )

    with pytest.raises(InputError, match="2 of the 3 parts"):
        read_volume(tmp_path / "series")
    (tmp_path / "alone").mkdir()
    assert read_volume(path.rename(tmp_path / "alone" / "2.dcm")).GetSize()[2] == 2
    assert "one of 3 parts" in caplog.text


@pytest.mark.parametrize("frames", [7, 2**31 - 1])
@pytest.mark.parametrize("placed", [True, False])
def test_more_frames_than_the_file_holds_are_refused_at_once(block, tmp_path, frames, placed):
    header = {} if placed else {"PerFrameFunctionalGroupsSequence": []}
    path = write_enhanced(block, tmp_path / "e.dcm", NumberOfFrames=frames, **header)

    with pytest.raises(InputError, match=re.escape(path.name)):
        read_volume(path)
    compressed = pydicom.dcmread(path)
    compressed.file_meta.TransferSyntaxUID = RLELossless
    compressed.PixelData = encapsulate([compressed.PixelData])
    compressed["PixelData"].is_undefined_length = True
    compressed.save_as(path)
    with pytest.raises(InputError, match=re.escape(path.name)):
        read_volume(path)


def test_one_frame_is_a_volume_of_one_slice_and_objects_of_one_frame_are_a_series(tmp_path):
    volume = noise("oblique", (6, 10, 8))
    for k in (3, 1, 0, 5, 2, 4):
        write_enhanced(volume, tmp_path / "series" / f"{9 - k}.dcm", [k])

    one = read_volume(tmp_path / "series" / "7.dcm")
    same_image(one, volume[:, :, 2:3])
    np.testing.assert_allclose(one.GetSpacing(), volume.GetSpacing())
    same_image(read_volume(tmp_path / "series"), volume)


@pytest.mark.parametrize("shared", [True, False])
def test_frames_are_rescaled_each_by_itself_or_all_alike(block, tmp_path, shared):
    order = [5, 0, 3, 1, 4, 2]

    def rescale(number, groups):
        k = 1 if shared else order[number]
        groups.PixelValueTransformationSequence = item(RescaleSlope=0.5 * (k + 1), RescaleIntercept=-k)

    def rescale_all(_number, header):
        rescale(0, header.SharedFunctionalGroupsSequence[0])

    more = {"SOPClassUID": EnhancedCTImageStorage, "Modality": "CT", "rescale": rescale_all} if shared else {}
    read = values(read_volume(write_enhanced(block, tmp_path / "e.dcm", order, None if shared else rescale, **more)))

    k = 1 if shared else np.arange(6).reshape(6, 1, 1)
    np.testing.assert_allclose(read, values(block) * 0.5 * (k + 1) - k)


def half(sequence: str, **elements):
    """Gives the first six frames the first of each pair of values in an item of a functional group, the others the second."""

    def change(k: int, frame: Dataset) -> None:
        if sequence not in frame:
            setattr(frame, sequence, item())
        for keyword, pair in elements.items():
            setattr(frame[sequence][0], keyword, pair[k // 6])

    return change


KINDS = (["ORIGINAL", "PRIMARY", "M", "NONE"], ["ORIGINAL", "PRIMARY", "PHASE", "NONE"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (half("FrameContentSequence", StackID=("1", "2")), "2 stacks"),
        (half("FrameContentSequence", TemporalPositionIndex=(1, 2)), "2 time points in one (TemporalPositionIndex 1, 2)"),
        (half("MRDiffusionSequence", DiffusionBValue=(0.0, 1000.0)), "2 b-values in one (DiffusionBValue 0.0, 1000.0)"),
        (half("MREchoSequence", EffectiveEchoTime=(10.0, 80.0)), "2 echoes"),
        (half("CardiacSynchronizationSequence", NominalPercentageOfCardiacPhase=(0.0, 50.0)), "2 heart phases"),
        (half("MRImageFrameTypeSequence", FrameType=KINDS), "2 kinds of image"),
    ],
)
def test_several_volumes_in_one_object_are_refused_with_what_differs(block, tmp_path, change, words):
    with pytest.raises(InputError, match="12 images at 6 positions") as caught:
        read_volume(write_enhanced(block, tmp_path / "e.dcm", [*range(6), *range(6)], change))
    assert words in caught.value.explanation


def turned(k: int, frame: Dataset) -> None:
    frame.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if k < 3 else [0, 1, 0, 0, 0, -1])


def in_one(k: int, **elements):
    """Gives one frame another element in its functional groups."""

    def change(number: int, frame: Dataset) -> None:
        for keyword, value in elements.items() if number == k else ():
            setattr(frame, keyword, value)

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (turned, r"2 directions \(3, 3 images\)"),
        (in_one(3, PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.5])), r"0\.5 x 0\.5 mm in some images, 1 x 1 mm in others"),
        (in_one(2, PlanePositionSequence=[]), "1 of the 6 images"),
        (in_one(2, PlanePositionSequence=item(ImagePositionPatient=None)), "1 of the 6 images"),
        (in_one(2, PlanePositionSequence=item()), "1 of the 6 images"),
    ],
)
def test_frames_that_are_no_volume_are_refused(block, tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        read_volume(write_enhanced(block, tmp_path / "e.dcm", None, change))


def test_a_gap_between_frames_is_refused(block, tmp_path):
    with pytest.raises(InputError, match="lacks slices"):
        read_volume(write_enhanced(block, tmp_path / "e.dcm", [0, 1, 2, 4, 5]))


def test_nuclear_medicine_is_not_called_a_film(block, tmp_path):
    gone = {"PerFrameFunctionalGroupsSequence": [], "SharedFunctionalGroupsSequence": []}

    with pytest.raises(InputError, match=r"Where the 6 images .* can't be read") as caught:
        read_volume(write_enhanced(block, tmp_path / "nm.dcm", Modality="NM", **gone))

    assert "nuclear medicine" in caught.value.explanation and "slices or planar views" in caught.value.explanation
    with pytest.raises(InputError, match="don't form a volume"):
        read_volume(write_enhanced(block, tmp_path / "xa.dcm", Modality="XA", **gone))


@pytest.mark.parametrize(
    "header",
    [{"SharedFunctionalGroupsSequence": []}, {"PerFrameFunctionalGroupsSequence": []}, {"NumberOfFrames": 7}, {"NumberOfFrames": 0}],
)
def test_empty_sequences_and_wrong_counts_are_errors_in_words(block, tmp_path, header):
    with pytest.raises(InputError):
        read_volume(write_enhanced(block, tmp_path / "e.dcm", **header))


def test_two_whole_volumes_in_one_series_ask_for_a_file(block, tmp_path):
    for name in ("a", "b"):
        write_enhanced(block, tmp_path / "series" / f"{name}.dcm")

    with pytest.raises(InputError, match="12 images at 6 positions") as caught:
        read_volume(tmp_path / "series")
    assert "one of its files" in caught.value.solution
    assert read_volume(tmp_path / "series" / "a.dcm").GetSize() == block.GetSize()
