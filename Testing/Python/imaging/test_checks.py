"""What is refused, repaired or taken as it is at the boundary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import align_segmentation, check_names, check_volume, distinct_names, modality_mismatch, same_volume
from RAUSlicerLib.imaging.files import read_volume
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

from .builders import make_segmentation, same_layers


def noise(shape: tuple[int, ...] = (6, 7, 8), dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)


def image_of(array: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(array, isVector=False)


def test_a_good_volume_is_taken_as_it_is(volume):
    checked, warnings = check_volume(volume, "target")

    assert checked is volume
    assert warnings == []


def test_single_undefined_voxels_become_the_smallest_value(volume):
    array = noise(volume.GetSize()[::-1])
    array[0, 0, 0], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -np.inf
    damaged = image_of(array)
    damaged.CopyInformation(volume)

    checked, warnings = check_volume(damaged, "reference")

    values = sitk.GetArrayFromImage(checked)
    finite = np.isfinite(array)
    assert set(values[~finite]) == {array[finite].min()}
    np.testing.assert_array_equal(values[finite], array[finite])
    assert checked.GetDirection() == volume.GetDirection()
    assert "3 voxels of the reference are NaN or infinite" in warnings[0]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((6, 7, 8), 3, np.int16), "is constant: every voxel is 3"),
        (np.full((6, 7, 8), np.nan), "no defined voxel"),
        (np.full((6, 7, 8), -np.inf), "no defined voxel"),
        (np.where(np.arange(336).reshape(6, 7, 8) % 2, np.nan, 4.5), "is constant"),
        (noise((1, 20, 200)), "one voxel thick and small: 200 x 20 x 1"),
        (noise((50, 1, 1)), "one voxel thick and small"),
        (noise((3, 6, 7, 8)), "has 4 dimensions"),
        (noise((6, 7)), "has 2 dimensions"),
    ],
)
def test_volumes_without_anatomy_are_refused(array, reason):
    with pytest.raises(InputError, match=f"The target volume .*{reason}"):
        check_volume(image_of(array), "target")


def test_vector_complex_and_empty_images_are_refused():
    for image in (
        sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3),
        sitk.Image([4, 4, 4], sitk.sitkComplexFloat32),
        sitk.Image(0, 0, 0, sitk.sitkUInt8),
    ):
        with pytest.raises(InputError, match="The reference volume"):
            check_volume(image, "reference")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_taken_as_a_2d_image(axis):
    shape = [64, 48, 40]
    shape[axis] = 1

    _, warnings = check_volume(image_of(noise(tuple(shape))), "target")

    assert "one voxel thick" in warnings[0]


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        ((1, 1, 1e-4), "1 x 1 x 0.0001 mm"),
        ((150, 1, 1), "150 x 1 x 1 mm"),
        ((90, 90, 90), "is 7200 x 630 x 540 mm large"),
        ((1, 1, 1e9), "1e\\+09"),
    ],
)
def test_absurd_spacing_is_refused(spacing, reason):
    image = image_of(noise((6, 7, 80)) if spacing[0] == 90 else noise())
    image.SetSpacing(spacing)

    with pytest.raises(InputError, match=reason):
        check_volume(image, "target")


@pytest.mark.parametrize("axis", [b"(1,0,0)", b"(0,0.5,1)"])
def test_axes_in_one_plane_or_sheared_are_refused(axis, tmp_path):
    sitk.WriteImage(image_of(noise()), str(tmp_path / "v.nrrd"))
    content = (tmp_path / "v.nrrd").read_bytes()
    (tmp_path / "v.nrrd").write_bytes(content.replace(b"(0,0,1)", axis))

    with pytest.raises(InputError, match="right angles"):
        check_volume(read_volume(tmp_path / "v.nrrd"), "target")


def test_a_segmentation_on_its_volumes_grid_stays_and_gets_the_exact_geometry(volume):
    segmentation = make_segmentation(volume, overlapping=True)
    rounded = segmentation.map_layers(sitk.Image(layer) for layer in segmentation.layers)
    for layer in rounded.layers:
        layer.SetOrigin([x + 1e-4 for x in volume.GetOrigin()])

    aligned, warnings = align_segmentation(rounded, volume)

    assert warnings == []
    assert aligned.structures == segmentation.structures
    same_layers(aligned, segmentation, atol=1e-12)


def test_a_cropped_flipped_segmentation_is_put_back_without_a_warning(volume):
    segmentation = make_segmentation(volume, overlapping=True)
    block = segmentation.map_layers(sitk.Flip(layer[0:9, 0:7, 0:6], [True, False, True]) for layer in segmentation.layers)

    aligned, warnings = align_segmentation(block, volume)

    assert warnings == []
    same_layers(aligned, segmentation)


def test_a_segmentation_on_a_finer_grid_is_resampled_with_a_warning(volume):
    segmentation = make_segmentation(volume)
    finer = sitk.Expand(segmentation.labelmap, [3, 3, 3], sitk.sitkNearestNeighbor)

    aligned, warnings = align_segmentation(segmentation.map_layers([finer]), volume)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(aligned.labelmap), sitk.GetArrayFromImage(segmentation.labelmap))
    assert len(warnings) == 1
    assert "resampled" in warnings[0]


def test_structures_lost_and_cut_are_named(volume):
    segmentation = make_segmentation(volume)
    part = volume[:, :, 2:]

    aligned, warnings = align_segmentation(segmentation, part)

    assert [s.label for s in aligned.structures] == [3, 300, 7]
    assert any("no voxels on" in w and "'Leber'" in w for w in warnings)
    assert any("cut" in w and "'Leber'" in w and "tumour" not in w for w in warnings)
    assert aligned.labelmap.GetSize() == part.GetSize()


def test_a_structure_that_is_only_a_name_is_left_out_and_named(volume):
    segmentation = make_segmentation(volume)
    ghost = replace(segmentation, structures=(*segmentation.structures, Structure(99, "ghost")))

    aligned, warnings = align_segmentation(ghost, volume)

    assert aligned.structures == segmentation.structures
    assert "'ghost'" in warnings[0]


def test_a_segmentation_that_has_lost_its_place_is_refused_with_what_is_different(volume):
    """Its header is what programs write that know of no geometry; some of it may lie in the volume, and in the wrong place."""
    segmentation = make_segmentation(volume)
    lost = sitk.GetImageFromArray(sitk.GetArrayFromImage(segmentation.labelmap))
    if volume.GetOrigin() == (0, 0, 0):
        pytest.skip("this volume lies there itself")

    for direction in ((1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)):
        lost.SetDirection(direction)
        with pytest.raises(InputError, match="lost its place") as caught:
            align_segmentation(segmentation.map_layers([lost]), volume)
        shown = " x ".join(f"{s:g}" for s in volume.GetSpacing())
        assert f"1 x 1 x 1 mm instead of {shown} mm" in caught.value.explanation
        assert "mm from the volume's" in caught.value.explanation


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda image: image.SetOrigin([x + 1000 for x in image.GetOrigin()]), "its first voxel at"),
        (lambda image: image.SetSpacing([100 * s for s in image.GetSpacing()]), "mm instead of"),
        (lambda image: image.SetDirection([-d for d in image.GetDirection()]), "axes that point"),
    ],
)
def test_a_segmentation_elsewhere_is_refused_with_what_is_different(change, told, volume):
    segmentation = make_segmentation(volume)
    # Far from the first voxel, so that other axes or sizes lead elsewhere.
    far = sitk.Image(segmentation.labelmap) * 0
    far[8, 7, 6] = 3
    change(far)

    with pytest.raises(InputError, match="lies elsewhere") as caught:
        align_segmentation(segmentation.map_layers([far]), volume)

    assert told in caught.value.explanation
    assert "starts at" not in caught.value.explanation


def test_an_empty_segmentation_is_refused(volume):
    segmentation = make_segmentation(volume)

    for empty in (segmentation.map_layers([segmentation.labelmap * 0]), replace(segmentation, structures=())):
        with pytest.raises(InputError, match="is empty"):
            align_segmentation(empty, volume)


def test_nameless_structures_get_names_and_others_keep_theirs():
    structures = (Structure(1, ""), Structure(5, " \t"), Structure(2, "Herz ♥ 心臓"))

    checked, warnings = check_names(Segmentation(sitk.Image([2, 2, 2], sitk.sitkUInt8), structures))

    assert [s.name for s in checked.structures] == ["label 1", "label 5", "Herz ♥ 心臓"]
    assert len(warnings) == 1


def test_shared_names_stay_and_can_be_told_apart():
    structures = (Structure(1, "Kidney"), Structure(2, "kidney "), Structure(1, "Kidney", layer=1), Structure(4, "Liver"))

    checked, warnings = check_names(Segmentation(sitk.Image([2, 2, 2], sitk.sitkUInt8), structures))

    assert checked.structures == structures
    assert "3 structures share a name" in warnings[0]
    assert distinct_names((Structure(1, "Dr\u00fcse"), Structure(2, "dru\u0308se"))) == ("Dr\u00fcse (label 1)", "dru\u0308se (label 2)")
    assert distinct_names(structures) == ("Kidney (label 1)", "kidney  (label 2)", "Kidney (label 1) #2", "Liver")


def test_the_same_volume_is_recognized(volume):
    copy, other = sitk.Image(volume), sitk.Image(volume)
    other[3, 3, 3] += 1

    assert same_volume(volume, copy)
    assert not same_volume(volume, other)
    assert not same_volume(volume, volume[1:, :, :])


def test_ct_for_mr_is_noticed():
    ct = image_of(np.random.default_rng(0).normal(-300, 500, (20, 20, 20)).astype(np.int16))
    mr = image_of(noise((20, 20, 20)))
    filtered_mr = image_of(noise((20, 20, 20)) - 20)

    assert "CT" in (modality_mismatch(ct, mr) or "")
    assert "CT" in (modality_mismatch(mr, ct) or "")
    assert modality_mismatch(ct, ct) is None
    assert modality_mismatch(mr, filtered_mr) is None


@pytest.mark.data
def test_modalities_of_real_volumes_are_told(data_folder, ct_series):
    ct = [
        read_volume(ct_series),
        read_volume(data_folder / "ct_mr_samples/ct_trunk.nii.gz"),
        read_volume(data_folder / "abdomen_ct/00.nii.gz"),
    ]
    mr = [read_volume(data_folder / "ct_mr_samples/mr_abdomen.nii.gz"), read_volume(data_folder / "brain_t1/1000.nii.gz")]

    assert all(modality_mismatch(a, b) for a in ct for b in mr)
    assert not any(modality_mismatch(a, b) for group in (ct, mr) for a in group for b in group)


def test_a_single_dark_voxel_makes_no_ct_of_mr():
    values = np.abs(np.random.default_rng(0).normal(200, 60, (12, 30, 30))).astype(np.int16)
    plain = sitk.GetImageFromArray(values)
    values[3, 4, 5] = -32768
    assert modality_mismatch(plain, sitk.GetImageFromArray(values)) is None


def test_undefined_voxels_take_a_value_that_the_image_has_elsewhere():
    values = np.abs(np.random.default_rng(0).normal(200, 60, (12, 30, 30))).astype(np.float32)
    least = values.min()
    values[3, 4, 5], values[:, :4] = -3e38, np.nan
    image = sitk.GetImageFromArray(values)
    image.SetMetaData("0008|0060", "MR")
    filled, (warning,) = check_volume(image, "target")
    assert least <= sitk.GetArrayViewFromImage(filled)[:, :4].min() < 200 and "-3e" not in warning
    assert filled.GetMetaData("0008|0060") == "MR"
