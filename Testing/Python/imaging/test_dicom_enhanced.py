"""Enhanced DICOM objects: frames in any order, in several files, of several volumes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.dicom import source_planes
from RAUSlicerLib.imaging.files import read_volume

OnGrid = Callable[[sitk.Image, str], sitk.Image]
GridsAgree = Callable[..., None]
Change = Callable[[int, Dataset], None]


@pytest.fixture
def block() -> sitk.Image:
    return sitk.GetImageFromArray(np.random.default_rng(3).integers(0, 4000, (6, 10, 8)).astype(np.uint16))


def item(**elements: Any) -> list[Dataset]:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return [dataset]


def enhanced(volume: sitk.Image, path: Path, order: Sequence[int], change: Change | None = None, **header: Any) -> Path:
    """An enhanced MR object with these slices of a volume as frames; ``change`` gets each frame's number and functional groups."""
    pixels = sitk.GetArrayFromImage(volume)
    direction, spacing = np.reshape(volume.GetDirection(), (3, 3)), volume.GetSpacing()
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.SeriesInstanceUID = EnhancedMRImageStorage, generate_uid(), "1.2.3"
    image.StudyInstanceUID, image.FrameOfReferenceUID, image.PatientID = "1.2.4", "1.2.5", "T1"
    image.Modality, image.NumberOfFrames, image.Rows, image.Columns = "MR", len(order), *pixels.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2]),
        PlaneOrientationSequence=item(ImageOrientationPatient=[round(x, 12) for x in direction[:, :2].T.ravel()]),
    )
    frames = []
    for number, k in enumerate(order):
        place = [round(x, 9) for x in volume.TransformIndexToPhysicalPoint((0, 0, k))]
        frame = item(PlanePositionSequence=item(ImagePositionPatient=place), FrameContentSequence=item(StackID="1"))[0]
        if change is not None:
            change(number, frame)
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = pixels[list(order)].tobytes()
    for keyword, value in header.items():
        setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def same(read: sitk.Image, expected: sitk.Image, agree: GridsAgree) -> None:
    agree(read, expected)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("grid", ["anisotropic", "flipped", "sagittal", "oblique", "oblique flipped"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
@pytest.mark.parametrize("files", [1, 2, 3])
def test_frames_are_ordered_by_where_they_lie(
    block: sitk.Image, on_grid: OnGrid, tmp_path: Path, grid: str, order: list[int], files: int, grids_agree: GridsAgree
) -> None:
    volume = on_grid(block, grid)
    for n in range(files):
        part = {"ConcatenationUID": "1.9", "InConcatenationNumber": n + 1, "InConcatenationTotalNumber": files} if files > 1 else {}
        enhanced(volume, tmp_path / "series" / f"{files - n}.dcm", order[n::files], **part)

    # DICOM's slice axis always makes the axes right-handed, so a left-handed grid comes back with its slices reversed.
    expected = volume if np.linalg.det(np.reshape(volume.GetDirection(), (3, 3))) > 0 else sitk.Flip(volume, [False, False, True])
    same(read_volume(tmp_path / "series"), expected, grids_agree)
    planes = source_planes(tmp_path / "series")
    assert len(planes) == 6
    for k, plane in enumerate(planes):
        np.testing.assert_allclose(plane.position, expected.TransformIndexToPhysicalPoint((0, 0, k)), atol=1e-6)
        described = pydicom.dcmread(plane.path).PerFrameFunctionalGroupsSequence[plane.frame - 1]
        np.testing.assert_allclose(described.PlanePositionSequence[0].ImagePositionPatient, plane.position, atol=1e-6)
    assert {plane.path for plane in planes} == set((tmp_path / "series").iterdir())


def test_a_missing_part_of_a_concatenation_is_an_error(block: sitk.Image, tmp_path: Path) -> None:
    part = {"ConcatenationUID": "1.9", "InConcatenationTotalNumber": 3}
    enhanced(block, tmp_path / "series" / "1.dcm", [0, 1], InConcatenationNumber=1, **part)
    enhanced(block, tmp_path / "series" / "2.dcm", [2, 3], InConcatenationNumber=2, **part)

    with pytest.raises(InputError, match="2 of the 3 parts"):
        read_volume(tmp_path / "series")


def test_a_part_of_a_concatenation_alone_says_so(block: sitk.Image, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = {"ConcatenationUID": "1.9", "InConcatenationTotalNumber": 3}
    path = enhanced(block, tmp_path / "1.dcm", [0, 1], InConcatenationNumber=1, **part)

    assert read_volume(path).GetSize()[2] == 2
    assert "one of 3 parts" in caplog.text


@pytest.mark.parametrize("frames", [7, 2**31 - 1])
@pytest.mark.parametrize("placed", [True, False])
def test_more_frames_than_the_file_holds_are_refused_at_once(block: sitk.Image, tmp_path: Path, frames: int, placed: bool) -> None:
    header = {} if placed else {"PerFrameFunctionalGroupsSequence": []}
    path = enhanced(block, tmp_path / "e.dcm", range(6), NumberOfFrames=frames, **header)

    with pytest.raises(InputError, match=re.escape(path.name)):
        read_volume(path)
    compressed = pydicom.dcmread(path)
    compressed.file_meta.TransferSyntaxUID = RLELossless
    compressed.PixelData = encapsulate([compressed.PixelData])
    compressed["PixelData"].is_undefined_length = True
    compressed.save_as(path)
    with pytest.raises(InputError, match=re.escape(path.name)):
        read_volume(path)


def test_one_frame_is_a_volume_of_one_slice(block: sitk.Image, on_grid: OnGrid, tmp_path: Path, grids_agree: GridsAgree) -> None:
    volume = on_grid(block, "oblique")

    read = read_volume(enhanced(volume, tmp_path / "one.dcm", [2]))

    same(read, volume[:, :, 2:3], grids_agree)
    np.testing.assert_allclose(read.GetSpacing(), volume.GetSpacing())


def test_objects_of_one_frame_are_a_series(block: sitk.Image, on_grid: OnGrid, tmp_path: Path, grids_agree: GridsAgree) -> None:
    volume = on_grid(block, "oblique")
    for k in (3, 1, 0, 5, 2, 4):
        enhanced(volume, tmp_path / "series" / f"{9 - k}.dcm", [k])

    same(read_volume(tmp_path / "series"), volume, grids_agree)


def test_each_frame_has_its_own_rescaling(block: sitk.Image, tmp_path: Path) -> None:
    order = [5, 0, 3, 1, 4, 2]

    def rescale(number: int, frame: Dataset) -> None:
        frame.PixelValueTransformationSequence = item(RescaleSlope=0.5 * (order[number] + 1), RescaleIntercept=-order[number])

    read = sitk.GetArrayFromImage(read_volume(enhanced(block, tmp_path / "e.dcm", order, rescale)))

    k = np.arange(6).reshape(6, 1, 1)
    np.testing.assert_allclose(read, sitk.GetArrayFromImage(block) * 0.5 * (k + 1) - k)


def stacks(k: int, frame: Dataset) -> None:
    frame.FrameContentSequence[0].StackID = str(k // 6 + 1)


def times(k: int, frame: Dataset) -> None:
    frame.FrameContentSequence[0].TemporalPositionIndex = k // 6 + 1


def b_values(k: int, frame: Dataset) -> None:
    frame.MRDiffusionSequence = item(DiffusionBValue=[0.0, 1000.0][k // 6])


def echoes(k: int, frame: Dataset) -> None:
    frame.MREchoSequence = item(EffectiveEchoTime=[10.0, 80.0][k // 6])


def phases(k: int, frame: Dataset) -> None:
    frame.CardiacSynchronizationSequence = item(NominalPercentageOfCardiacPhase=[0.0, 50.0][k // 6])


def kinds(k: int, frame: Dataset) -> None:
    frame.MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "M" if k < 6 else "PHASE", "NONE"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (stacks, "2 stacks"),
        (times, "2 time points in one (TemporalPositionIndex 1, 2)"),
        (b_values, "2 b-values in one (DiffusionBValue 0.0, 1000.0)"),
        (echoes, "2 echoes"),
        (phases, "2 heart phases"),
        (kinds, "2 kinds of image"),
    ],
)
def test_several_volumes_in_one_object_are_refused_with_what_differs(block: sitk.Image, tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(InputError, match="12 images at 6 positions") as caught:
        read_volume(enhanced(block, tmp_path / "e.dcm", [*range(6), *range(6)], change))
    assert words in caught.value.explanation


def test_stacks_in_several_directions_are_refused(block: sitk.Image, tmp_path: Path) -> None:
    def turned(k: int, frame: Dataset) -> None:
        stacks(2 * k, frame)
        frame.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if k < 3 else [0, 1, 0, 0, 0, -1])

    path = enhanced(block, tmp_path / "e.dcm", range(6), turned)
    changed = pydicom.dcmread(path)
    del changed.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    changed.save_as(path)

    with pytest.raises(InputError, match=r"2 directions \(3, 3 images\)"):
        read_volume(path)


def test_a_gap_between_frames_is_refused(block: sitk.Image, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks slices"):
        read_volume(enhanced(block, tmp_path / "e.dcm", [0, 1, 2, 4, 5]))


def test_a_spacing_that_changes_between_frames_is_refused(block: sitk.Image, tmp_path: Path) -> None:
    def zoom(k: int, frame: Dataset) -> None:
        if k == 3:
            frame.PixelMeasuresSequence = item(PixelSpacing=[0.5, 0.5])

    with pytest.raises(InputError, match=r"0\.5 x 0\.5 mm in some images, 1 x 1 mm in others"):
        read_volume(enhanced(block, tmp_path / "e.dcm", range(6), zoom))


def test_nuclear_medicine_is_not_called_a_film(block: sitk.Image, tmp_path: Path) -> None:
    gone = {"PerFrameFunctionalGroupsSequence": [], "SharedFunctionalGroupsSequence": []}

    with pytest.raises(InputError, match=r"Where the 6 images .* can't be read") as caught:
        read_volume(enhanced(block, tmp_path / "nm.dcm", range(6), Modality="NM", **gone))

    assert "nuclear medicine" in caught.value.explanation and "slices or planar views" in caught.value.explanation
    with pytest.raises(InputError, match="don't form a volume"):
        read_volume(enhanced(block, tmp_path / "xa.dcm", range(6), Modality="XA", **gone))


def empty_position(k: int, frame: Dataset) -> None:
    if k == 2:
        frame.PlanePositionSequence = []


def no_position(k: int, frame: Dataset) -> None:
    if k == 2:
        frame.PlanePositionSequence[0].ImagePositionPatient = None


def bare_item(k: int, frame: Dataset) -> None:
    if k == 2:
        frame.PlanePositionSequence = [Dataset()]


@pytest.mark.parametrize("change", [empty_position, no_position, bare_item])
def test_a_frame_without_a_place_is_refused(block: sitk.Image, tmp_path: Path, change: Change) -> None:
    with pytest.raises(InputError, match="1 of the 6 images"):
        read_volume(enhanced(block, tmp_path / "e.dcm", range(6), change))


@pytest.mark.parametrize(
    "header",
    [{"SharedFunctionalGroupsSequence": []}, {"PerFrameFunctionalGroupsSequence": []}, {"NumberOfFrames": 7}, {"NumberOfFrames": 0}],
)
def test_empty_sequences_and_wrong_counts_are_errors_in_words(block: sitk.Image, tmp_path: Path, header: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read_volume(enhanced(block, tmp_path / "e.dcm", range(6), **header))


def test_two_whole_volumes_in_one_series_ask_for_a_file(block: sitk.Image, tmp_path: Path) -> None:
    for name in ("a", "b"):
        enhanced(block, tmp_path / "series" / f"{name}.dcm", range(6))

    with pytest.raises(InputError, match="12 images at 6 positions") as caught:
        read_volume(tmp_path / "series")
    assert "one of its files" in caught.value.solution
    assert read_volume(tmp_path / "series" / "a.dcm").GetSize() == block.GetSize()
