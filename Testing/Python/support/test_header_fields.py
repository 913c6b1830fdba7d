"""Headers are taken apart as the image library does it: what it writes is read again, and nothing hides from the checks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.support.outputs import require_free

VALUES = np.random.default_rng(0).integers(1, 900, (4, 3, 5)).astype("<i2")
METAIMAGE = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n%s"
    b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 2 3\nDimSize = 5 3 4\nElementType = MET_SHORT\n"
)
NRRD = (
    b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 3 4\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n"
    b"kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n"
)

characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
# Longer names, and line breaks in names, do not survive the image library's own writing.
keys = st.one_of(
    st.sampled_from(
        ["dim[0]", "0008|0060", "0020|4000", "a name", "ß", "pixdim[1]", "k:v", "k=v", "#", "#note", "k: v", "LIST", "sizes", "type"]
    ),
    st.text(characters, min_size=1, max_size=60),
)
texts = st.one_of(
    st.sampled_from(
        ["MR", "ß", "肝臓", "a: b", "a := b", "a = b", "x" * 6000, "x" * 32_000, "line\nline", "line\r\nline", "\x1b[31m", "é" * 300]
    ),
    st.text(characters, max_size=200),
)


def image() -> sitk.Image:
    made = sitk.GetImageFromArray(VALUES)
    made.SetSpacing((1, 2, 3))
    return made


def refused(path: Path, match: str = "can't be read") -> None:
    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError, match=match):
            read(path)


class Library:
    """The image library in a process of its own: of some files that it has written itself it dies."""

    _CODE = """
import sys
import numpy, SimpleITK
for line in sys.stdin:
    try:
        image = SimpleITK.ReadImage(line[:-1])
        [image.GetMetaData(key) for key in image.GetMetaDataKeys()]
        print(numpy.array_equal(SimpleITK.GetArrayFromImage(image), numpy.load(sys.argv[1])), flush=True)
    except Exception:
        print(False, flush=True)
"""

    def __init__(self, expected: Path) -> None:
        self._expected = expected
        self._process: subprocess.Popen[str] | None = None

    def reads(self, path: Path) -> bool:
        """Whether it reads back what it has written."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", self._CODE, str(self._expected)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
        return answer.strip() == "True"

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    expected = tmp_path_factory.mktemp("library") / "expected.npy"
    np.save(expected, VALUES)
    library = Library(expected)
    yield library
    library.close()


@pytest.mark.parametrize("name", ["v.mha", "v.mhd", "v.nrrd", "v.nhdr", "v.nii.gz"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(keys, texts, max_size=4), packed=st.booleans())
def test_what_the_image_library_writes_with_any_metadata_is_read_again(library, name, tmp_path, metadata, packed):
    written = image()
    for key, text in metadata.items():
        written.SetMetaData(key, text)
    path = tmp_path / name
    sitk.WriteImage(written, str(path), useCompression=packed)
    try:
        read = read_volume(path)
    except InputError:
        assert not library.reads(path), f"a sound file is refused: {metadata}"
        return
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), VALUES)
    np.testing.assert_allclose(read.GetSpacing(), (1, 2, 3))


@pytest.mark.parametrize("name", ["v.mha", "v.nrrd"])
@pytest.mark.parametrize(
    ("key", "text"),
    [
        *((key, "a") for key in ("dim[0]", "0008|0060", "two words", "ß", "a:b", "k" * 300)),
        *(("note", text) for text in ("ß", "\x1b[31m", "time: 5", "x" * 6000, "x" * 32_767)),
        ("0020|4000", "first line\nsecond line"),
    ],
)
def test_metadata_of_other_programs_keeps_no_image_from_being_read(name, key, text, tmp_path):
    written = image()
    # What follows a text of several lines in a MetaImage takes the place of its rest.
    for one, value in ((key, text), ("zzz", "1")):
        written.SetMetaData(one, value)
    sitk.WriteImage(written, str(tmp_path / name))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / name)), VALUES)
    assert len(read_segmentation(tmp_path / name).structures) == len(np.unique(VALUES))


@pytest.mark.parametrize(
    "line",
    [
        b"content: " + b"c" * 100_000,
        b"sample units: " + b"c" * 5000,
        b'labels: "' + b"x" * 3000 + b'" "y" "z \\" z"',
        b"# " + b"c" * 100_000,
        b"# a comment: with \xff:=what is no text",
        b"k:v:=x",
        b"note:=time: 5",
        b"old min: nan",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_an_nrrd_with_an_unusual_but_sound_line_is_read(line, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(NRRD + line + b"\n\n" + VALUES.tobytes())

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.nrrd")), VALUES)


@pytest.mark.parametrize(
    "line", [b"labels: " + b"c" * 3000, b'labels: "' + b"c" * 3000 + b'"', b"k: v:=x", b"k", b"b" * 5000, b"b" * 5000 + b": x"]
)
def test_an_nrrd_with_a_line_that_the_image_library_would_fall_over_is_refused(line, tmp_path):
    (tmp_path / "v.nrrd").write_bytes(NRRD + line + b"\n\n" + VALUES.tobytes())

    refused(tmp_path / "v.nrrd")


@pytest.mark.parametrize(
    "line",
    [
        *(name + b" = " + b"y" * 255 + b"\n" for name in (b"Comment", b"Name", b"ObjectSubType", b"AcquisitionDate", b"Modality")),
        *(name + b" = 1\n" for name in (b"Color", b"SequenceID")),
        *(name + b" =\n" for name in (b"ID", b"ParentID", b"ElementMin")),
        b"k" * 499 + b" = 1\n",
        b"k = " + b"v" * 32_768 + b"\n",
        b"\xff = 1\n",
        b"NDims\0x = 9\n",
        b"DimSize\rx = 9 9 9\n",
        b"DimSize\nx = 9 9 9\n",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_metaimage_with_a_line_that_the_image_library_would_fall_over_is_refused(line, tmp_path):
    (tmp_path / "v.mha").write_bytes(METAIMAGE % line + b"ElementDataFile = LOCAL\n" + VALUES.tobytes())

    refused(tmp_path / "v.mha")


@pytest.mark.parametrize(
    ("name", "line"), [("v.mha", b"a=b\n"), ("v.mha", b"\n"), ("v.nrrd", b"a:=b\n"), ("v.nrrd", b"#\n"), ("v.nrrd", b"#\r")]
)
def test_a_header_of_millions_of_lines_has_no_end(name, line, tmp_path):
    start = METAIMAGE % b"" if name == "v.mha" else NRRD
    (tmp_path / name).write_bytes(start + line * ((1 << 24) // len(line)) + b"\n" + VALUES.tobytes())
    began = time.monotonic()

    refused(tmp_path / name, "end")
    assert time.monotonic() - began < 30


def detached(folder: Path, form: str, names: bytes) -> Path:
    path = folder / f"v.{form}"
    path.write_bytes(METAIMAGE % b"" + b"ElementDataFile = " + names if form == "mhd" else NRRD + b"data file: " + names)
    return path


@pytest.mark.parametrize("form", ["mhd", "nhdr"])
@pytest.mark.parametrize(
    "name",
    ["Gr\u00f6\u00dfe.raw".encode(), b"Gr\xf6\xdfe.raw", b"two words.raw", b"a=b.raw", b"ab:c.raw", "肝臓.raw".encode(), b"list.raw"],
    ids=repr,
)
def test_voxels_in_a_file_of_any_name_are_read_and_kept(form, name, tmp_path):
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(VALUES.tobytes())
    except (OSError, ValueError):
        pytest.skip("this system has no such names")
    path = detached(tmp_path, form, name + b"\n")

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VALUES)
    with pytest.raises(OutputError, match="destroy the input"):
        require_free(tmp_path / os.fsdecode(name), "file", force=True, inputs=[path])


def test_a_percent_sign_alone_makes_no_pattern_in_an_nrrd(tmp_path):
    (tmp_path / "100%.raw").write_bytes(VALUES.tobytes())

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(detached(tmp_path, "nhdr", b"100%.raw\n"))), VALUES)


@pytest.mark.parametrize("form", ["mhd", "nhdr"])
@pytest.mark.parametrize(
    "names",
    [
        b"LIST\n" + b"".join(b"s%d.raw\n" % k for k in range(4)),
        b"s%d.raw 0 3 1\n",
        b"LIST\r\n" + b"".join(b"s%d.raw\r\n" % k for k in range(4)),
    ],
)
def test_each_of_several_files_of_voxels_is_read_and_kept(form, names, tmp_path):
    for k, plane in enumerate(VALUES):
        (tmp_path / f"s{k}.raw").write_bytes(plane.tobytes())
    path = detached(tmp_path, form, names)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VALUES)
    for k in range(4):
        with pytest.raises(OutputError, match="destroy the input"):
            require_free(tmp_path / f"s{k}.raw", "file", force=True, inputs=[path])


def test_the_last_of_a_list_without_a_line_end_is_not_left_out_in_silence(tmp_path):
    """ITK reads all but the last, and what is in memory in its place."""
    for k, plane in enumerate(VALUES):
        (tmp_path / f"s{k}.raw").write_bytes(plane.tobytes())

    refused(detached(tmp_path, "mhd", b"LIST\n" + b"\n".join(b"s%d.raw" % k for k in range(4))), "without a line end")


@pytest.mark.parametrize(
    ("form", "names"),
    [
        # A carriage return ends a line of an NRRD, and blanks at its end belong to the name.
        ("nhdr", b"inside.raw\rcontent: x"),
        ("nhdr", b"link.raw \n"),
        ("nhdr", b"LIST 3\nlink.raw \n"),
        # From what is typed, and from the folder that the program was started in.
        ("nhdr", b"-\n"),
        ("nhdr", b"a:b.raw\n"),
        ("nhdr", b"LIST 3\na:b.raw\n"),
        ("nhdr", b"LIST 3\n#/../../secret.raw\n"),
        ("mhd", b"LISTEN.raw\n../secret.raw\n"),
        ("mhd", b"LoCaL\n"),
        ("mhd", b"=../secret.raw\n"),
        ("mhd", b"../secret.raw\xc3\x9f\n"),
    ],
)
def test_no_spelling_leads_to_voxels_from_elsewhere(form, names, tmp_path):
    folder = tmp_path / "case"
    (folder / "#").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    for name in ("inside.raw", "link.raw", "LISTEN.raw", "-", "a:b.raw"):
        (folder / name).write_bytes(VALUES.tobytes())
    for name in ("link.raw ", "LoCaL"):
        (folder / name).symlink_to(tmp_path / "secret.raw")
    path = detached(folder, form, names)
    if b"\r" in names:
        path.write_bytes(path.read_bytes().replace(b"data file: inside.raw\rcontent: x", b"content: x\rdata file: ../secret.raw"))

    refused(path)


@pytest.mark.parametrize("kind", ["1", "P 1", "P 2", "P 8"])
@pytest.mark.parametrize("side", [90, 3000])
def test_a_picture_of_few_colors_is_read_however_well_it_is_packed(kind, side, tmp_path):
    mode, _, bits = kind.partition(" ")
    values = np.zeros((side, side), np.uint8)
    values[side // 3 : side // 2] = 1
    picture = Image.fromarray(values * 255).convert("1") if mode == "1" else Image.fromarray(values)
    if mode == "P":
        picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "v.png", optimize=True, **({"bits": int(bits)} if bits else {}))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "v.png"))[0], values * 255)
    assert len(read_segmentation(tmp_path / "v.png").structures) == 1
