"""Outputs: never over an input, a companion of one, or each other by whatever name; whole and read back, or not there at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.support import outputs
from RAUSlicerLib.support.outputs import (
    json_text,
    put_dicom,
    require_apart,
    require_free,
    require_outside,
    require_writable,
    take_all,
    write_bytes,
    write_json,
    write_text,
    writing,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and devices are others there")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- one place by two names


# What lies in a folder, and two names of one place there. Folders end in a slash; "a -> b" is a link to b, "a = b" a hard one.
ALIASES = {
    "up and down": (["x/"], "o.json", "x/../o.json"),
    "a linked folder": (["real/", "link -> real"], "real/o.json", "link/o.json"),
    # As text `link/..` is the folder of the link; the operating system takes it for that of its target.
    "up from a linked folder": (["a/", "a/b/", "link -> a/b"], "a/o.json", "link/../o.json"),
    "a link to a file": (["o.json", "l.json -> o.json"], "o.json", "l.json"),
    "a link to nothing yet": (["l.json -> o.json"], "o.json", "l.json"),
    "a hard link": (["o.json", "h.json = o.json"], "o.json", "h.json"),
    "another case": ([], "Straße.json", "STRASSE.JSON"),
    "other accents": ([], *(unicodedata.normalize(form, "größe.json") for form in ("NFC", "NFD"))),
    "a relative path": ([], "o.json", "relative"),
}


def aliases(folder: Path, alias: str) -> tuple[Path, Path]:
    made, one, two = ALIASES[alias]
    for thing in made:
        name, how, target = thing.partition(" -> ") if "->" in thing else thing.partition(" = ")
        if name.endswith("/"):
            (folder / name).mkdir()
        elif how == " -> ":
            (folder / name).symlink_to(target)
        elif how:
            os.link(folder / target, folder / name)
        else:
            (folder / name).write_text("")
    return folder / one, Path(os.path.relpath(folder / one)) if two == "relative" else Path(f"{folder}/{two}")


@posix
@pytest.mark.parametrize("alias", ALIASES)
def test_two_outputs_are_never_one_file_by_whatever_name(tmp_path, alias):
    one, two = aliases(tmp_path, alias)
    for pair in ((one, two), (two, one)):
        with pytest.raises(OutputError, match="another output"):
            require_apart([("output", tmp_path / "free.nii"), ("file", pair[0]), ("report", pair[1])])


@posix
def test_different_places_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "ring").symlink_to("ring")
    require_apart([("output", tmp_path / name) for name in ("o.json", "p.json", "a/o.json", "ring", "o.json.gz")])


# -- inputs and what is read with them


@pytest.mark.parametrize(("there", "asked"), [("t.nii.gz", "t.nii"), ("t.nii", "t.nii.gz"), ("T.NII", "T.NII.GZ"), ("t.nii", "t.NII.GZ")])
@pytest.mark.parametrize("force", [True, False])
def test_a_compressed_nifti_never_lies_beside_one_of_its_name_that_is_not(tmp_path, there, asked, force):
    """ITK takes the voxels of the one for those of the other."""
    (tmp_path / there).write_bytes(b"x")

    with pytest.raises(OutputError, match="can't lie beside"):
        require_free(tmp_path / asked, "output", force=force, inputs=[tmp_path / there])
    with pytest.raises(OutputError, match="can't lie beside"):
        require_free(tmp_path / asked, "output", force=force)


@posix
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_whatever_has_the_name_of_the_other_nifti_is_kept_away_from(tmp_path, make):
    make(tmp_path / "t.nii")

    with pytest.raises(OutputError, match="can't lie beside"):
        require_free(tmp_path / "t.nii.gz", "output", force=True)


def test_two_outputs_are_never_one_nifti_compressed_and_not(tmp_path):
    with pytest.raises(OutputError, match="can't lie beside another output"):
        require_apart([("output", tmp_path / "o.nii.gz"), ("report", tmp_path / "." / "o.nii")])


@pytest.mark.parametrize("name", ["t.nrrd", "t.nii.json", "t2.nii", "tnii.gz"])
def test_files_that_are_no_such_pair_lie_beside_each_other(tmp_path, name):
    (tmp_path / "t.nii.gz").write_bytes(b"x")

    require_free(tmp_path / name, "output", force=False, inputs=[tmp_path / "t.nii.gz"])


@posix
@pytest.mark.parametrize("alias", ALIASES)
def test_an_input_is_known_by_whatever_name(tmp_path, alias):
    one, two = aliases(tmp_path, alias)
    one.write_text("input")
    with pytest.raises(OutputError, match="destroy the input"):
        require_free(two, "report", force=True, inputs=[one])


def test_comparing_with_inputs_needs_no_image_library(tmp_path):
    """3D Slicer's module compares while its window is drawn."""
    program = """
import sys
from pathlib import Path
from RAUSlicerLib.support.outputs import require_free
folder = Path(sys.argv[1])
for name in ("v.mhd", "v.nhdr", "v.nii.gz", "series"):
    require_free(folder / "o.md", "report", force=True, inputs=[folder / name])
print({"SimpleITK", "PIL", "numpy"} & set(sys.modules))
"""
    (tmp_path / "series").mkdir()
    for name in ("v.mhd", "v.nhdr", "v.nii.gz", "labels.json"):
        (tmp_path / name).write_text("{}")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_every_file_of_a_folder_that_is_an_input_is_one(tmp_path):
    (tmp_path / "series" / "deep").mkdir(parents=True)
    for name in ("series/1.dcm", "series/deep/2.dcm"):
        (tmp_path / name).touch()
        with pytest.raises(OutputError, match="destroy the input"):
            require_free(tmp_path / name, "output", force=True, inputs=[tmp_path / "series"])
    require_free(tmp_path / "series" / "new.dcm", "output", force=False, inputs=[tmp_path / "series"])


@pytest.mark.parametrize(
    ("header", "text", "data"),
    [
        ("v.nhdr", "NRRD0004\ntype: short\nencoding: raw\ndata file: v.raw\n\n", "v.raw"),
        ("v.nhdr", "NRRD0004\nDATAFILE: sub/v.raw.gz\nencoding: gzip\n", "sub/v.raw.gz"),
        ("v.nhdr", "NRRD0004\r\nencoding: raw\r\ndata file: LIST\r\na.raw\r\nb.raw\r\n", "b.raw"),
        ("v.nhdr", "NRRD0004\ndata file: s_%03d.raw 1 12 1\n", "s_007.raw"),
        ("v.nhdr", "NRRD0004\ndata file: a name with blanks.raw\n", "a name with blanks.raw"),
        ("v.mhd", "ObjectType = Image\nElementDataFile = v.raw\n", "v.raw"),
        ("V.MHD", "NDims = 3\nElementDataFile=v.zraw", "v.zraw"),
        ("v.mhd", "NDims = 3\nElementDataFile = LIST\na.raw\nb.raw\n", "a.raw"),
        ("v.mhd", "NDims = 3\nElementDataFile = s%d.raw 1 3 1\n", "s3.raw"),
        ("v.hdr", "", "v.img"),
        ("v.img", "", "v.hdr"),
        ("v.img.gz", "", "v.hdr.gz"),
    ],
)
def test_the_data_of_a_detached_header_is_an_input(tmp_path, header, text, data):
    (tmp_path / "sub").mkdir()
    (tmp_path / header).write_bytes(text.encode())
    (tmp_path / data).write_text("voxels")
    with pytest.raises(OutputError, match="destroy the input"):
        require_free(tmp_path / data, "file", force=True, inputs=[tmp_path / header])
    require_free(tmp_path / "free.raw", "file", force=True, inputs=[tmp_path / header])


@pytest.mark.parametrize(
    "text", [b"", b"\xff" * 4000, b"data file:\n", b"data file: a\0b\n", b"data file: %d 1 1 0\n", b"data file: % x y z\n"]
)
def test_a_header_that_is_no_header_has_no_companions(tmp_path, text):
    (tmp_path / "v.nhdr").write_bytes(text)
    require_free(tmp_path / "o.json", "file", force=True, inputs=[tmp_path / "v.nhdr", tmp_path / "absent.mhd"])


@pytest.mark.parametrize("name", ["labels.json", "Labels.JSON", "dataset.json", "../dataset.json"])
@pytest.mark.parametrize("there", [True, False])
def test_where_names_of_labels_are_read_from_nothing_is_written(tmp_path, name, there):
    folder = tmp_path / "labelsTr"
    folder.mkdir()
    (folder / "mask.nii.gz").touch()
    if there:
        (folder / name).write_text('{"1": "liver"}')
    with pytest.raises(OutputError, match=r"names of an input.s labels|destroy the input"):
        require_free(folder / name, "file", force=True, inputs=[folder / "mask.nii.gz"])
    require_free(tmp_path / "labels.json", "file", force=True, inputs=[folder / "mask.nii.gz"])


@posix
def test_a_device_or_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OutputError, match="is no file"):
            require_free(path, "file", force=True)
    (tmp_path / "to nothing").symlink_to("absent")
    with pytest.raises(OutputError, match="exists already"):
        require_free(tmp_path / "to nothing", "file", force=False)


def test_nothing_is_written_into_a_model(tmp_path):
    (tmp_path / "model" / "vlm").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("model/o.json", "model/vlm/o.json", "other/../model/vlm/o.json"):
        with pytest.raises(OutputError, match="folder of the model"):
            require_outside([("file", tmp_path / name)], [tmp_path / "model"])
    require_outside([("file", tmp_path / "other" / "o.json"), ("file", tmp_path / "o.json")], [tmp_path / "model"])


# -- whole or not there

_WRITERS = {
    "bytes": lambda path: write_bytes(path, "picture", b"x" * 50_000),
    "text": lambda path: write_text(path, "table", "ä" * 50_000),
    "json": lambda path: write_json(path, "file", ["liver"] * 10_000),
}


@pytest.mark.parametrize("writer", _WRITERS)
def test_a_write_that_falls_short_without_a_word_is_noticed(tmp_path, monkeypatch, writer):
    path = tmp_path / "o.txt"
    path.write_text("before")
    whole = Path.write_bytes
    for kept in (0, 1, 49_999):
        monkeypatch.setattr(Path, "write_bytes", lambda self, content, kept=kept: whole(self, content[:kept]) and len(content))
        with pytest.raises(OutputError, match="can't be written"):
            _WRITERS[writer](path)
        assert path.read_text() == "before" and names(tmp_path) == ["o.txt"]


def test_an_empty_file_never_takes_a_name(tmp_path):
    for make in (Path.touch, lambda _part: None):
        with pytest.raises(OutputError), writing(tmp_path / "o.nii", "output") as part:
            make(part)
    assert names(tmp_path) == []


def test_a_disk_that_says_only_at_the_end_that_it_is_full_is_heard(tmp_path, monkeypatch):
    def full(_file):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="quota"):
        write_text(tmp_path / "o.md", "report", "text")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_whatever_breaks_a_write_off_the_old_file_stays_and_nothing_else(tmp_path, error):
    (tmp_path / "o.md").write_text("before")
    with pytest.raises(error), writing(tmp_path / "o.md", "report") as part:
        part.write_text("half")
        raise error
    assert names(tmp_path) == ["o.md"] and (tmp_path / "o.md").read_text() == "before"


def _opens(part: Path) -> None:
    (part.parents[1] / "missing.dcm").open()


def _copies(part: Path) -> None:
    shutil.copyfile(part.parents[1] / "missing.dcm", part)


@pytest.mark.parametrize("read", [_opens, _copies])
def test_a_file_that_can_not_be_read_is_not_blamed_on_the_output(tmp_path, read):
    with pytest.raises(InputError) as caught, writing(tmp_path / "o.md", "report") as part:
        read(part)
    assert str(tmp_path / "missing.dcm") in caught.value.problem and "o.md" not in str(caught.value)
    assert "No such file" in caught.value.explanation and names(tmp_path) == []


@pytest.mark.parametrize("named", [(), ("part",), ("source", None, "part"), ("part", None, "source"), ("path",), (7,), (b"part",)])
def test_an_error_of_the_output_is_its_own_whatever_it_was_copied_from(tmp_path, named):
    path = tmp_path / "o.md"
    with pytest.raises(OutputError, match=r"o\.md"), writing(path, "report") as part:
        known = {"part": str(part), "path": str(path), b"part": os.fsencode(part)}
        raise OSError(errno.ENOSPC, "No space left", *(known.get(one, one) for one in named))


def test_a_dicom_object_that_was_cut_off_is_noticed(tmp_path, monkeypatch):
    whole = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: whole(self, content[:-2]))
    with pytest.raises(OSError, match="something else"):
        put_dicom(tmp_path / "o.dcm", SimpleNamespace(save_as=lambda buffer: buffer.write(b"a whole object")))  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text, and this way round")
def test_a_folder_that_is_not_utf8_is_written_to_by_a_path_that_is(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe4t\xff"))
    folder.mkdir()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/\xf6.nii.gz"))
    with writing(path, "output") as part:
        str(part).encode("utf-8")
        part.write_text("x")
    assert os.listdir(os.fsencode(folder)) == [b"\xf6.nii.gz"]
    require_writable(path, "output")
    assert os.listdir(os.fsencode(folder)) == [b"\xf6.nii.gz"]


def test_a_writer_killed_while_it_writes_leaves_nothing_after_the_next_check(tmp_path):
    program = """
import os, sys
from pathlib import Path
from RAUSlicerLib.support.outputs import writing
with writing(Path(sys.argv[1]) / "o.nii", "output") as part:
    part.write_text("half")
    os.kill(os.getpid(), 9) if os.name != "nt" else os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode != 0
    assert names(tmp_path) != []
    require_writable(tmp_path / "other.nii", "output")
    assert names(tmp_path) == []


# -- JSON and several steps


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("value", ["Größe", "肝臓", "\U0001fac0", "\udcff", "\x1b[31m\x7f\x9b\u202e\u2028", 'a "quoted" \\ one', "plain"])
def test_json_reads_back_in_every_encoding_and_steers_no_terminal(encoding, value):
    text = json_text({"name": value, value: [1.5]}, encoding)
    assert all(one.isprintable() or one == "\n" for one in text)
    assert json.loads(text.encode(encoding).decode(encoding)) == {"name": value, value: [1.5]}


def test_names_that_are_no_text_do_not_keep_a_file_from_being_written(tmp_path):
    write_json(tmp_path / "o.json", "file", {"output": "r\udce9sultat.nii"})
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8")) == {"output": "r\udce9sultat.nii"}
    write_text(tmp_path / "o.md", "report", "r\udce9sultat")
    assert (tmp_path / "o.md").read_text(encoding="utf-8") == "r\\udce9sultat"


def test_every_step_is_taken_and_every_problem_is_named():
    done = []

    def fail(error):
        raise error

    one, two = OutputError("The picture is lost.", "why", "what to do"), OutputError("The report is lost.", "other", "other")
    with pytest.raises(OutputError, match=r"The picture is lost\. The report is lost\. why what to do"):
        take_all([lambda: done.append(1), lambda: fail(one), lambda: done.append(2), lambda: fail(two), lambda: done.append(3)])
    assert done == [1, 2, 3]
    with pytest.raises(InputError):
        take_all([lambda: fail(InputError("a", "b", "c")), lambda: done.append(4)])
    with pytest.raises(ZeroDivisionError):
        take_all([lambda: fail(one), lambda: fail(ZeroDivisionError())])
    assert done == [1, 2, 3, 4]


def test_a_full_disk_is_known_before_the_work(tmp_path, monkeypatch):
    def full(_path, _content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs.Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        require_writable(tmp_path / "o.nii", "output")
    assert names(tmp_path) == []
