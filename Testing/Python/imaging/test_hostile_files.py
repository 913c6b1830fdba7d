"""Files that would crash, hang or mislead the image library, or have it read what it must not; paths that libraries can't be given."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import re
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import RAUSlicerLib
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import align_segmentation, check_volume
from RAUSlicerLib.imaging.files import read_segmentation, read_volume

SIZE = (8, 7, 6)
VALUES = np.random.default_rng(0).integers(1, 900, SIZE[::-1]).astype("<i2")
REPOSITORY = Path(__file__).parents[3]


def metaimage(data: str = "LOCAL", **changed: str | None) -> bytes:
    """A MetaImage's header; a field that is None is left out."""
    fields: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 2 3",
        "DimSize": " ".join(str(n) for n in SIZE),
        "ElementType": "MET_SHORT",
    }
    fields |= changed
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    return ("\n".join([*lines, f"ElementDataFile = {data}"]) + "\n").encode()


def nrrd(data: str | None = None, **changed: str | None) -> bytes:
    fields: dict[str, str | None] = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in SIZE),
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
        "data file": data,
    }
    fields |= {key.replace("_", " "): value for key, value in changed.items()}
    return ("NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)).encode()


def refused(path: Path, match: str) -> None:
    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError, match=match) as caught:
            read(path)
        assert caught.value.explanation and caught.value.solution


def slices(folder: Path) -> None:
    for k, plane in enumerate(VALUES):
        (folder / f"s{k:02d}.raw").write_bytes(plane.tobytes())


# MetaImage


@pytest.mark.parametrize(
    "changed",
    [
        *({"NDims": value} for value in ("-1", "0", "6", "11", "99999", "3.5", "nan", "", "9" * 40, None)),
        *({"DimSize": value} for value in ("8 7", "8 7 6 5", "-8 7 6", "0 7 6", "8 7 nan", "8.5 7 6", "9 " * 5000, None)),
        *({"DimSize": value} for value in ("60000 60000 60000", "999999999 999999999 999999999")),
        *({"TransformMatrix": value} for value in ("1 0", "1 " * 9000, "nan 0 0 0 1 0 0 0 1", "inf 0 0 0 1 0 0 0 1", "a b c d e f g h i")),
        *({"Offset": value} for value in ("nan 0 0", "0 inf 0", "0", "%n %n %n")),
        *({"ElementSpacing": value} for value in ("nan 1 1", "inf 1 1", "1", "0 1 1", "x y z")),
        *({"ElementType": value} for value in ("MET_STRING", "MET_OTHER", "MET_NONE", "", "%s", None)),
        *({"ElementNumberOfChannels": value} for value in ("-3", "0", "2000000000", "nan")),
        *({"CompressedData": "True", "CompressedDataSize": value} for value in ("-1", "nan", "9" * 40)),
        {"CompressedData": "True"},
        {"HeaderSize": "-5"},
        {"Comment": "y" * 100000},
        {"X" * 70000: "1"},
    ],
    ids=str,
)
def test_a_metaimage_with_a_wrong_field_is_refused(changed, tmp_path):
    (tmp_path / "v.mha").write_bytes(metaimage(**changed) + VALUES.tobytes())

    refused(tmp_path / "v.mha", "can't be read")


def test_a_metaimage_that_repeats_a_field_is_refused(tmp_path):
    """Which of the two counts is for each reader to choose."""
    (tmp_path / "v.mha").write_bytes(b"NDims = 3\n" + metaimage() + VALUES.tobytes())

    refused(tmp_path / "v.mha", "twice")


@pytest.mark.parametrize("cut", [1, 300])
def test_compressed_metaimage_voxels_are_all_there(cut, tmp_path):
    """ITK returns whatever is in memory for voxels that are not."""
    image = sitk.GetImageFromArray(VALUES)
    sitk.WriteImage(image, str(tmp_path / "v.mha"), useCompression=True)
    content = (tmp_path / "v.mha").read_bytes()
    (tmp_path / "cut.mha").write_bytes(content[:-cut])
    (tmp_path / "more.mha").write_bytes(content.replace(b"DimSize = 8 7 6", b"DimSize = 8 7 9"))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.mha")), VALUES)
    refused(tmp_path / "more.mha", "unpack to")
    if cut > 10:
        refused(tmp_path / "cut.mha", "unpack to|damaged")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("LIST\ns00.raw", "lists 1 files"),
        ("LIST 3D\nwhole.raw", "lists 1 files"),
        ("LIST 9D\nwhole.raw", "lists 1 files"),
        ("s%02d.raw 0 3 1", "names 4 files"),
        ("s%02d.raw 1 6 1", "not there"),
        ("s%02d.raw 0 999999 1", "names 1000000 files"),
        ("%s%s%s%s 1 10 1", "pattern"),
        ("%n.raw 0 5 1", "pattern"),
        ("%999999d.raw 0 5 1", "pattern"),
        ("100%.raw", "pattern"),
        ("short.raw", "ends after"),
        ("nothing.raw", "not there"),
        ("", "outside"),
    ],
)
def test_a_metaimage_whose_data_files_do_not_fit_is_refused(data, match, tmp_path):
    slices(tmp_path)
    (tmp_path / "whole.raw").write_bytes(VALUES.tobytes())
    (tmp_path / "short.raw").write_bytes(VALUES.tobytes()[:-2])
    (tmp_path / "v.mhd").write_bytes(metaimage(data))

    refused(tmp_path / "v.mhd", match)


@pytest.mark.parametrize(
    "data",
    [
        "whole.raw",
        "below/whole.raw",
        "./below/../whole.raw",
        "s%02d.raw 0 5 1",
        "s%02d.raw 0 5",
        "LIST\n" + "\n".join(f"s0{k}.raw" for k in range(6)),
    ],
)
def test_data_files_beside_a_metaimage_are_read(data, tmp_path):
    slices(tmp_path)
    (tmp_path / "below").mkdir()
    for name in ("whole.raw", "below/whole.raw"):
        (tmp_path / name).write_bytes(VALUES.tobytes())
    (tmp_path / "v.mhd").write_bytes(metaimage(data))
    if data == "s%02d.raw 0 5":
        refused(tmp_path / "v.mhd", "pattern")
        return

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.mhd")), VALUES)


# NRRD


@pytest.mark.parametrize(
    "changed",
    [
        *({"dimension": value} for value in ("-1", "0", "17", "99999", "nan", None)),
        *({"sizes": value} for value in ("8 7", "-8 7 6", "0 7 6", "8 7 nan", "9 " * 5000, "60000 60000 60000", None)),
        *({"space_directions": value} for value in ("(nan,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,inf,0) (0,0,1)", "9 " * 5000)),
        *({"space_origin": value} for value in ("(nan,0,0)", "(0,0,-inf)", "9 " * 5000)),
        *({"type": value} for value in ("block", "%s", "x" * 5000, None)),
        *({"encoding": value} for value in ("zip", "%n", "x" * 5000, None)),
        *({key: "x" * 5000} for key in ("endian", "space", "kinds", "centers")),
        *({"byte_skip": value} for value in ("-2", "nan", "9" * 40)),
        {"line_skip": "-1"},
        {"x" * 5000: "1"},
    ],
    ids=str,
)
def test_an_nrrd_with_a_wrong_field_is_refused(changed, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd(**changed) + b"\n" + VALUES.tobytes())

    refused(tmp_path / "v.nrrd", "can't be read")


def test_an_nrrd_may_hold_keys_and_values_of_any_length(tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd() + b"note:=" + b"y" * 100000 + b"\n\xc3\xa9:=1\n\n" + VALUES.tobytes())
    (tmp_path / "w.nrrd").write_bytes(nrrd() + b"\xe9:=1\n\n" + VALUES.tobytes())

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.nrrd")), VALUES)
    refused(tmp_path / "w.nrrd", "no text")


@pytest.mark.parametrize("data", ["whole.raw", "s%02d.raw 0 5 1 2", "LIST 2\n" + "\n".join(f"s0{k}.raw" for k in range(6))])
def test_data_files_beside_an_nrrd_are_read(data, tmp_path):
    slices(tmp_path)
    (tmp_path / "whole.raw").write_bytes(VALUES.tobytes())
    (tmp_path / "v.nhdr").write_bytes(nrrd(data))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.nhdr")), VALUES)


@pytest.mark.parametrize("data", ["%s%s%s 1 10 1", "%n 0 5 1", "s%02d.raw", "LIST 2\nnothing.raw", "LIST", "short.raw", "nothing.raw"])
def test_an_nrrd_whose_data_files_do_not_fit_is_refused(data, tmp_path):
    (tmp_path / "short.raw").write_bytes(VALUES.tobytes()[:-2])
    (tmp_path / "v.nhdr").write_bytes(nrrd(data))

    refused(tmp_path / "v.nhdr", "can't be read")


# Voxels from elsewhere


@pytest.mark.parametrize("form", ["mhd", "mhd list", "nhdr", "nhdr list"])
@pytest.mark.parametrize(
    "target",
    [
        "../secret.raw",
        "{folder}/secret.raw",
        "/dev/zero",
        "/etc/passwd",
        "in/../../secret.raw",
        "link.raw",
        "linked/secret.raw",
        "pipe",
        "in",
        ".",
    ],
)
def test_voxels_are_only_taken_from_files_in_the_folder_of_their_header(form, target, tmp_path):
    folder = tmp_path / "case"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    name = target.format(folder=tmp_path)
    kind, _, as_list = form.partition(" ")
    if as_list:
        name = ("LIST\n" if kind == "mhd" else "LIST 2\n") + "\n".join([name] * 6)
    (folder / f"v.{kind}").write_bytes(metaimage(name) if kind == "mhd" else nrrd(name))

    refused(folder / f"v.{kind}", "can't be read")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.png", "v.dcm", "v"])
def test_a_pipe_is_no_file(name, tmp_path):
    os.mkfifo(tmp_path / name)

    refused(tmp_path / name, "a device or a pipe")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.png", "v.dcm", "v"])
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_file(name, device, tmp_path):
    if not Path(device).exists():
        pytest.skip(f"this system has no {device}")
    (tmp_path / name).symlink_to(device)

    refused(tmp_path / name, "a device or a pipe")


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

    refused(tmp_path / "v.png", "can't be read")


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

    refused(path, "UTF-8")
    refused(path.with_name("missing" + path.name), "does not exist|UTF-8")


def test_a_path_with_a_null_character_is_refused_in_words():
    refused(Path("a\0b.nii.gz"), "can't be read|does not exist")


@pytest.mark.parametrize(("stored", "given"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_composed_and_decomposed_accents_are_the_same_path(stored, given, name, tmp_path):
    folder, file = "Größe é", f"Säge é {name}"
    kept = tmp_path / unicodedata.normalize(stored, folder) / unicodedata.normalize(stored, file)
    kept.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(kept))

    volume = read_volume(tmp_path / unicodedata.normalize(given, folder) / unicodedata.normalize(given, file))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume), VALUES)


def test_the_image_library_prints_nothing(tmp_path, capfd):
    path = tmp_path / "\x1b[31mred.nii"
    image = sitk.GetImageFromArray(VALUES)
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


# -- MetaImage in one file: where its voxels are

PACKED = zlib.compress(VALUES.tobytes())
JUNK = np.random.default_rng(4).bytes(1000)


def same_or_refused(path: Path, match: str) -> None:
    """A file is read as what it holds, or refused for this reason; nothing between."""
    try:
        volume = read_volume(path)
    except InputError as error:
        assert re.search(match, str(error)), error
    else:
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(volume), VALUES)


@pytest.mark.parametrize("said", [None, "0", str(len(PACKED) + 5000), str(1 << 45)])
@pytest.mark.parametrize("after", [b"", JUNK])
def test_compressed_voxels_of_no_known_length_are_never_taken_from_memory(said, after, tmp_path):
    path = tmp_path / "v.mha"
    path.write_bytes(metaimage(CompressedData="True", CompressedDataSize=said) + PACKED + after)

    with pytest.raises(InputError, match="how many bytes its compressed voxels take") as error:
        read_volume(path)

    # What it says to do helps.
    line = re.search("'(CompressedDataSize = [0-9]+)'", error.value.solution)
    assert line is not None and int(line[1].split()[-1]) == len(PACKED)
    path.write_bytes(metaimage(CompressedData="True", CompressedDataSize=str(len(PACKED))) + PACKED + after)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VALUES)


@pytest.mark.parametrize("data", ["LOCAL", "v.zraw"])
@pytest.mark.parametrize("said", [None, "0", "1", str(len(PACKED) - 50), str(len(PACKED)), str(len(PACKED) + 3), str(len(PACKED) + 9000)])
@pytest.mark.parametrize("header_size", [None, "0", "-1", "10", "4"])
@pytest.mark.parametrize("longer", [False, True])
def test_compressed_voxels_are_read_rightly_or_refused(data, said, header_size, longer, tmp_path):
    packed = zlib.compress(VALUES.tobytes() + bytes(500)) if longer else PACKED
    header = metaimage(data, CompressedData="True", CompressedDataSize=said, HeaderSize=header_size)
    before = b"1234" if header_size == "4" and data != "LOCAL" else b""
    (tmp_path / "v.mha").write_bytes(header + (packed if data == "LOCAL" else b""))
    (tmp_path / "v.zraw").write_bytes(before + packed)

    same_or_refused(tmp_path / "v.mha", "compressed|unpack|begin")


@pytest.mark.parametrize("size", ["10", "-1", "100000", "exact"])
@pytest.mark.parametrize("after", [b"", JUNK])
def test_voxels_behind_a_header_are_read_from_there_or_not_at_all(size, after, tmp_path):
    if size == "exact":
        size = str(len(metaimage(HeaderSize="1000")) - 1)
    (tmp_path / "v.mha").write_bytes(metaimage(HeaderSize=size) + VALUES.tobytes() + after)

    same_or_refused(tmp_path / "v.mha", "begin elsewhere")


# -- NRRD: how much has to be unpacked


@pytest.mark.parametrize("skip", ["-1", "2147000000", "5000000"])
@pytest.mark.parametrize("data", [None, "v.raw.gz"])
def test_nothing_is_unpacked_without_end_to_reach_the_voxels(skip, data, tmp_path):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush()
    (tmp_path / "v.nrrd").write_bytes(nrrd(data, encoding="gzip", byte_skip=skip) + (b"\n" + bomb if data is None else b""))
    (tmp_path / "v.raw.gz").write_bytes(bomb)

    with pytest.raises(InputError, match="far more than its voxels"):
        read_volume(tmp_path / "v.nrrd")


@pytest.mark.parametrize("skip", ["-1", "7"])
def test_a_short_skip_is_followed(skip, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd(encoding="gzip", byte_skip=skip) + b"\n" + gzip.compress(b"1234567" + VALUES.tobytes()))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.nrrd")), VALUES)


@pytest.mark.parametrize("sizes", [" ".join(str(n) for n in SIZE), "1000 1000 4000"])
def test_bzip2_is_refused_as_such(sizes, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd(encoding="bzip2", sizes=sizes) + b"\n" + bz2.compress(VALUES.tobytes()))

    with pytest.raises(InputError, match="bzip2") as error:
        read_volume(tmp_path / "v.nrrd")
    assert "gzip or raw" in error.value.solution


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("space directions", "(1e300,0,0) (0,2,0) (0,0,3)", "so large"),
        ("space origin", "(0,-1e200,0)", "so far away"),
        ("space directions", "none (0,2,0) (0,0,3)", "no direction for an axis"),
        ("space directions", "(1,0,0) (0,2,0) none", "no direction for an axis"),
    ],
)
@pytest.mark.parametrize("kinds", ["domain domain domain", "space space space", None])
def test_axes_of_no_size_are_refused(field, value, reason, kinds, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(nrrd(**{field.replace(" ", "_"): value, "kinds": kinds}) + b"\n" + VALUES.tobytes())

    with pytest.raises(InputError, match=reason):
        read_volume(tmp_path / "v.nrrd")


# -- one value a voxel, as a vector


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_a_list_of_one_is_a_number(kind, tmp_path):
    header = nrrd(
        dimension="4",
        sizes="1 " + " ".join(str(n) for n in SIZE),
        kinds=f"{kind} domain domain domain",
        space_directions="none (1,0,0) (0,2,0) (0,0,3)",
    )
    (tmp_path / "v.nrrd").write_bytes(header + b"\n" + VALUES.tobytes())

    volume, warnings = check_volume(read_volume(tmp_path / "v.nrrd"), "target")

    assert volume.GetSpacing() == (1, 2, 3) and warnings == []
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(volume), VALUES)


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_vectors_of_one_number_are_numbers(name, tmp_path):
    image = sitk.Compose([sitk.GetImageFromArray(VALUES)])
    sitk.WriteImage(image, str(tmp_path / name))

    volume, _ = check_volume(read_volume(tmp_path / name), "target")

    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(volume), VALUES)


# -- headers that say nothing of the patient

WITHOUT_PLACE = {
    **{f"space {name}.nrrd": nrrd(space=name) for name in ("scanner-xyz", "3D-right-handed", "3D-left-handed")},
    "space dimension.nrrd": nrrd(space=None).replace(b"sizes:", b"space dimension: 3\nsizes:"),
    "spacings.nrrd": nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3"),
    "nothing.nrrd": nrrd(space=None, space_directions=None, space_origin=None, kinds=None),
    "no directions.nrrd": nrrd(space_directions=None, space_origin=None),
    "no matrix.mha": metaimage(TransformMatrix=None),
    "nothing.mha": metaimage(TransformMatrix=None, Offset=None),
    "LPI.mha": metaimage(TransformMatrix=None, AnatomicalOrientation="LPI"),
    "contradiction.mha": metaimage(AnatomicalOrientation="RAS"),
    "other axes.mha": metaimage(AnatomicalOrientation="ASR"),
}
WITH_PLACE = {
    **{f"space {name}.nrrd": nrrd(space=name) for name in ("left-posterior-superior", "Right-Anterior-Superior", "LAS", "lps")},
    "identity.mha": metaimage(),
    "unknown.mha": metaimage(AnatomicalOrientation="???"),
    "RAI.mha": metaimage(AnatomicalOrientation="RAI"),
    "RAI alone.mha": metaimage(TransformMatrix=None, AnatomicalOrientation="RAI"),
    "turned.mha": metaimage(TransformMatrix="0 1 0 0 0 -1 1 0 0", AnatomicalOrientation="ASR"),
    "oblique.mha": metaimage(TransformMatrix="0.6 0.8 0 -0.8 0.6 0 0 0 1", AnatomicalOrientation="RAI"),
}


def saved(folder: Path, name: str, header: bytes, values: np.ndarray = VALUES) -> Path:
    path = folder / f"v{name[name.rindex('.') :]}"
    path.write_bytes(header + (b"\n" if path.suffix == ".nrrd" else b"") + values.tobytes())
    return path


@pytest.mark.parametrize("name", WITHOUT_PLACE)
def test_a_header_without_a_place_in_the_patient_is_told_of(name, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        volume = read_volume(saved(tmp_path, name, WITHOUT_PLACE[name]))

    assert ["left and right may be exchanged" in record.getMessage() for record in caplog.records] == [True]
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(volume), VALUES)


@pytest.mark.parametrize("name", WITH_PLACE)
def test_a_header_with_a_place_is_not_told_of(name, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_volume(saved(tmp_path, name, WITH_PLACE[name]))

    assert caplog.records == []


@pytest.mark.parametrize("name", WITHOUT_PLACE)
def test_a_mask_without_a_place_is_not_laid_beside_its_volume(name, tmp_path):
    """Also where its voxels have the right size, it is not known where they are."""
    (tmp_path / "m").mkdir()
    labels = (VALUES > 400).astype("<i2")
    mask = read_segmentation(saved(tmp_path / "m", name, WITHOUT_PLACE[name], labels))
    elsewhere = read_volume(saved(tmp_path, "v.mha", metaimage(Offset="2 3 4")))

    with pytest.raises(InputError, match="lost its place"):
        align_segmentation(mask, elsewhere)


def test_image_and_mask_that_both_have_no_place_lie_on_each_other(tmp_path):
    header = nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3")
    volume = read_volume(saved(tmp_path, "v.nrrd", header))
    (tmp_path / "m").mkdir()

    aligned, warnings = align_segmentation(read_segmentation(saved(tmp_path / "m", "m.nrrd", header, (VALUES > 400).astype("<i2"))), volume)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(aligned.labelmap), VALUES > 400)
    assert warnings == []
