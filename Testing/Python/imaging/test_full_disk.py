"""A disk that is full while a segmentation is written, in every format: an error, and the file of before or none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging.files import read_segmentation, write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import write_series

FORMATS = ["o.nii", "o.nii.gz", "o.nrrd", "o.mha", "o.seg.nrrd"]


def noise(size: int = 48, layers: int = 1) -> Segmentation:
    """More than the small disk holds, however well it is compressed: 48 x 48 x 48 voxels of noise are 110 KiB a layer."""
    labels = np.random.default_rng(0).integers(1, 255, (layers, size, size, size)).astype(np.uint8)
    structures = tuple(Structure(label, f"structure {layer} {label}", layer=layer) for layer in range(layers) for label in (1, 2, 3))
    images = [sitk.GetImageFromArray(layer) for layer in labels]
    return Segmentation(images[0], structures, tuple(images[1:]))


def on_disk(disk: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in disk.path.iterdir() if path.name != "filler"}


@pytest.mark.parametrize("leaving", [0, 8192, 65536])
@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_gets_full_is_told_and_the_file_of_before_stays(disk, name, before, leaving):
    segmentation = noise()
    if before is not None:
        (disk.path / name).write_bytes(before)
    there = on_disk(disk)
    disk.fill(leaving)

    with pytest.raises(OutputError):
        write_segmentation(segmentation, disk.path / name, segmentation.labelmap, force=True)

    assert on_disk(disk) == there
    disk.free()
    write_segmentation(segmentation, disk.path / name, segmentation.labelmap, force=True)
    read = read_segmentation(disk.path / name)
    assert np.array_equal(sitk.GetArrayFromImage(read.labelmap), sitk.GetArrayFromImage(segmentation.labelmap))


@pytest.mark.parametrize("leaving", [8192, 100_000])
def test_so_it_is_with_overlapping_structures(disk, leaving):
    segmentation = noise(40, layers=2)
    disk.fill(leaving)
    with pytest.raises(OutputError):
        write_segmentation(segmentation, disk.path / "o.seg.nrrd", segmentation.labelmap)
    assert on_disk(disk) == {}


@pytest.mark.parametrize("leaving", [8192, 32768])
def test_so_it_is_with_dicom(disk, tmp_path, leaving):
    volume = sitk.GetImageFromArray(np.random.default_rng(1).integers(-900, 900, (12, 64, 64)).astype(np.int16))
    series = write_series(volume, tmp_path / "series")
    labels = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 12, (12, 64, 64)).astype(np.uint8))
    segmentation = Segmentation(labels, tuple(Structure(label, f"structure {label}") for label in range(1, 12)))
    disk.fill(leaving)
    with pytest.raises(OutputError):
        write_segmentation(segmentation, disk.path / "o.dcm", volume, volume_path=series)
    assert on_disk(disk) == {}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0, 200, 60_000])
def test_a_file_that_fell_short_without_a_word_is_noticed(tmp_path, monkeypatch, name, kept):
    whole = sitk.WriteImage

    def short(image, path, useCompression=False):
        whole(image, path, useCompression=useCompression)
        with open(path, "rb+") as file:
            file.truncate(kept)

    monkeypatch.setattr(sitk, "WriteImage", short)
    segmentation = noise()
    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(OutputError, match="can't be written"):
        write_segmentation(segmentation, tmp_path / name, segmentation.labelmap, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"before"


@pytest.mark.parametrize("name", FORMATS)
def test_other_voxels_or_another_place_are_noticed(tmp_path, monkeypatch, name):
    whole, segmentation = sitk.WriteImage, noise(8)

    def other(image, path, useCompression=False):
        changed = sitk.Image(image)
        changed[1, 2, 3] = 255
        whole(changed, path, useCompression=useCompression)

    def elsewhere(image, path, useCompression=False):
        moved = sitk.Image(image)
        moved.SetOrigin((0.0, 0.0, 1.0))
        whole(moved, path, useCompression=useCompression)

    for wrong in (other, elsewhere):
        monkeypatch.setattr(sitk, "WriteImage", wrong)
        with pytest.raises(OutputError, match="can't be written"):
            write_segmentation(segmentation, tmp_path / name, segmentation.labelmap)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("name", FORMATS)
def test_a_limit_on_the_size_of_files_is_told(tmp_path, name):
    program = """
import resource, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
from RAUSlicerLib.errors import OutputError
from RAUSlicerLib.imaging.files import write_segmentation
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
labels = sitk.GetImageFromArray(np.random.default_rng(0).integers(1, 255, (48, 48, 48)).astype(np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_segmentation(Segmentation(labels, (Structure(1, "a"),)), Path(sys.argv[1]), labels)
except OutputError:
    sys.exit(4)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, check=False)
    assert ended.returncode == 4, ended.stderr
    assert list(tmp_path.iterdir()) == []
