"""Files that would crash, hang or mislead the image library, or have it read what it must not; paths that libraries can't be given."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import RAUSlicerLib
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume

from .builders import VOXELS, is_read, is_refused

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.png", "v.dcm", "v"])
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", None])
def test_a_device_or_pipe_is_no_file(name, device, tmp_path):
    if device is None:
        os.mkfifo(tmp_path / name)
    elif Path(device).exists():
        (tmp_path / name).symlink_to(device)
    else:
        pytest.skip(f"this system has no {device}")

    is_refused(tmp_path / name, "a device or a pipe")


# Pictures


@pytest.mark.parametrize("name", ["v.png", "v.jpg", "v.jpeg"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_cut_picture_is_refused(name, kept, tmp_path):
    """ITK reads a JPEG that is cut, and what is missing is grey."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80)).astype(np.uint8)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    read_volume(tmp_path / name)
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])

    with pytest.raises(InputError, match="can't be read"):
        read_volume(tmp_path / name)


def test_a_small_picture_that_announces_much_is_refused(tmp_path):
    Image.fromarray(np.zeros((90, 80), np.uint8)).save(tmp_path / "v.png")
    content = bytearray((tmp_path / "v.png").read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "v.png").write_bytes(content)

    is_refused(tmp_path / "v.png", "can't be read")


@pytest.mark.parametrize("kind", ["1", "P 1", "P 2", "P 8"])
@pytest.mark.parametrize("side", [90, 3000])
def test_a_picture_of_few_colors_is_read_however_well_it_is_packed(kind, side, tmp_path):
    mode, _, bits = kind.partition(" ")
    gray = np.zeros((side, side), np.uint8)
    gray[side // 3 : side // 2] = 1
    picture = Image.fromarray(gray * 255).convert("1") if mode == "1" else Image.fromarray(gray)
    if mode == "P":
        picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "v.png", optimize=True, **({"bits": int(bits)} if bits else {}))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.png"))[0], gray * 255)
    assert len(read_segmentation(tmp_path / "v.png").structures) == 1


# Paths


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha", "v.png", "v.dcm"])
@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_path_that_is_not_utf_8_is_refused_in_words(name, place, tmp_path):
    """ITK ends the whole process."""
    odd = os.fsdecode(b"Gr\xf6\xdfe")
    path = tmp_path / odd / name if place == "folder" else tmp_path / f"{odd}{name}"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this system has no such paths")

    is_refused(path, "UTF-8")
    is_refused(path.with_name("missing" + path.name), "does not exist|UTF-8")


def test_a_path_with_a_null_character_is_refused_in_words():
    is_refused(Path("a\0b.nii.gz"), "can't be read|does not exist")


@pytest.mark.parametrize(("stored", "given"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_composed_and_decomposed_accents_are_the_same_path(stored, given, name, tmp_path):
    folder, file = "Größe é", f"Säge é {name}"
    kept = tmp_path / unicodedata.normalize(stored, folder) / unicodedata.normalize(stored, file)
    kept.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(kept))

    is_read(tmp_path / unicodedata.normalize(given, folder) / unicodedata.normalize(given, file))


def test_the_image_library_prints_nothing(tmp_path, capfd):
    path = tmp_path / "\x1b[31mred.nii"
    image = sitk.GetImageFromArray(VOXELS)
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    # An sform of other voxel sizes than pixdim: ITK warns of that with the path.
    content[80:84] = b"\0\0\0\x40"
    path.write_bytes(content)
    capfd.readouterr()

    read_volume(path)

    assert "\x1b" not in "".join(capfd.readouterr())


def test_a_few_hundred_damaged_files_do_no_harm():
    """The script makes thousands of them: see Testing/Fuzz."""
    if os.name != "posix":
        pytest.skip("memory can't be limited here")
    script = REPOSITORY / "Testing" / "Fuzz" / "fuzz_files.py"
    environment = {**os.environ, "PYTHONPATH": str(Path(RAUSlicerLib.__file__).parents[1])}

    done = subprocess.run(
        [sys.executable, str(script), "--count", "200", "--seed", "3", "--jobs", "1"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 files, none did harm" in done.stdout
