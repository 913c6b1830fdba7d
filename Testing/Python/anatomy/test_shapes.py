import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.anatomy.shapes import shapes, voxels_in
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

ANGLE = np.deg2rad(30)
ROTATED = [np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE), 0, 0, 0, 1]
BOX = Structure(7, "box")


def image_of(array, spacing=(1.0, 1.0, 1.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection([float(value) for value in direction])
    image.SetOrigin(origin)
    return image


def box_labels(label=7, dtype=np.uint8):
    labels = np.zeros((12, 14, 16), dtype)
    labels[2:6, 3:8, 4:10] = label
    return labels


def test_an_anisotropic_box_is_measured_exactly():
    image = image_of(box_labels(), (0.5, 2.0, 3.0), origin=(10.0, -20.0, 30.0))

    shape = shapes(Segmentation(image, (BOX,)), [BOX])[BOX]

    assert shape.voxels == 6 * 5 * 4
    assert shape.extents == pytest.approx([6 * 0.5, 5 * 2.0, 4 * 3.0])
    assert shape.centroid == pytest.approx([10 + 6.5 * 0.5, -20 + 5 * 2.0, 30 + 3.5 * 3.0])
    assert not shape.is_cut


def test_a_flipped_and_permuted_grid_gives_lengths_along_the_patient():
    # x runs to the patient's right, y up, z to the front.
    image = image_of(box_labels(), (0.5, 2.0, 3.0), (-1, 0, 0, 0, 0, -1, 0, 1, 0))

    shape = shapes(Segmentation(image, (BOX,)), [BOX])[BOX]

    assert shape.extents == pytest.approx([6 * 0.5, 4 * 3.0, 5 * 2.0])
    assert shape.centroid == pytest.approx([-6.5 * 0.5, -3.5 * 3.0, 5 * 2.0])


def test_on_an_oblique_grid_the_corners_of_voxels_are_reached():
    image = image_of(box_labels(), (0.5, 2.0, 3.0), ROTATED)

    shape = shapes(Segmentation(image, (BOX,)), [BOX])[BOX]

    long, wide, high = 6 * 0.5, 5 * 2.0, 4 * 3.0
    across = long * np.cos(ANGLE) + wide * np.sin(ANGLE)
    along = long * np.sin(ANGLE) + wide * np.cos(ANGLE)
    assert shape.extents == pytest.approx([across, along, high])


def test_touching_the_border_cuts_but_not_in_a_single_slice():
    labels = box_labels()
    labels[0, 5, 5] = 7
    assert shapes(Segmentation(image_of(labels), (BOX,)), [BOX])[BOX].is_cut

    slice_ = image_of(np.ascontiguousarray(box_labels()[3:4]))
    assert not shapes(Segmentation(slice_, (BOX,)), [BOX])[BOX].is_cut


def test_overlapping_layers_are_each_seen_whole_and_the_empty_are_left_out():
    inner = np.zeros((12, 14, 16), np.uint8)
    inner[3:5, 4:6, 5:7] = 7
    small, absent = Structure(7, "small", layer=1), Structure(9, "absent")
    segmentation = Segmentation(image_of(box_labels()), (BOX, small, absent), (image_of(inner),))

    found = shapes(segmentation, segmentation.structures)

    assert list(found) == [BOX, small]
    assert (found[BOX].voxels, found[small].voxels) == (120, 8)
    assert voxels_in(segmentation, small, found[small].box).all()


def test_very_large_labels_are_found():
    label = 4_000_000_000
    structure = Structure(label, "box")

    shape = shapes(Segmentation(image_of(box_labels(label, np.uint32)), (structure,)), [structure])[structure]

    assert shape.voxels == 120


def test_surface_reaches_as_far_as_the_voxels_in_every_direction():
    z, y, x = np.indices((20, 20, 20))
    labels = (((z - 9) / 5) ** 2 + ((y - 10) / 7) ** 2 + ((x - 8) / 4) ** 2 < 1).astype(np.uint8) * 7
    shape = shapes(Segmentation(image_of(labels), (BOX,)), [BOX])[BOX]
    voxels = np.argwhere(labels)[:, ::-1]

    for direction in np.random.default_rng(0).normal(size=(20, 3)):
        assert (shape.surface @ direction).max() == pytest.approx((voxels @ direction).max())
