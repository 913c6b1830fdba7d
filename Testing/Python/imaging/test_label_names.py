"""Names of structures from tables that other programs leave in or beside a label map."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.imaging.files import read_segmentation
from RAUSlicerLib.imaging.label_names import find_names

LABELS = (1, 2, 3)
NAMES = ["right ventricle", "myocardium", "left ventricle"]

SNAP = """################################################
# ITK-SnAP Label Description File
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "right ventricle"
    2     0  255    0        1  1  1    "myocardium"
    3     0    0  255      0.5  1  1    "left ventricle"
"""
CTBL = """# Color table file
# 4 values
0 Background 0 0 0 0
1 right_ventricle 255 0 0 255
2 myocardium 0 255 0 255
3 left_ventricle 0 0 255 255
"""
FREESURFER = """#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
1   right_ventricle                         70  130 180 0
2   myocardium                              245 245 245 0
3   left_ventricle                          205 62  78  0
4   something_else                          205 62  79  0
"""
BIDS = "index\tname\tcolor\n0\tbackground\t#000000\n1\tright ventricle\t#ff0000\n2\tmyocardium\t#00ff00\n3\tleft ventricle\t#0000ff\n"
BY_VALUE = {"0": "background", "1": NAMES[0], "2": NAMES[1], "3": NAMES[2]}
BY_NAME = {"background": 0, NAMES[0]: 1, NAMES[1]: 2, NAMES[2]: 3}


def caret(names: list[str], head: str = "") -> bytes:
    """The label table that TotalSegmentator puts into a NIfTI header."""
    labels = "".join(
        f'<Label Key="{k}" Red="0.1" Green="0.2" Blue="0.3" Alpha="1"><![CDATA[{name}]]></Label>\n' for k, name in enumerate(names, start=1)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?> {head}<CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>
        <VolumeInformation Index="0">   <LabelTable>{labels}</LabelTable> <VolumeType><![CDATA[Label]]></VolumeType>
        </VolumeInformation></CaretExtension>""".encode()


def mask_in(folder: Path, name: str = "case_001.nii.gz", labels: tuple[int, ...] = LABELS) -> Path:
    array = np.zeros((4, 5, 6), np.uint16)
    array.flat[: len(labels)] = labels
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name))
    return folder / name


def with_extension(path: Path, text: bytes) -> None:
    """Put an extension into the header of a NIfTI file that is not compressed."""
    content = path.read_bytes()
    block = text + b"\0" * (-(len(text) + 8) % 16)
    header = bytearray(content[:348])
    header[108:112] = np.float32(352 + 8 + len(block)).tobytes()
    path.write_bytes(bytes(header) + b"\x01\0\0\0" + np.array([len(block) + 8, 0], "<i4").tobytes() + block + content[352:])


def names_of(path: Path) -> list[str]:
    return [structure.name for structure in read_segmentation(path).structures]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", json.dumps({"1": NAMES[0], "2": NAMES[1], "3": NAMES[2]})),
        ("labels.json", json.dumps(BY_NAME)),
        ("labels.json", json.dumps({"labels": BY_NAME})),
        ("labels.json", "\ufeff" + json.dumps(BY_VALUE)),
        ("dataset.json", json.dumps({"labels": BY_NAME, "channel_names": {"0": "MR"}, "numTraining": 3, "file_ending": ".nii.gz"})),
        ("dataset.json", json.dumps({"labels": BY_VALUE, "modality": {"0": "MR"}, "name": "heart"})),
        ("../dataset.json", json.dumps({"labels": BY_NAME})),
        ("case_001.label", SNAP),
        ("itksnap_labels.txt", SNAP),
        ("heart.ctbl", CTBL),
        ("FreeSurferColorLUT.txt", FREESURFER),
        ("case_001_dseg.tsv", BIDS),
    ],
)
@pytest.mark.parametrize("name", ["case_001.nii.gz", "case_001.nrrd", "case_001.mha"])
def test_structures_get_the_names_of_the_table_beside_them(file, content, name, tmp_path, caplog):
    folder = tmp_path / "labelsTr"
    folder.mkdir()
    (folder / file).write_text(content, encoding="utf-8")

    assert names_of(mask_in(folder, name)) == NAMES
    assert caplog.text == ""


def test_regions_name_the_values_that_are_most_their_own(tmp_path):
    """As nnU-Net has it for brain tumours: a region lists the values that it is made of."""
    labels = {"background": 0, "tumour core": [2, 3], "whole tumour": [1, 2, 3], "enhancing tumour": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2, 3]}))

    assert names_of(mask_in(tmp_path)) == ["whole tumour", "tumour core", "enhancing tumour"]


@pytest.mark.parametrize("packed", [False, True])
def test_names_in_the_header_count_first(packed, tmp_path):
    path = mask_in(tmp_path, "case_001.nii")
    with_extension(path, caret(NAMES))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "a", "2": "b", "3": "c"}))
    if packed:
        import gzip

        (tmp_path / "case_001.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "case_001.nii.gz"

    assert names_of(path) == NAMES


def test_the_table_that_knows_the_values_is_taken(tmp_path, caplog):
    """The folder's labels.json belongs to another task."""
    (tmp_path / "labels.json").write_text(json.dumps({"1": "lung", "104": "trachea"}))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": BY_NAME}))

    assert names_of(mask_in(tmp_path)) == NAMES
    assert caplog.text == ""


def test_tables_that_contradict_each_other_are_told(tmp_path, caplog):
    (tmp_path / "labels.json").write_text(json.dumps(BY_NAME))
    (tmp_path / "heart.ctbl").write_text(CTBL)
    assert names_of(mask_in(tmp_path)) == NAMES
    assert caplog.text == ""
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"lung": 1, "liver": 2, "spleen": 3}}))

    assert names_of(mask_in(tmp_path)) == NAMES
    assert "different names" in caplog.text and "'dataset.json'" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *(b"{broken", b'{"3": {"name": "liver"}}', b"", b"\xff\xfe\x00"),
        *(b'{"liver": NaN}', b'{"liver": Infinity}', b'{"liver": 1e400}', b'{"liver": 1.5}', b'{"liver": true}', b'{"liver": -1}'),
        *(b'{"liver": ' + b"9" * 6000 + b"}", b"[" * 200000, b'{"a":' * 100000, b'{"1": NaN}', b'{"1": 5}', b'{"liver": [1, NaN]}'),
        *(
            b'{"labels": {"liver": [[1]]}}',
            b'{"labels": {"liver": [[1]], "3": 1}}',
            b'{"' + b"9" * 5000 + b'": "liver"}',
            b'{"4294967296": "liver"}',
        ),
    ],
    ids=lambda content: content[:20],
)
@pytest.mark.parametrize("file", ["labels.json", "dataset.json"])
def test_a_damaged_document_spoils_nothing(content, file, tmp_path, caplog):
    if file == "dataset.json" and content.startswith(b'{"') and not content.startswith((b'{"labels"', b'{"a":{')):
        content = b'{"labels": ' + content + b"}"
    (tmp_path / file).write_bytes(content)
    assert names_of(mask_in(tmp_path)) == ["label 1", "label 2", "label 3"]
    assert file in caplog.text
    other = "labels.json" if file != "labels.json" else "dataset.json"
    (tmp_path / other).write_text(json.dumps({"labels": BY_NAME}))

    assert names_of(mask_in(tmp_path)) == NAMES


@pytest.mark.parametrize("file", ["case_001.label", "heart.ctbl", "x_dseg.tsv"])
@pytest.mark.parametrize("content", [b"1 liver 1 2 3 4\nno row\n", b"index\tname\n1.5\tliver\n", b'1 1 2 3 1 1 1 "liver"\n\xff\xfe\n'])
def test_a_damaged_table_spoils_nothing(content, file, tmp_path, caplog):
    (tmp_path / file).write_bytes(content)
    assert names_of(mask_in(tmp_path)) == ["label 1", "label 2", "label 3"]
    assert file in caplog.text
    caplog.clear()
    (tmp_path / "labels.json").write_text(json.dumps({"labels": BY_NAME}))

    assert names_of(mask_in(tmp_path)) == NAMES
    # Nothing is missing any more.
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("labels.json", text) for text in (b"[1, 2]", b"{}", b"null", b'{"total": {"3": "liver"}}', b'{"labels": "x"}')),
        ("labels.json", b'{"version": "5.0", "flags": {}, "shapes": [{"label": "cat"}], "imageHeight": 512}'),
        ("labels.json", b'{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}'),
        ("dataset.json", b'{"name": "prices", "resources": [{"path": "a.csv"}]}'),
        ("dataset.json", b'{"1": "a"}'),
        ("../dataset.json", b'{"title": "any", "year": 2020}'),
        ("labels.txt", b"cat\ndog\n"),
        ("notes_labels.txt", b"The labels were drawn by two readers.\n"),
        ("lh.cortex.label", b"#!ascii label , from subject bert\n2\n0 -1.5 2.5 3.5 0.0\n1 -1.6 2.6 3.6 0.0\n"),
        ("fire.lut", bytes(range(256)) * 3),
        ("heart.ctbl", b""),
        ("x_dseg.tsv", b"onset\tduration\n1.5\t2\n"),
    ],
)
def test_a_file_that_is_about_something_else_is_passed_over_without_a_word(file, content, tmp_path, caplog):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / file).write_bytes(content)
    assert names_of(mask_in(folder)) == ["label 1", "label 2", "label 3"]
    assert caplog.text == ""


def test_a_table_in_western_european_letters_is_read(tmp_path):
    (tmp_path / "heart.ctbl").write_bytes(
        "".join(f"{n} {name} 1 2 3 255\n" for n, name in ((1, "Dr\u00fcse"), (2, "Gro\u00df"), (3, "c"))).encode("cp1252")
    )
    assert names_of(mask_in(tmp_path)) == ["Dr\u00fcse", "Gro\u00df", "c"]


def test_a_table_that_is_no_file_or_huge_spoils_nothing(tmp_path, caplog):
    (tmp_path / "labels.json").mkdir()
    os.mkfifo(tmp_path / "dataset.json")
    with (tmp_path / "heart.ctbl").open("wb") as file:
        file.truncate(1 << 33)

    assert names_of(mask_in(tmp_path)) == ["label 1", "label 2", "label 3"]
    assert "too large" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        caret(NAMES, '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>').replace(
            b"<CaretExtension>", b"<CaretExtension>&b;"
        ),
        caret(NAMES).replace(b"</Label>", b""),
        caret(NAMES).replace(b'Key="1"', b'Key="nan"'),
        caret(NAMES).replace(b"<LabelTable>", b'<LabelTable><!ENTITY x SYSTEM "file:///etc/passwd">'),
    ],
)
def test_a_damaged_table_in_the_header_spoils_nothing(text, tmp_path, caplog):
    path = mask_in(tmp_path, "case_001.nii")
    with_extension(path, text)

    assert names_of(path) == ["label 1", "label 2", "label 3"]
    assert "case_001.nii" in caplog.text


@pytest.mark.parametrize("name", ["li\x1b[31mver", "liver\r\nx", "\u202erevil", "li\x9bver", "li\ud800ver"])
def test_names_hold_nothing_that_a_terminal_obeys(name, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"1": name, "2": "b", "3": "c"}))

    found = names_of(mask_in(tmp_path))[0]

    assert found.isprintable()
    assert "ver" in found or "revil" in found


def test_labels_of_any_size_have_names(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"997": "root", "614454277": "supraoculomotor", "4294967295": "last"}))

    path = tmp_path / "seg.nrrd"
    array = np.zeros((4, 5, 6), np.uint32)
    array.flat[:3] = (997, 614454277, 4294967295)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))

    assert names_of(path) == ["root", "supraoculomotor", "last"]


@pytest.mark.parametrize(
    "line", ["1" + " " * 60_000 + "x", "1 a" + " 1" * 60_000 + " x", '1 0 0 0 1 1 1 "' + '" ' * 60_000, "1 " + "a " * 60_000]
)
def test_a_long_line_of_a_table_is_read_at_once(tmp_path, line, in_time):
    # A pattern that goes back for each blank takes minutes, and a table may have megabytes.
    (tmp_path / "labels.txt").write_text("1 liver 0 0 0 255\n" + line)
    assert find_names(tmp_path / "seg.nrrd", [1]) == {}
