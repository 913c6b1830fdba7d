"""NIfTI as programs write it: two geometries or none, askew, of either version, compressed or not, cut, and with numbers that are none."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import align_segmentation, check_volume
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
from RAUSlicerLib.imaging.grids import index_to_world, same_grid

from .builders import same_image
from .builders import values as values_of

SIZES = (40, 36, 6)
STEPS = (1.0, 2.0, 3.0)
VALUES = np.random.default_rng(3).integers(0, 500, SIZES[::-1]).astype("<i2")
NAN, INF = float("nan"), float("inf")

Affine = Sequence[Sequence[float]]


def rows(x: float, y: float, z: float, steps: Sequence[float] = STEPS) -> list[list[float]]:
    """An sform in RAS that points along LPS, with the first voxel there."""
    return [[-steps[0], 0, 0, x], [0, -steps[1], 0, y], [0, 0, steps[2], z]]


def nifti(
    sform: Affine | None = None,
    qform: Sequence[float] | None = None,
    *,
    codes: tuple[int, int] = (1, 1),
    values: np.ndarray = VALUES,
    version: int = 1,
    order: str = "<",
    pixdim: Sequence[float] = STEPS,
    scaling: tuple[float, float] = (1.0, 0.0),
    units: int = 2,
    dims: Sequence[int] | None = None,
    offset: float | None = None,
) -> bytes:
    """A NIfTI file; ``qform`` is (b, c, d, x, y, z), ``codes`` are those of qform and sform where there are such."""
    kinds = {"i2": 4, "f4": 16, "f8": 64, "u1": 2, "i4": 8, "u4": 768, "u2": 512, "i8": 1024, "u8": 1280}
    kind = kinds[values.dtype.str[1:]]
    dims = list(dims if dims is not None else (values.ndim, *values.shape[::-1]))
    dims += [1] * (8 - len(dims))
    pixdims = (1.0, *pixdim, *[1.0] * (7 - len(pixdim)))
    code = (codes[0] if qform is not None else 0, codes[1] if sform is not None else 0)
    places = (*(qform if qform is not None else [0.0] * 6), *np.ravel(sform if sform is not None else np.zeros((3, 4))))
    header = bytearray(352 if version == 1 else 544)
    if version == 1:
        struct.pack_into(order + "i", header, 0, 348)
        struct.pack_into(order + "8h", header, 40, *dims)
        struct.pack_into(order + "2h", header, 70, kind, values.itemsize * 8)
        struct.pack_into(order + "8f", header, 76, *pixdims)
        struct.pack_into(order + "3f", header, 108, 352.0 if offset is None else offset, *scaling)
        header[123] = units
        struct.pack_into(order + "2h", header, 252, *code)
        struct.pack_into(order + "18f", header, 256, *places)
        header[344:348] = b"n+1\0"
    else:
        struct.pack_into(order + "i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", kind, values.itemsize * 8)
        struct.pack_into(order + "8q", header, 16, *dims)
        struct.pack_into(order + "8d", header, 104, *pixdims)
        struct.pack_into(order + "q2d", header, 168, 544 if offset is None else int(offset), *scaling)
        struct.pack_into(order + "2i", header, 344, *code)
        struct.pack_into(order + "18d", header, 352, *places)
        struct.pack_into(order + "i", header, 500, units)
    return bytes(header) + values.astype(values.dtype.newbyteorder(order)).tobytes()


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


Q = (0.0, 0.0, 1.0)
LABELS = np.where(VALUES > 400, 2, VALUES > 200).astype("u1")


def the_pair(tmp_path: Path, image: bytes, mask: bytes) -> tuple[np.ndarray, list[str]]:
    """What a mask becomes on its image, and what is said of both."""
    volume, said = check_volume(read_volume(save(tmp_path / "v.nii.gz", image)), "reference")
    aligned, more = align_segmentation(read_segmentation(save(tmp_path / "m.nii.gz", mask), volume), volume)
    assert same_grid(aligned.labelmap, volume)
    return values_of(aligned.labelmap), [*said, *more]


# Two geometries of one header


@pytest.mark.parametrize(("codes", "used"), [((1, 1), "sform"), ((1, 2), "qform"), ((2, 2), "qform"), ((2, 1), "sform"), ((1, 4), "qform")])
@pytest.mark.parametrize("version", [1, 2])
def test_a_volume_with_two_places_is_read_by_one_and_it_is_said_which(codes, used, version, tmp_path):
    content = nifti(rows(7, 8, 9), (*Q, -3, 4, 5), codes=codes, version=version)

    volume, warnings = check_volume(read_volume(save(tmp_path / "v.nii.gz", content)), "target")

    assert volume.GetOrigin() == pytest.approx((-7, -8, 9) if used == "sform" else (3, -4, 5))
    assert len(warnings) == 1
    assert f"that by {used} was used" in warnings[0] and "11.5 mm" in warnings[0] and "target" in warnings[0]


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_two_places_that_differ_by_rounding_are_one(shift, tmp_path):
    content = nifti(rows(7 + shift, 8, 9), (*Q, 7, 8, 9), codes=(1, 2))

    assert check_volume(read_volume(save(tmp_path / "v.nii", content)), "target")[1] == []


def test_places_that_differ_only_far_from_the_first_voxel_are_two(tmp_path):
    """Half a degree moves the far corner of this volume by a third of a millimetre."""
    c, s = np.cos(np.radians(0.5)), np.sin(np.radians(0.5))
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(rows(7, 8, 9))

    volume = read_volume(save(tmp_path / "v.nii", nifti(np.c_[turned[:, :3], (7, 8, 9)], (*Q, 7, 8, 9), codes=(1, 2))))

    assert "two places" in check_volume(volume, "target")[1][0]


def test_voxel_sizes_that_an_sform_contradicts_are_told(tmp_path):
    volume = read_volume(save(tmp_path / "v.nii", nifti(rows(7, 8, 9, (2.0, 4.0, 6.0)))))

    assert "pixdim" in check_volume(volume, "target")[1][0]


IMAGE = nifti(rows(7, 8, 9), (*Q, -30, 4, 5), codes=(1, 2))


@pytest.mark.parametrize(
    "mask",
    [
        nifti(rows(7, 8, 9), values=LABELS, codes=(0, 2)),
        nifti(rows(-30, 4, 5), (*Q, -30, 4, 5), values=LABELS),
        nifti(None, (*Q, -30, 4, 5), values=LABELS),
        nifti(rows(7, 8, 9), (*Q, -30, 4, 5), values=LABELS, codes=(1, 2)),
        # ITK takes the other one of the same two here.
        nifti(rows(7, 8, 9), (*Q, -30, 4, 5), values=LABELS, codes=(1, 1)),
        nifti(rows(7, 8, 9), (*Q, -30, 4, 5), values=LABELS, codes=(2, 1), version=2),
    ],
    ids=["sform only", "both as qform", "qform only", "as the image", "by the other", "NIfTI-2"],
)
def test_image_and_mask_are_placed_by_the_same(mask, tmp_path):
    labels, said = the_pair(tmp_path, IMAGE, mask)

    np.testing.assert_array_equal(labels, LABELS)
    assert any("two places" in sentence for sentence in said)


def test_a_mask_of_a_part_follows_its_image(tmp_path):
    """A mask of some of the slices, saved by the sform of an image that is read by its qform."""
    labels, _ = the_pair(tmp_path, IMAGE, nifti(rows(7, 8, 9 + 2 * 3), values=LABELS[2:5], codes=(0, 2)))

    expected = np.zeros_like(LABELS)
    expected[2:5] = LABELS[2:5]
    np.testing.assert_array_equal(labels, expected)


def test_a_mask_with_two_places_is_read_by_that_of_its_image(tmp_path):
    labels, said = the_pair(tmp_path, nifti(rows(7, 8, 9)), nifti(rows(7, 8, 9), (*Q, -30, 4, 5), values=LABELS, codes=(1, 2)))

    np.testing.assert_array_equal(labels, LABELS)
    assert any("segmentation" in sentence and "placed by sform" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (IMAGE, nifti(rows(1, 2, 3), values=LABELS)),
        (nifti(rows(7, 8, 9)), nifti(rows(1, 2, 3), (*Q, 2.5, 1.5, 0.5), values=LABELS, codes=(1, 2))),
        (IMAGE, nifti(rows(1, 2, 3), (*Q, 2.5, 1.5, 0.5), values=LABELS, codes=(1, 2))),
    ],
)
def test_a_mask_that_no_place_brings_onto_its_image_is_refused(image, mask, tmp_path):
    with pytest.raises(InputError, match="can't be told where"):
        the_pair(tmp_path, image, mask)


def test_a_header_without_a_place_is_told(tmp_path, caplog):
    read_volume(save(tmp_path / "v.nii", nifti()))

    assert "neither" not in caplog.text and "left and right may be exchanged" in caplog.text


# Axes that are not at right angles


def sheared(by: float) -> list[list[float]]:
    out = rows(7, 8, 9)
    out[1][2] = by * STEPS[2]
    return out


@pytest.mark.parametrize("by", [1e-4, 1e-3, 0.01])
@pytest.mark.parametrize("version", [1, 2])
def test_a_slightly_sheared_volume_is_read_with_a_warning(by, version, tmp_path, caplog):
    volume = read_volume(save(tmp_path / "v.nii.gz", nifti(sheared(by), version=version)))

    np.testing.assert_array_equal(values_of(volume), VALUES)
    direction = np.reshape(volume.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    assert "right angles" in caplog.text and " mm (" in caplog.text
    far = volume.TransformIndexToPhysicalPoint([n - 1 for n in SIZES])
    x, y, z = np.array(sheared(by)) @ [*(n - 1 for n in SIZES), 1]
    assert np.linalg.norm(np.subtract(far, (-x, -y, z))) < by * 60
    assert check_volume(volume, "target")[1] == []


def test_a_sheared_mask_lies_on_its_sheared_image(tmp_path):
    labels, said = the_pair(tmp_path, nifti(sheared(1e-3)), nifti(sheared(1e-3), values=LABELS))

    np.testing.assert_array_equal(labels, LABELS)
    assert said == []


@pytest.mark.parametrize("by", [0.2, 0.7])
def test_a_tilted_stack_is_refused(by, tmp_path):
    with pytest.raises(InputError, match="right angles to each other; right-angled ones would move voxels") as caught:
        read_volume(save(tmp_path / "v.nii.gz", nifti(sheared(by))))

    assert "Resample" in caught.value.solution


def test_of_a_sheared_and_a_right_angled_place_the_latter_is_taken(tmp_path, caplog):
    volume = read_volume(save(tmp_path / "v.nii", nifti(sheared(0.3), (*Q, 7, 8, 9))))

    assert volume.GetOrigin() == pytest.approx((-7, -8, 9))
    assert "two places" in check_volume(volume, "target")[1][0]


# Names that say something else than the content


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "V.NII.GZ"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "values", [VALUES, VALUES.astype("<f4"), VALUES.astype("<f8"), LABELS, VALUES.astype("<i4")], ids=lambda v: v.dtype.str
)
def test_nifti_is_read_whatever_its_name_version_and_byte_order(name, packed, version, order, values, tmp_path):
    content = nifti(rows(7, 8, 9), values=values, version=version, order=order, scaling=(2.0, 1.0))
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)

    volume = read_volume(tmp_path / name)

    np.testing.assert_allclose(values_of(volume), values.astype(float) * 2 + 1)
    assert volume.GetOrigin() == pytest.approx((-7, -8, 9))
    assert volume.GetSpacing() == pytest.approx(STEPS)
    assert volume.GetPixelID() == (sitk.sitkFloat64 if values.itemsize == 8 else sitk.sitkFloat32)


@pytest.mark.parametrize(("units", "factor"), [(1, 1e-3), (2, 1.0), (3, 1e3)])
@pytest.mark.parametrize("version", [1, 2])
def test_metres_and_micrometres_become_millimetres(units, factor, version, tmp_path):
    scaled = np.array(rows(7, 8, 9)) * factor
    volume = read_volume(save(tmp_path / "v.nii", nifti(scaled, units=units, pixdim=[s * factor for s in STEPS], version=version)))

    assert volume.GetSpacing() == pytest.approx(STEPS, rel=1e-5)
    assert volume.GetOrigin() == pytest.approx((-7, -8, 9), rel=1e-5)
    assert check_volume(volume, "target")[1] == []


@pytest.mark.parametrize("version", [1, 2])
def test_several_volumes_in_a_file_are_refused(version, tmp_path):
    content = nifti(rows(7, 8, 9), version=version, values=np.stack([VALUES, VALUES]))

    with pytest.raises(InputError, match="volumes"):
        read_volume(save(tmp_path / "v.nii.gz", content))


@pytest.mark.parametrize("name", ["v.hdr", "v.img", "v.hdr.gz", "v.nii"])
def test_one_of_a_pair_of_files_is_refused_with_what_to_do(name, tmp_path):
    content = bytearray(nifti(rows(7, 8, 9)))
    content[344:348] = b"ni1\0"
    save(tmp_path / name, bytes(content))

    for read in (read_volume, read_segmentation):
        with pytest.raises(InputError, match=r"\.hdr and \.img") as caught:
            read(tmp_path / name)
        assert "3D Slicer" in caught.value.solution


@pytest.mark.parametrize("tail", [b"garbage" * 10, b"\0" * 600, b"\x1f\x8b"])
@pytest.mark.parametrize("version", [1, 2])
def test_what_follows_the_compressed_data_does_no_harm(tail, version, tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(nifti(rows(7, 8, 9), version=version)) + tail)

    if tail == b"\x1f\x8b":
        with pytest.raises(InputError, match="damaged"):
            read_volume(tmp_path / "v.nii.gz")
    else:
        np.testing.assert_array_equal(values_of(read_volume(tmp_path / "v.nii.gz")), VALUES)


@pytest.mark.parametrize("version", [1, 2])
def test_compressed_pieces_after_each_other_are_one_file(version, tmp_path):
    content = nifti(rows(7, 8, 9), version=version)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(content[:600]) + gzip.compress(content[600:]))

    np.testing.assert_array_equal(values_of(read_volume(tmp_path / "v.nii.gz")), VALUES)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_a_cut_file_is_refused(name, kept, version, tmp_path):
    path = save(tmp_path / name, nifti(rows(7, 8, 9), version=version))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])

    with pytest.raises(InputError, match="can't be read"):
        read_volume(path)


# Numbers that are none


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize(("form", "at"), [*(("qform", at) for at in range(6)), *(("sform", at) for at in range(12))])
@pytest.mark.parametrize("version", [1, 2])
def test_a_form_that_is_no_place_is_refused_or_told(value, form, at, version, tmp_path, caplog):
    sound = {"sform": np.array(rows(7, 8, 9)), "qform": np.array([*Q, 7.0, 8.0, 9.0])}
    wrong = sound[form].copy()
    wrong.flat[at] = value
    if form == "qform" and at < 3 and value == 1e30:
        pytest.skip("a quaternion is brought to length one")

    with pytest.raises(InputError, match="place"):
        read_volume(save(tmp_path / "alone.nii", nifti(**{form: wrong}, version=version)))
    volume = read_volume(save(tmp_path / "v.nii", nifti(**sound | {form: wrong}, version=version)))

    assert volume.GetOrigin() == pytest.approx((-7, -8, 9))
    assert f"The {form}" in caplog.text


@pytest.mark.parametrize("value", [0.0, NAN, INF])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_voxels_without_a_size_are_refused(value, name, tmp_path):
    """ITK reads every one of these as 1 mm."""
    with pytest.raises(InputError, match=f"voxels are 1 x 2 x {value:g} mm large"):
        read_volume(save(tmp_path / name, nifti(pixdim=(1.0, 2.0, value))))


def test_an_sform_of_zeros_is_no_place(tmp_path):
    with pytest.raises(InputError, match="place"):
        read_volume(save(tmp_path / "v.nii", nifti(np.zeros((3, 4)))))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("scaling", [(NAN, 0.0), (INF, 0.0), (1.0, NAN), (2.0, -INF)])
def test_a_scale_that_is_no_number_is_told(scaling, version, tmp_path, caplog):
    volume = read_volume(save(tmp_path / "v.nii", nifti(rows(7, 8, 9), scaling=scaling, version=version)))

    assert np.isfinite(values_of(volume)).all()
    assert "scales intensities" in caplog.text


@pytest.mark.parametrize("offset", [NAN, INF, -INF, 1e30])
def test_voxels_that_begin_nowhere_are_refused(offset, tmp_path):
    with pytest.raises(InputError, match="begin"):
        read_volume(save(tmp_path / "v.nii", nifti(rows(7, 8, 9), offset=offset)))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "dims", [(3, -40, 36, 6), (0, 40, 36, 6), (-1, 40, 36, 6), (8, 40, 36, 6), (99, 40, 36, 6), (3, 32000, 32000, 32000), (3, 40, 36, 7)]
)
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_absurd_sizes_are_refused(name, dims, version, tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_volume(save(tmp_path / name, nifti(rows(7, 8, 9), dims=dims, version=version)))


# Files that unpack to more, or less, than they announce


def test_a_file_that_unpacks_to_far_more_than_it_announces_is_not_unpacked(tmp_path, monkeypatch):
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 24)
    pieces = [packer.compress(nifti(rows(7, 8, 9))), *(packer.compress(zeros) for _ in range(64)), packer.flush()]
    (tmp_path / "v.nii.gz").write_bytes(b"".join(pieces))
    unpacked = 0
    read1 = gzip.GzipFile.read1

    def counted(file, size=-1):
        nonlocal unpacked
        piece = read1(file, size)
        unpacked += len(piece)
        return piece

    monkeypatch.setattr(gzip.GzipFile, "read1", counted)

    with pytest.raises(InputError, match="far more than"):
        read_volume(tmp_path / "v.nii.gz")
    assert unpacked < 4 << 20


def test_a_small_file_that_announces_much_is_not_unpacked(tmp_path, monkeypatch):
    save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9), dims=(3, 2000, 2000, 300)))
    monkeypatch.setattr("RAUSlicerLib.imaging.nifti._values", None)

    with pytest.raises(InputError, match="too small"):
        read_volume(tmp_path / "v.nii.gz")


def test_more_than_the_memory_of_the_machine_is_refused(tmp_path):
    path = tmp_path / "v.nii"
    path.write_bytes(nifti(rows(7, 8, 9), dims=(5, 32000, 32000, 32000, 100, 100)))

    with pytest.raises(InputError, match="memory of this machine"):
        read_volume(path)


# A file of nearly the same name beside it


OTHER = nifti(rows(7, 8, 9), values=VALUES[::-1, ::-1].copy())


@pytest.mark.parametrize("beside", ["v.nii", "v.img", "v.hdr", "v.img.gz", "V.NII", "v.nia"])
@pytest.mark.parametrize("name", ["v.nii.gz", "v.nii", "V.NII.GZ"])
def test_a_file_is_read_with_its_own_voxels_whatever_lies_beside_it(name, beside, tmp_path):
    (tmp_path / beside).write_bytes(OTHER)
    (tmp_path / name).write_bytes(gzip.compress(nifti(rows(7, 8, 9))) if name.lower().endswith(".gz") else nifti(rows(7, 8, 9)))

    np.testing.assert_array_equal(values_of(read_volume(tmp_path / name)), VALUES)


def test_a_mask_is_read_with_its_own_voxels_too(tmp_path):
    (tmp_path / "m.nii").write_bytes(nifti(rows(7, 8, 9), values=np.where(LABELS, 7, 0).astype("u1")))
    save(tmp_path / "m.nii.gz", nifti(rows(7, 8, 9), values=LABELS))

    assert [structure.label for structure in read_segmentation(tmp_path / "m.nii.gz").structures] == [1, 2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_beside_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "v.nii")
    save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9)))

    np.testing.assert_array_equal(values_of(read_volume(tmp_path / "v.nii.gz")), VALUES)


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.0, 5.0), (0.3, -7.7), (-2.0, 0.0), (1e-9, 0.0)])
def test_voxels_and_place_are_those_that_itk_reads(kind, scaling, tmp_path):
    numbers = np.random.default_rng(1).integers(0, 1 << 62, VALUES.shape).astype(kind) if kind[0] != "f" else VALUES.astype(kind) / 7
    path = save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9), (*Q, 7, 8, 9), values=numbers, scaling=scaling))
    expected = sitk.ReadImage(str(path))

    volume = read_volume(path)

    assert volume.GetPixelID() == expected.GetPixelID()
    assert index_to_world(volume).tolist() == index_to_world(expected).tolist()
    np.testing.assert_array_equal(values_of(volume), values_of(expected))


def test_without_a_temporary_folder_a_file_is_read_as_well(tmp_path, monkeypatch):
    path = save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9)))
    expected = read_volume(path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))

    same_image(read_volume(path), expected)


# Voxels that are no numbers


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (2.0, -100.0)])
def test_undefined_voxels_are_repaired_and_told(kind, version, scaling, tmp_path):
    values = VALUES.astype(kind) - 1000
    values[:, :5], values[2, 20, 20], values[2, 20, 21] = NAN, INF, -INF
    path = save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9), values=values, version=version, scaling=scaling))

    volume, warnings = check_volume(read_volume(path), "target")

    smallest = np.float32(-1000 * scaling[0] + scaling[1])
    assert any(f"{5 * 6 * 40 + 2} voxels of the target are NaN or infinite" in warning for warning in warnings)
    assert (values_of(volume)[:, :5] == smallest).all()


def test_a_scale_that_makes_voxels_infinite_is_told(tmp_path):
    path = save(tmp_path / "v.nii.gz", nifti(rows(7, 8, 9), scaling=(1e36, 0.0)))

    assert any("NaN or infinite" in warning for warning in check_volume(read_volume(path), "target")[1])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("value", [NAN, INF])
def test_undefined_labels_are_refused(version, value, tmp_path):
    labels = LABELS.astype("f4")
    labels[0, 0, 0] = value
    path = save(tmp_path / "m.nii.gz", nifti(rows(7, 8, 9), values=labels, version=version))

    with pytest.raises(InputError, match="undefined values"):
        read_segmentation(path)


# Forms that few programs write


@pytest.mark.parametrize("dims", [(4, *SIZES, 1), (5, *SIZES, 1, 1), (6, *SIZES, 1, 1, 1), (7, *SIZES, 1, 1, 1, 1)])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("intent", [0, 1007])
def test_further_axes_of_one_are_none(dims, version, intent, tmp_path):
    content = bytearray(nifti(rows(7, 8, 9), dims=dims, version=version))
    struct.pack_into("<h" if version == 1 else "<i", content, 68 if version == 1 else 504, intent)

    volume, warnings = check_volume(read_volume(save(tmp_path / "v.nii.gz", bytes(content))), "target")

    assert volume.GetOrigin() == pytest.approx((-7, -8, 9)) and warnings == []
    np.testing.assert_array_equal(values_of(volume), VALUES)


def test_a_size_below_zero_is_read_where_an_sform_says_how_the_axes_run(tmp_path):
    expected = read_volume(save(tmp_path / "plain.nii", nifti(rows(7, 8, 9))))
    volume = read_volume(save(tmp_path / "v.nii", nifti(rows(7, 8, 9), pixdim=(-1.0, 2.0, 3.0))))

    assert index_to_world(volume).tolist() == index_to_world(expected).tolist()
    with pytest.raises(InputError, match="-1 x 2 x 3 mm"):
        read_volume(save(tmp_path / "w.nii", nifti(None, (*Q, 7, 8, 9), pixdim=(-1.0, 2.0, 3.0))))


def test_numbers_of_128_bits_are_refused_as_such(tmp_path):
    content = bytearray(nifti(rows(7, 8, 9), values=VALUES.repeat(8, axis=0), dims=(3, *SIZES)))
    struct.pack_into("<2h", content, 70, 1536, 128)

    with pytest.raises(InputError, match="128 bits") as error:
        read_volume(save(tmp_path / "v.nii.gz", bytes(content)))
    assert "32-bit" in error.value.solution


def test_analyze_in_one_file_does_not_say_which_side_is_left(tmp_path, caplog):
    content = bytearray(nifti(rows(7, 8, 9)))
    content[344:348] = bytes(4)

    with caplog.at_level(logging.WARNING):
        volume = read_volume(save(tmp_path / "v.nii", bytes(content)))

    assert [record.getMessage() for record in caplog.records if "left and right may be exchanged" in record.getMessage()]
    assert volume.GetSpacing() == STEPS
    np.testing.assert_array_equal(values_of(volume), VALUES)


@pytest.mark.data
@pytest.mark.parametrize(("name", "said"), [("qs_shift", "two places"), ("shear_1e-4", "right angles"), ("notgz", ""), ("nifti2", "")])
def test_the_files_that_once_failed(name, said, data_folder, caplog):
    path = data_folder.parent / "cases" / f"{name}.nii.gz"
    if not path.is_file():
        pytest.skip(f"no such file: {path}")
    with caplog.at_level(logging.WARNING):
        volume, warnings = check_volume(read_volume(path), "target")

    assert volume.GetSize() == (232, 256, 10)
    assert said in caplog.text + " ".join(warnings)
