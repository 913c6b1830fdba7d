"""Whether two grids are the same, and label maps brought from one to another."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from RAUSlicerLib.imaging.grids import index_to_world, resample_labels, same_grid, same_lattice


def test_index_to_world_agrees_with_itk(volume):
    index = (3, 5, 2)

    world = index_to_world(volume) @ (*index, 1)

    np.testing.assert_allclose(world[:3], volume.TransformIndexToPhysicalPoint(index))


def test_rounding_of_file_formats_does_not_make_another_grid(volume):
    rounded = sitk.Image(volume)
    rounded.SetOrigin([float(np.float32(x)) for x in volume.GetOrigin()])
    rounded.SetSpacing([float(np.float32(x)) for x in volume.GetSpacing()])

    assert same_grid(volume, rounded)


def test_a_tenth_of_a_voxel_makes_another_grid(volume):
    moved = sitk.Image(volume)
    moved.SetOrigin(volume.TransformContinuousIndexToPhysicalPoint((0.1, 0, 0)))

    assert not same_grid(volume, moved)


def test_another_size_or_slightly_other_spacing_makes_another_grid(volume):
    stretched = sitk.Image(volume)
    stretched.SetSpacing([s * 1.02 for s in volume.GetSpacing()])

    assert not same_grid(volume, volume[:, :, :-1])
    assert not same_grid(volume, stretched)


def test_cropped_and_flipped_copies_share_the_lattice(volume):
    assert same_lattice(volume[2:6, 1:5, 3:], volume)
    assert same_lattice(sitk.Flip(volume, [True, False, True]), volume)
    assert same_lattice(sitk.PermuteAxes(volume, [2, 0, 1]), volume)


def test_finer_and_shifted_grids_do_not_share_the_lattice(volume):
    finer, shifted = sitk.Image(volume), sitk.Image(volume)
    finer.SetSpacing([s / 2 for s in volume.GetSpacing()])
    shifted.SetOrigin(volume.TransformContinuousIndexToPhysicalPoint((0.5, 0, 0)))

    assert not same_lattice(finer, volume)
    assert not same_lattice(volume, finer)
    assert not same_lattice(shifted, volume)


def test_labels_survive_a_crop_flip_and_permutation_exactly(volume):
    labels = sitk.Cast(sitk.Abs(volume), sitk.sitkUInt16)
    turned = sitk.PermuteAxes(sitk.Flip(labels, [True, True, False]), [1, 2, 0])

    back = resample_labels(turned, volume)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(labels))
