"""Headers of MetaImage and NRRD are taken apart as the image library does it: what it writes is read, nothing hides from the checks."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.imaging.checks import align_segmentation, check_volume
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.support.outputs import require_free

from .builders import SIZE, VOXELS, is_read, is_refused, metaimage, nrrd, slices, values, whole

FORM = {"mha": metaimage, "mhd": metaimage, "nrrd": nrrd, "nhdr": nrrd}

# What the image library writes


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
    np.save(expected, VOXELS)
    library = Library(expected)
    yield library
    library.close()


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
odd_keys = ["dim[0]", "0008|0060", "0020|4000", "a name", "ß", "pixdim[1]", "k:v", "k=v", "#", "#note", "k: v", "LIST", "sizes", "type"]
keys = st.one_of(st.sampled_from(odd_keys), st.text(characters, min_size=1, max_size=60))
odd_texts = ["MR", "ß", "肝臓", "a: b", "a := b", "a = b", "x" * 6000, "x" * 32_000, "line\nline", "line\r\nline", "\x1b[31m", "é" * 300]
texts = st.one_of(st.sampled_from(odd_texts), st.text(characters, max_size=200))


def written(path: Path, metadata: dict[str, str], **options: bool) -> Path:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((1, 2, 3))
    for key, text in metadata.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path), **options)
    return path


@pytest.mark.parametrize("name", ["v.mha", "v.mhd", "v.nrrd", "v.nhdr", "v.nii.gz"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(keys, texts, max_size=4), packed=st.booleans())
def test_what_the_image_library_writes_with_any_metadata_is_read_again(library, name, tmp_path, metadata, packed):
    path = written(tmp_path / name, metadata, useCompression=packed)
    try:
        read = read_volume(path)
    except InputError:
        assert not library.reads(path), f"a sound file is refused: {metadata}"
        return
    np.testing.assert_array_equal(values(read), VOXELS)
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
    # What follows a text of several lines in a MetaImage takes the place of its rest.
    path = written(tmp_path / name, {key: text, "zzz": "1"})

    is_read(path)
    assert len(read_segmentation(path).structures) == len(np.unique(VOXELS))


# Fields and lines


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
        *({"CompressedData": "True"}, {"HeaderSize": "-5"}, {"Comment": "y" * 100000}, {"X" * 70000: "1"}),
        # Which of two counts is for each reader to choose.
        {"more": b"NDims = 3\n"},
        *({"more": b"%s = %s\n" % (name, b"y" * 255)} for name in (b"Comment", b"Name", b"ObjectSubType", b"AcquisitionDate", b"Modality")),
        *({"more": name + b" = 1\n"} for name in (b"Color", b"SequenceID", b"k" * 499, b"\xff")),
        *({"more": name + b" =\n"} for name in (b"ID", b"ParentID", b"ElementMin")),
        *(
            {"more": line}
            for line in (b"k = " + b"v" * 32_768 + b"\n", b"NDims\0x = 9\n", b"DimSize\rx = 9 9 9\n", b"DimSize\nx = 9 9 9\n")
        ),
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_metaimage_with_a_wrong_field_is_refused(changed, tmp_path):
    is_refused(whole(tmp_path / "v.mha", metaimage(**changed)))


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
        *({"line_skip": "-1"}, {"x" * 5000: "1"}, {"labels": "c" * 3000}, {"labels": '"' + "c" * 3000 + '"'}, {"b" * 5000: "x"}),
        *({"more": line} for line in (b"k: v:=x\n", b"k\n", b"b" * 5000 + b"\n", b"\xe9:=1\n")),
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_an_nrrd_with_a_wrong_field_is_refused(changed, tmp_path):
    is_refused(whole(tmp_path / "v.nrrd", nrrd(**changed)))


@pytest.mark.parametrize(
    "line",
    [
        *(b"content: " + b"c" * 100_000, b"sample units: " + b"c" * 5000, b'labels: "' + b"x" * 3000 + b'" "y" "z \\" z"'),
        *(b"# " + b"c" * 100_000, b"# a comment: with \xff:=what is no text", b"k:v:=x", b"note:=time: 5", b"old min: nan"),
        *(b"note:=" + b"y" * 100000, b"\xc3\xa9:=1"),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_an_nrrd_with_an_unusual_but_sound_line_is_read(line, tmp_path):
    is_read(whole(tmp_path / "v.nrrd", nrrd(more=line + b"\n")))


@pytest.mark.parametrize(("form", "line"), [("mha", b"a=b\n"), ("mha", b"\n"), ("nrrd", b"a:=b\n"), ("nrrd", b"#\n"), ("nrrd", b"#\r")])
def test_a_header_of_millions_of_lines_has_no_end(form, line, tmp_path):
    began = time.monotonic()

    is_refused(whole(tmp_path / f"v.{form}", FORM[form](more=line * ((1 << 24) // len(line)))), "end")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"space_directions": "(1e300,0,0) (0,2,0) (0,0,3)"}, "so large"),
        ({"space_origin": "(0,-1e200,0)"}, "so far away"),
        ({"space_directions": "none (0,2,0) (0,0,3)"}, "no direction for an axis"),
        ({"space_directions": "(1,0,0) (0,2,0) none"}, "no direction for an axis"),
    ],
)
@pytest.mark.parametrize("kinds", ["domain domain domain", "space space space", None])
def test_axes_of_no_size_are_refused(changed, reason, kinds, tmp_path):
    is_refused(whole(tmp_path / "v.nrrd", nrrd(**changed, kinds=kinds)), reason)


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_a_list_of_one_is_a_number(kind, tmp_path):
    four = {"dimension": "4", "sizes": f"1 {' '.join(map(str, SIZE))}", "space_directions": "none (1,0,0) (0,2,0) (0,0,3)"}

    volume = is_read(whole(tmp_path / "v.nrrd", nrrd(**four, kinds=f"{kind} domain domain domain")))

    assert volume.GetSpacing() == (1, 2, 3) and check_volume(volume, "target")[1] == []


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.mha"])
def test_vectors_of_one_number_are_numbers(name, tmp_path):
    sitk.WriteImage(sitk.Compose([sitk.GetImageFromArray(VOXELS)]), str(tmp_path / name))

    check_volume(is_read(tmp_path / name), "target")


# Voxels in other files


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("LIST\ns00.raw", "lists 1 files"),
        ("LIST 3D\nwhole.raw", "lists 1 files"),
        ("LIST 9D\nwhole.raw", "lists 1 files"),
        # ITK reads all but the last, and what is in memory in its place.
        (b"LIST\n" + b"\n".join(b"s%02d.raw" % k for k in range(6)), "without a line end"),
        ("s%02d.raw 0 3 1", "names 4 files"),
        ("s%02d.raw 0 5", "pattern"),
        ("s%02d.raw 1 6 1", "not there"),
        ("s%02d.raw 0 999999 1", "names 1000000 files"),
        *((f"{pattern}", "pattern") for pattern in ("%s%s%s%s 1 10 1", "%n.raw 0 5 1", "%999999d.raw 0 5 1", "100%.raw")),
        ("short.raw", "ends after"),
        ("nothing.raw", "not there"),
        ("", "outside"),
    ],
)
def test_a_metaimage_whose_data_files_do_not_fit_is_refused(data, match, tmp_path):
    slices(tmp_path, "whole.raw")
    (tmp_path / "short.raw").write_bytes(VOXELS.tobytes()[:-2])
    (tmp_path / "v.mhd").write_bytes(metaimage(data))

    is_refused(tmp_path / "v.mhd", match)


@pytest.mark.parametrize("data", ["%s%s%s 1 10 1", "%n 0 5 1", "s%02d.raw", "LIST 2\nnothing.raw", "LIST", "short.raw", "nothing.raw"])
def test_an_nrrd_whose_data_files_do_not_fit_is_refused(data, tmp_path):
    (tmp_path / "short.raw").write_bytes(VOXELS.tobytes()[:-2])
    (tmp_path / "v.nhdr").write_bytes(nrrd(data))

    is_refused(tmp_path / "v.nhdr")


NAMES = [f"s0{k}.raw" for k in range(6)]


@pytest.mark.parametrize(
    ("form", "data", "files"),
    [
        *((form, name, [name]) for form in ("mhd", "nhdr") for name in ("whole.raw", "below/whole.raw")),
        ("mhd", "./below/../whole.raw", ["whole.raw"]),
        ("nhdr", "100%.raw", ["100%.raw"]),
        *((form, "s%02d.raw 0 5 1", NAMES) for form in ("mhd", "nhdr")),
        ("nhdr", "s%02d.raw 0 5 1 2", NAMES),
        ("nhdr", "LIST 2\n" + "\n".join(NAMES), NAMES),
        *((form, end.join(["LIST", *NAMES, ""]).encode(), NAMES) for form in ("mhd", "nhdr") for end in ("\n", "\r\n")),
    ],
)
def test_files_of_voxels_beside_a_header_are_read_and_kept(form, data, files, tmp_path):
    slices(tmp_path, "whole.raw", "below/whole.raw", "100%.raw")
    path = tmp_path / f"v.{form}"
    path.write_bytes(FORM[form](data))

    is_read(path)
    for name in files:
        with pytest.raises(OutputError, match="destroy the input"):
            require_free(tmp_path / name, "file", force=True, inputs=[path])


@pytest.mark.parametrize("form", ["mhd", "nhdr"])
@pytest.mark.parametrize(
    "name",
    ["Größe.raw".encode(), b"Gr\xf6\xdfe.raw", b"two words.raw", b"a=b.raw", b"ab:c.raw", "肝臓.raw".encode(), b"list.raw"],
    ids=repr,
)
def test_voxels_in_a_file_of_any_name_are_read_and_kept(form, name, tmp_path):
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(VOXELS.tobytes())
    except (OSError, ValueError):
        pytest.skip("this system has no such names")
    path = tmp_path / f"v.{form}"
    path.write_bytes(FORM[form](name + b"\n"))

    is_read(path)
    with pytest.raises(OutputError, match="destroy the input"):
        require_free(tmp_path / os.fsdecode(name), "file", force=True, inputs=[path])


SPELLINGS = [
    *((form, name) for form in ("mhd", "nhdr") for name in ("../secret.raw", "{folder}/secret.raw", "in/../../secret.raw")),
    *(
        (form, name)
        for form in ("mhd", "nhdr")
        for name in ("/dev/zero", "/etc/passwd", "link.raw", "linked/secret.raw", "pipe", "in", ".")
    ),
    # A carriage return ends a line of an NRRD, and blanks at its end belong to the name.
    *(("nhdr", name) for name in ("content: x\rdata file: ../secret.raw", "spaced.raw ", "LIST 3\nspaced.raw ")),
    # From what is typed, and from the folder that the program was started in.
    *(("nhdr", name) for name in ("-", "a:b.raw", "LIST 3\na:b.raw", "LIST 3\n#/../../secret.raw")),
    *(("mhd", name) for name in ("LISTEN.raw\n../secret.raw", "LoCaL", "=../secret.raw", "../secret.rawß")),
]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(("form", "name"), SPELLINGS)
def test_no_spelling_leads_to_voxels_from_elsewhere(form, name, as_list, tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    slices(folder, "spaced.raw", "LISTEN.raw", "-", "a:b.raw", "#/x", "in/x", "../secret.raw")
    for link in ("link.raw", "spaced.raw ", "LoCaL"):
        (folder / link).symlink_to(tmp_path / "secret.raw")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    name = name.format(folder=tmp_path)
    if as_list:
        if "\n" in name or "\r" in name:
            pytest.skip("it is none of a list")
        name = ("LIST\n" if form == "mhd" else "LIST 2\n") + "\n".join([name] * 6)
    header = nrrd(more=f"{name}\n".encode()) if name.startswith("content") else FORM[form](name)

    # Here, and not by the image library.
    assert "damaged" not in is_refused(whole(folder / f"v.{form}", header)).explanation


# Where the voxels of a single file are

PACKED = zlib.compress(VOXELS.tobytes())
JUNK = np.random.default_rng(4).bytes(1000)


def same_or_refused(path: Path, match: str) -> None:
    """A file is read as what it holds, or refused for this reason; nothing between."""
    try:
        volume = read_volume(path)
    except InputError as error:
        assert re.search(match, str(error)), error
    else:
        np.testing.assert_array_equal(values(volume), VOXELS)


def test_compressed_metaimage_voxels_are_all_there(tmp_path):
    """ITK returns whatever is in memory for voxels that are not."""
    path = written(tmp_path / "v.mha", {}, useCompression=True)
    content = path.read_bytes()
    (tmp_path / "cut.mha").write_bytes(content[:-300])
    (tmp_path / "more.mha").write_bytes(content.replace(b"DimSize = 8 7 6", b"DimSize = 8 7 9"))

    is_read(path)
    is_refused(tmp_path / "more.mha", "unpack to")
    is_refused(tmp_path / "cut.mha", "unpack to|damaged")


@pytest.mark.parametrize("said", [None, "0", str(len(PACKED) + 5000), str(1 << 45)])
@pytest.mark.parametrize("after", [b"", JUNK])
def test_compressed_voxels_of_no_known_length_are_never_taken_from_memory(said, after, tmp_path):
    path = whole(tmp_path / "v.mha", metaimage(CompressedData="True", CompressedDataSize=said), PACKED + after)

    error = is_refused(path, "how many bytes its compressed voxels take")

    # What it says to do helps.
    line = re.search("'CompressedDataSize = ([0-9]+)'", error.solution)
    assert line is not None and int(line[1]) == len(PACKED)
    is_read(whole(path, metaimage(CompressedData="True", CompressedDataSize=line[1]), PACKED + after))


@pytest.mark.parametrize("data", ["LOCAL", "v.zraw"])
@pytest.mark.parametrize("said", [None, "0", "1", str(len(PACKED) - 50), str(len(PACKED)), str(len(PACKED) + 3), str(len(PACKED) + 9000)])
@pytest.mark.parametrize("header_size", [None, "0", "-1", "10", "4"])
@pytest.mark.parametrize("longer", [False, True])
def test_compressed_voxels_are_read_rightly_or_refused(data, said, header_size, longer, tmp_path):
    packed = zlib.compress(VOXELS.tobytes() + bytes(500)) if longer else PACKED
    header = metaimage(data, CompressedData="True", CompressedDataSize=said, HeaderSize=header_size)
    (tmp_path / "v.zraw").write_bytes((b"1234" if header_size == "4" and data != "LOCAL" else b"") + packed)

    same_or_refused(whole(tmp_path / "v.mha", header, packed if data == "LOCAL" else b""), "compressed|unpack|begin")


@pytest.mark.parametrize("size", ["10", "-1", "100000", "exact"])
@pytest.mark.parametrize("after", [b"", JUNK])
def test_voxels_behind_a_header_are_read_from_there_or_not_at_all(size, after, tmp_path):
    size = str(len(metaimage(HeaderSize="1000")) - 1) if size == "exact" else size

    same_or_refused(whole(tmp_path / "v.mha", metaimage(HeaderSize=size), VOXELS.tobytes() + after), "begin elsewhere")


@pytest.mark.parametrize("skip", ["-1", "2147000000", "5000000"])
@pytest.mark.parametrize("data", [None, "v.raw.gz"])
def test_nothing_is_unpacked_without_end_to_reach_the_voxels(skip, data, tmp_path):
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush()
    (tmp_path / "v.raw.gz").write_bytes(bomb)

    is_refused(whole(tmp_path / "v.nrrd", nrrd(data, encoding="gzip", byte_skip=skip), bomb), "far more than its voxels")


@pytest.mark.parametrize("skip", ["-1", "7"])
def test_a_short_skip_is_followed(skip, tmp_path):
    is_read(whole(tmp_path / "v.nrrd", nrrd(encoding="gzip", byte_skip=skip), gzip.compress(b"1234567" + VOXELS.tobytes())))


@pytest.mark.parametrize("sizes", ["8 7 6", "1000 1000 4000"])
def test_bzip2_is_refused_as_such(sizes, tmp_path):
    path = whole(tmp_path / "v.nrrd", nrrd(encoding="bzip2", sizes=sizes), bz2.compress(VOXELS.tobytes()))

    assert "gzip or raw" in is_refused(path, "bzip2").solution


# Headers that say nothing of the patient

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


@pytest.mark.parametrize("name", [*WITHOUT_PLACE, *WITH_PLACE])
def test_a_header_without_a_place_in_the_patient_is_told_of(name, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        is_read(whole(tmp_path / f"v.{name.rpartition('.')[2]}", (WITHOUT_PLACE | WITH_PLACE)[name]))

    told = ["left and right may be exchanged" in record.getMessage() for record in caplog.records]
    assert told == ([True] if name in WITHOUT_PLACE else [])


@pytest.mark.parametrize("name", WITHOUT_PLACE)
def test_a_mask_without_a_place_is_not_laid_beside_its_volume(name, tmp_path):
    """Also where its voxels have the right size, it is not known where they are."""
    mask = read_segmentation(whole(tmp_path / f"m.{name.rpartition('.')[2]}", WITHOUT_PLACE[name], (VOXELS > 400).astype("<i2")))
    elsewhere = read_volume(whole(tmp_path / "v.mha", metaimage(Offset="2 3 4")))

    with pytest.raises(InputError, match="lost its place"):
        align_segmentation(mask, elsewhere)


def test_image_and_mask_that_both_have_no_place_lie_on_each_other(tmp_path):
    header = WITHOUT_PLACE["spacings.nrrd"]
    mask = read_segmentation(whole(tmp_path / "m.nrrd", header, (VOXELS > 400).astype("<i2")))

    aligned, warnings = align_segmentation(mask, read_volume(whole(tmp_path / "v.nrrd", header)))

    np.testing.assert_array_equal(values(aligned.labelmap), VOXELS > 400)
    assert warnings == []
