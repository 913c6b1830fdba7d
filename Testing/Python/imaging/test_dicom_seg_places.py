"""Masks in a DICOM SEG lie where their slices lie, whatever the order of files and frames; other libraries find them there too."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage

from RAUSlicerLib.imaging.checks import align_segmentation
from RAUSlicerLib.imaging.files import prove_output, read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.frame import from_array
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.support.notices import noticed

from .builders import noise, values, write_enhanced, write_series

ORDERS = {"ascending": [0, 1, 2, 3, 4, 5, 6], "reversed": [6, 5, 4, 3, 2, 1, 0], "scrambled": [3, 0, 6, 1, 5, 2, 4]}


def wedge(volume: sitk.Image) -> Segmentation:
    """Two structures that differ on every slice and miss some."""
    array = np.zeros(volume.GetSize()[::-1], np.uint8)
    for k in range(1, 6):
        array[k, 1 : 2 + k, 2 : 4 + k // 2] = 1
    array[4:6, 6:8, 7] = 2
    return Segmentation(from_array(array, volume), (Structure(1, "wedge"), Structure(2, "stick")))


def by_hand(path: Path, volume: sitk.Image) -> np.ndarray:
    """The labels at the volume's voxels, from the positions, bits and references in the file alone."""
    dataset = pydicom.dcmread(path)
    labels = np.zeros(volume.GetSize()[::-1], np.uint8)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = dataset.Rows * dataset.Columns
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        x, y, z = volume.TransformPhysicalPointToContinuousIndex(position)
        assert abs(x) < 0.01 and abs(y) < 0.01 and abs(z - round(z)) < 0.01
        mask = bits[index * size : (index + 1) * size].reshape(dataset.Rows, dataset.Columns) > 0
        labels[round(z)][mask] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return labels


@pytest.mark.parametrize("grid", ["anisotropic", "sagittal", "oblique", "oblique flipped"])
@pytest.mark.parametrize("order", ORDERS)
def test_frames_of_an_enhanced_image_are_paired_by_place(order, grid, tmp_path):
    target = write_enhanced(noise(grid), tmp_path / "target.dcm", ORDERS[order])
    volume = read_volume(target)
    segmentation = wedge(volume)
    expected = values(segmentation.labelmap)
    write_segmentation(segmentation, tmp_path / "out.dcm", volume, volume_path=target)

    for given in (volume, None):
        read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm", given), volume)
        np.testing.assert_array_equal(values(read.labelmap), expected)
    np.testing.assert_array_equal(by_hand(tmp_path / "out.dcm", volume), expected)
    # highdicom, through what it calls the source's frames: the pixels of frame n are those of the slice at n's place.
    other = hd.seg.segread(tmp_path / "out.dcm")
    frames = other.get_pixels_by_source_frame(
        pydicom.dcmread(target).SOPInstanceUID,
        list(range(1, 8)),
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    source = pydicom.dcmread(target)
    for frame, group in zip(frames, source.PerFrameFunctionalGroupsSequence, strict=True):
        place = volume.TransformPhysicalPointToIndex([float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient])
        np.testing.assert_array_equal(frame, expected[place[2]])
    assert {item.ReferencedSOPClassUID for item in other.SourceImageSequence} == {EnhancedMRImageStorage}


@pytest.mark.parametrize("grid", ["plain", "oblique flipped"])
def test_simpleitk_finds_the_frames_where_they_belong(grid, tmp_path):
    target = write_enhanced(noise(grid), tmp_path / "target.dcm", ORDERS["scrambled"])
    volume = read_volume(target)
    segmentation = wedge(volume)
    # ITK knows nothing of segments and of frames that are left out: one structure that is on every slice.
    labels = sitk.Cast(segmentation.labelmap * 0, sitk.sitkUInt8)
    for k in range(7):
        labels[k, k, k] = 1
    write_segmentation(Segmentation(labels, (Structure(1, "line"),)), tmp_path / "out.dcm", volume, volume_path=target)

    image = sitk.ReadImage(str(tmp_path / "out.dcm"))

    assert image.GetSize() == volume.GetSize()
    for k in range(7):
        index = image.TransformPhysicalPointToIndex(volume.TransformIndexToPhysicalPoint((k, k, k)))
        assert image[index] != 0


def test_files_of_a_series_in_subfolders_are_found(tmp_path):
    series = write_series(noise("oblique"), tmp_path / "series")
    for number, file in enumerate(sorted(series.iterdir())):
        folder = series / f"part {number % 2}"
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)
    volume = read_volume(series)
    segmentation = wedge(volume)

    assert prove_output(tmp_path / "out.dcm", segmentation, segmentation.structures, volume, volume_path=series) == []
    write_segmentation(segmentation, tmp_path / "out.dcm", volume, volume_path=series)

    np.testing.assert_array_equal(by_hand(tmp_path / "out.dcm", volume), values(segmentation.labelmap))
    written = pydicom.dcmread(tmp_path / "out.dcm")
    known = {pydicom.dcmread(file).SOPInstanceUID: file for file in series.rglob("*.dcm")}
    for group in written.PerFrameFunctionalGroupsSequence:
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        image = pydicom.dcmread(known[item.ReferencedSOPInstanceUID])
        assert item.ReferencedSOPClassUID == CTImageStorage and "ReferencedFrameNumber" not in item
        assert image.ImagePositionPatient == group.PlanePositionSequence[0].ImagePositionPatient


@pytest.mark.parametrize("by", [0.02, 0.2])
@pytest.mark.parametrize("kept", [None, slice(1, 3)])
def test_uneven_slices_come_back_on_their_slices_and_are_told_before(by, kept, tmp_path):
    volume = noise("oblique")
    normal = np.reshape(volume.GetDirection(), (3, 3))[:, 2]

    def shifted(k, header):
        off = {1: -1, 2: 0.6, 4: 1, 5: -0.7}.get(k, 0) * by * volume.GetSpacing()[2]
        header.ImagePositionPatient = [round(x + off * n, 6) for x, n in zip(header.ImagePositionPatient, normal, strict=True)]

    series = write_series(volume, tmp_path / "series", places=shifted)
    source = read_volume(series)
    segmentation = wedge(source)
    if kept is not None:
        array = values(segmentation.labelmap)
        array[: kept.start], array[kept.stop :] = 0, 0
        segmentation = Segmentation(from_array(array, source), segmentation.structures[:1])

    (told,) = prove_output(tmp_path / "out.dcm", segmentation, segmentation.structures, source, volume_path=series)
    write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=series)
    read, _ = align_segmentation(read_segmentation(tmp_path / "out.dcm", source), source)

    assert "unevenly spaced" in told and ".seg.nrrd" in told
    np.testing.assert_array_equal(values(read.labelmap), values(segmentation.labelmap))
    # Without the image it is read all the same, not called damaged.
    alone = read_segmentation(tmp_path / "out.dcm")
    assert [int(alone.array(s).sum()) for s in alone.structures] == [int(segmentation.array(s).sum()) for s in segmentation.structures]


def moved(path: Path, volume: sitk.Image, axis: int, by: float, keep: slice = slice(None)) -> None:
    """Moves the frames in a SEG along an axis of its volume, by so many voxels; only some frames are kept."""
    dataset = pydicom.dcmread(path)
    step = np.reshape(volume.GetDirection(), (3, 3))[:, axis] * volume.GetSpacing()[axis] * by
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: dataset.NumberOfFrames * 72].reshape(-1, 72)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[keep]
    dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PixelData = np.packbits(bits[keep].ravel(), bitorder="little").tobytes()
    for place in {id(f.PlanePositionSequence[0]): f.PlanePositionSequence[0] for f in dataset.PerFrameFunctionalGroupsSequence}.values():
        place.ImagePositionPatient = [round(float(x) + d, 6) for x, d in zip(place.ImagePositionPatient, step, strict=True)]
    dataset.save_as(path)


@pytest.mark.parametrize("grid", ["anisotropic", "left-handed", "oblique flipped"])
@pytest.mark.parametrize("keep", [slice(None), slice(2, 3)])
@pytest.mark.parametrize("by", [0.12, 0.45, -0.45, 0.01, 1.0])
def test_a_segmentation_between_slices_is_told_with_the_distance(grid, keep, by, tmp_path):
    series = write_series(noise(grid), tmp_path / "series")
    volume = read_volume(series)
    write_segmentation(wedge(volume), tmp_path / "out.dcm", volume, volume_path=series)
    moved(tmp_path / "out.dcm", volume, 2, by, keep)

    with noticed() as told:
        read = read_segmentation(tmp_path / "out.dcm", volume)
    aligned, warnings = align_segmentation(read, volume)

    beside = abs(by - round(by))
    if beside > 0.1:
        assert any("between the slices" in one and f"{beside * volume.GetSpacing()[2]:.2g} mm, {beside:.2g} of" in one for one in told)
    else:
        assert told == []
    if keep == slice(None):
        expected = values(wedge(volume).labelmap)
        expected = np.roll(expected, round(by), axis=0)
        np.testing.assert_array_equal(values(aligned.labelmap), expected)
        assert warnings == []


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("by", [0.12, 0.4, 0.8])
def test_a_segmentation_between_pixels_is_told(axis, by, tmp_path):
    series = write_series(noise("oblique"), tmp_path / "series")
    volume = read_volume(series)
    write_segmentation(wedge(volume), tmp_path / "out.dcm", volume, volume_path=series)
    moved(tmp_path / "out.dcm", volume, axis, by)

    _, warnings = align_segmentation(read_segmentation(tmp_path / "out.dcm", volume), volume)

    assert any("resampled" in warning for warning in warnings)


def test_masks_of_thicker_slices_are_as_thick(tmp_path):
    """Drawn on every second slice of a series that lies on the image's: its masks are not taken for every second slice of the image."""
    fine = noise("oblique")
    coarse = read_volume(write_series(fine[:, :, ::2], tmp_path / "coarse"))
    labels = sitk.Cast(coarse * 0, sitk.sitkUInt8)
    labels[2:5, 2:5, 0:3] = 1
    structures = (Structure(1, "block"),)
    write_segmentation(Segmentation(labels, structures), tmp_path / "out.dcm", coarse, volume_path=tmp_path / "coarse")
    volume = read_volume(write_series(fine, tmp_path / "fine"))

    aligned, warnings = align_segmentation(read_segmentation(tmp_path / "out.dcm", volume), volume)

    filled = values(aligned.labelmap).any(axis=(1, 2))
    assert filled[:5].all() and any("resampled" in warning for warning in warnings)


def test_rounded_positions_are_no_obstacle(tmp_path):
    volume = noise("oblique")
    volume.SetSpacing((0.6, 0.85, 0.703125))

    def rounded(_k, header):
        header.ImagePositionPatient = [round(float(x), 2) for x in header.ImagePositionPatient]
        header.ImageOrientationPatient = [round(float(x), 4) for x in header.ImageOrientationPatient]

    series = write_series(volume, tmp_path / "series", places=rounded)
    source = read_volume(series)
    segmentation = wedge(source)

    write_segmentation(segmentation, tmp_path / "out.dcm", source, volume_path=series)
    read, warnings = align_segmentation(read_segmentation(tmp_path / "out.dcm", source), source)

    assert warnings == []
    np.testing.assert_array_equal(values(read.labelmap), values(segmentation.labelmap))
