"""Volumes in every format, and files that can't be read or written."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.files import OUTPUT_SUFFIXES, check_output, prove_output, read_segmentation, read_volume, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import grids_agree, make_segmentation

FORMATS = ["v.nii", "v.nii.gz", "v.nrrd", "v.nhdr", "v.mha", "v.mhd", "V.NII.GZ"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_comes_back_with_its_geometry(volume, name, tmp_path):
    sitk.WriteImage(volume, str(tmp_path / name.lower()))
    if name.isupper():
        (tmp_path / name.lower()).rename(tmp_path / name)

    read = read_volume(str(tmp_path / name))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(volume))
    grids_agree(read, volume)
    assert read.GetMetaDataKeys() == ()


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_a_2d_image_is_a_volume_of_one_slice(name, tmp_path):
    picture = sitk.GetImageFromArray(np.arange(30, dtype=np.int16).reshape(5, 6))
    picture.SetSpacing((0.5, 0.25))
    sitk.WriteImage(picture, str(tmp_path / name))

    read = read_volume(tmp_path / name)

    assert (read.GetSize(), read.GetSpacing()[:2]) == ((6, 5, 1), (0.5, 0.25))


def test_a_segmentation_of_one_slice_keeps_its_place(volume, tmp_path):
    slice_ = volume[:, :, 2:3]
    labels = make_segmentation(volume)
    for name in ("a.seg.nrrd", "a.nrrd", "a.mha", "a.nii.gz"):
        write_segmentation(Segmentation(labels.labelmap[:, :, 2:3], labels.structures), tmp_path / name, slice_)

        grids_agree(read_segmentation(tmp_path / name, slice_).labelmap, slice_)


def test_a_fourth_axis_of_length_one_is_dropped(volume, tmp_path):
    sitk.WriteImage(sitk.JoinSeries(volume), str(tmp_path / "v.nrrd"))

    grids_agree(read_volume(tmp_path / "v.nrrd"), volume)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (sitk.Image([4, 4, 4, 3], sitk.sitkInt16), "4 dimensions: 4 x 4 x 4 x 3"),
        (sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3), "3 values a voxel"),
        (sitk.Image([4, 4, 4], sitk.sitkComplexFloat32), "complex"),
    ],
)
@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_images_with_more_than_a_value_a_voxel_are_refused(image, reason, name, tmp_path):
    if image.GetPixelID() == sitk.sitkComplexFloat32 and name != "v.nii.gz":
        pytest.skip("this format stores no complex voxels")
    sitk.WriteImage(image, str(tmp_path / name))

    with pytest.raises(InputError, match=reason):
        read_volume(tmp_path / name)
    with pytest.raises(InputError, match=reason):
        read_segmentation(tmp_path / name)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha"])
def test_a_truncated_file_is_refused(name, kept, compressed, tmp_path):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 5000, (20, 20, 20)).astype(np.int16))
    sitk.WriteImage(noise, str(tmp_path / name), useCompression=compressed)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])

    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / name)

    assert name in caught.value.problem


def test_a_corrupted_gzip_is_refused(tmp_path):
    noise = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 5000, (20, 20, 20)).astype(np.int16))
    sitk.WriteImage(noise, str(tmp_path / "v.nii.gz"))
    content = bytearray((tmp_path / "v.nii.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "v.nii.gz").write_bytes(content)

    with pytest.raises(InputError, match="can't be read"):
        read_volume(tmp_path / "v.nii.gz")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.mhd", "v.png", "v.jpg", "v.dcm", "v", "v.txt", "v.seg.nrrd"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"garbage" * 200, gzip.compress(b"garbage" * 200)], ids=["empty", "short", "long", "compressed"]
)
def test_garbage_is_refused_in_every_format(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)

    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        assert repr(str(tmp_path / name)) in caught.value.problem
        assert caught.value.explanation
        assert caught.value.solution


@pytest.mark.parametrize("path", ["missing.nii.gz", "no folder/v.nrrd", "x" * 5000 + ".nii", "v.nrrd/v.nrrd"])
def test_a_missing_file_is_refused(path, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(b"NRRD")

    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError):
            read(tmp_path / path)


def test_a_folder_is_no_segmentation(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_segmentation(tmp_path)


def test_a_segmentation_given_as_volume_is_refused(volume, tmp_path):
    write_segmentation(make_segmentation(volume), tmp_path / "a.seg.nrrd", volume)

    with pytest.raises(InputError, match="is a segmentation, not an image"):
        read_volume(tmp_path / "a.seg.nrrd")


def test_paths_may_hold_spaces_and_any_script(volume, tmp_path):
    folder = tmp_path / "Größe 心臓"
    folder.mkdir()
    for name in ("Bild é.nii.gz", "Bild é.nrrd", "Bild é.mha"):
        sitk.WriteImage(volume, str(folder / name))
        assert read_volume(folder / name).GetSize() == volume.GetSize()
    for name in ("Säge é.nii.gz", "Säge é.seg.nrrd"):
        write_segmentation(make_segmentation(volume), folder / name, volume)
        assert len(read_segmentation(folder / name).structures) == 4


@pytest.mark.parametrize("name", ["out.txt", "out", "out.nii.bz2", "out.mhd", "seg.nrrd.zip"])
def test_an_unknown_output_format_is_refused(name, tmp_path):
    with pytest.raises(OutputError, match="no format that can be written"):
        check_output(tmp_path / name)


def test_an_existing_file_is_overwritten_only_by_force(volume, tmp_path):
    path = tmp_path / "out.seg.nrrd"
    path.write_text("precious")
    segmentation = make_segmentation(volume)

    for write in (lambda: check_output(path), lambda: write_segmentation(segmentation, path, volume)):
        with pytest.raises(OutputError, match="exists already"):
            write()
    assert path.read_text() == "precious"
    check_output(path, force=True)
    write_segmentation(segmentation, path, volume, force=True)

    assert len(read_segmentation(path).structures) == 4


def test_the_target_is_not_overwritten_even_by_force(volume, tmp_path):
    sitk.WriteImage(volume, str(tmp_path / "target.nrrd"))
    (tmp_path / "link.nrrd").symlink_to(tmp_path / "target.nrrd")
    before = (tmp_path / "target.nrrd").read_bytes()

    for name in ("target.nrrd", "link.nrrd"):
        with pytest.raises(OutputError, match="destroy the input"):
            write_segmentation(make_segmentation(volume), tmp_path / name, volume, volume_path=tmp_path / "target.nrrd", force=True)
    assert (tmp_path / "target.nrrd").read_bytes() == before


def test_a_missing_folder_a_folder_and_a_file_as_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.nrrd").mkdir()

    for name in ("missing/out.nrrd", "file/out.nrrd", "folder.nrrd", "x" * 5000 + ".nrrd"):
        with pytest.raises(OutputError):
            check_output(tmp_path / name)


def test_an_unwritable_folder_is_refused_early(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # The administrator may write anywhere but where the kernel itself says no.
    folder = Path("/proc/self") if os.access(locked, os.W_OK) else locked
    if not folder.is_dir():
        pytest.skip("the user may write everywhere")

    with pytest.raises(OutputError, match="can't be written"):
        check_output(folder / "out.nrrd")


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz", "out.mha"])
def test_nothing_is_left_behind_and_permissions_are_the_users(volume, name, tmp_path):
    write_segmentation(make_segmentation(volume), tmp_path / name, volume)
    (tmp_path / "other").write_text("x")

    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "other"])
    assert (tmp_path / name).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_file(volume, tmp_path):
    path = tmp_path / "out.nii.gz"
    path.write_text("precious")

    with pytest.raises(OutputError):
        write_segmentation(make_segmentation(volume, overlapping=True), path, volume, force=True)

    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_segmentation_on_another_grid_is_refused(volume, tmp_path):
    with pytest.raises(OutputError, match="not on the grid"):
        write_segmentation(make_segmentation(volume), tmp_path / "out.nrrd", volume[1:, :, :])


def test_outputs_take_the_geometry_of_the_volume_itself(volume, tmp_path):
    segmentation = make_segmentation(volume)
    rounded = sitk.Image(segmentation.labelmap)
    rounded.SetOrigin([x + 1e-4 for x in volume.GetOrigin()])
    write_segmentation(segmentation.map_layers([rounded]), tmp_path / "out.mha", volume)

    assert read_segmentation(tmp_path / "out.mha").labelmap.GetOrigin() == pytest.approx(volume.GetOrigin(), abs=1e-9)


def test_itk_s_own_words_never_reach_the_terminal(tmp_path, capfd):
    """Of axes that are a little askew ITK warns, with the places in its own code, when NIfTI is written, and when that is read."""
    volume = sitk.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6))
    volume.SetDirection((1, 0.002, 0, 0, 1, 0, 0, 0, 1))
    volume.SetSpacing((1.5, 1.5, 8))
    labelmap = volume > 60
    labelmap.CopyInformation(volume)
    with contextlib.suppress(OutputError):
        write_segmentation(Segmentation(labelmap, (Structure(1, "A"),)), tmp_path / "o.nii.gz", volume)
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 4, 4, 4, 1, 1, 1, 1)
    for kind, magic in ((4, b"n+1"), (4, bytes(3)), (1, b"n+1"), (0, b"n+1"), (1536, b"n+1")):
        struct.pack_into("<h", header, 70, kind)
        struct.pack_into("<8f", header, 76, *[1.0] * 8)
        struct.pack_into("<f", header, 108, 352.0)
        header[344:347] = magic
        (tmp_path / "v.nii").write_bytes(bytes(header) + bytes(4 * 4 * 4 * 16))
        with contextlib.suppress(InputError):
            read_volume(tmp_path / "v.nii")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shear", [0.0005, 0.002, 0.0099])
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES[:-1])
def test_a_grid_that_a_format_would_shift_is_told_before(suffix, shear, tmp_path, capfd):
    volume = sitk.Image(40, 44, 12, sitk.sitkInt16)
    volume.SetDirection((1, shear, 0, 0, math.sqrt(1 - shear**2), 0, 0, 0, 1))
    volume.SetSpacing((1.5, 1.5, 8))
    labelmap = sitk.Cast(volume + 1, sitk.sitkUInt8)
    segmentation = Segmentation(labelmap, (Structure(1, "all"),))
    path = tmp_path / f"out{suffix}"
    try:
        prove_output(path, segmentation, segmentation.structures, volume)
    except OutputError as error:
        assert suffix.startswith(".nii") and "at right angles" in error.explanation and ".seg.nrrd" in error.solution
    else:
        write_segmentation(segmentation, path, volume)
    assert capfd.readouterr().err == "" and all(file == path for file in tmp_path.iterdir())
    if shear > 0.001 and suffix.startswith(".nii"):
        assert not path.exists()
