"""Which slices were painted."""

import nodes
import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from RAUSlicerLib.scene import write_result
from RAUSlicerLib.scene.edits import Baselines, covering_planes

LIVER, SPLEEN = nodes.box((1, 4), (2, 6), (3, 7)), nodes.box((1, 4), (0, 2), (0, 3))


def changed(*windows, shape=(20, 21, 22)):
    array = np.zeros(shape, bool)
    for window in windows:
        array[window] = True
    return array


ALL = slice(None)


@pytest.mark.parametrize(
    ("array", "planes"),
    [
        (changed(), ()),
        (changed((4, slice(3, 9), slice(5, 8))), ((2, 4),)),
        (changed((slice(3, 9), 4, slice(5, 8))), ((1, 4),)),
        (changed((slice(3, 9), slice(5, 8), 4)), ((0, 4),)),
        (changed((4, slice(3, 9), slice(5, 8)), (11, slice(3, 9), slice(5, 8))), ((2, 4), (2, 11))),
        # An axial and a sagittal stroke that cross.
        (changed((4, slice(3, 9), slice(2, 9)), (slice(1, 12), slice(3, 9), 7)), ((0, 7), (2, 4))),
        # A brush that paints a ball: the planes of one axis.
        (changed((slice(4, 7), slice(3, 9), slice(2, 9))), ((2, 4), (2, 5), (2, 6))),
    ],
)
def test_few_planes_hold_every_changed_voxel(array, planes):
    assert covering_planes(array) == planes


def test_any_change_is_covered():
    rng = np.random.default_rng(1)
    array = rng.random((9, 8, 7)) < 0.05

    planes = covering_planes(array)

    left = array.copy()
    for axis, index in planes:
        left[tuple(index if 2 - axis == a else ALL for a in range(3))] = False
    assert not left.any()
    assert len(planes) <= min(array.shape)


@pytest.mark.parametrize("moved", [False, True])
def test_only_what_was_painted_on_this_segment_counts(scene, moved):
    target = nodes.volume()
    if moved:
        target.SetAndObserveTransformNodeID(nodes.transform().GetID())
    node = write_result(nodes.transfer(target, {nodes.LIVER: LIVER, nodes.SPLEEN: SPLEEN}), target)
    baselines = Baselines()
    baselines.take(node, ["liver", "spleen"])
    stroke = nodes.box((2, 3), (0, 7), (5, 8))

    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | stroke).astype(np.uint8), node, "liver", target)

    mask, planes = baselines.painted(node, target, "liver")
    assert planes == ((2, 2),)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask) > 0, LIVER | stroke)
    assert baselines.painted(node, target, "spleen")[1] == ()


def test_erasing_counts_and_what_is_taken_anew_does_not(scene):
    target = nodes.volume()
    node = write_result(nodes.transfer(target, {nodes.LIVER: LIVER}), target)
    baselines = Baselines()
    baselines.take(node, ["liver"])
    erased = LIVER.copy()
    erased[:, :, 4] = False
    slicer.util.updateSegmentBinaryLabelmapFromArray(erased.astype(np.uint8), node, "liver", target)
    assert baselines.painted(node, target, "liver")[1] == ((0, 4),)

    before = baselines.take(node, ["liver"])

    assert baselines.painted(node, target, "liver")[1] == ()
    baselines.put_back(before)
    assert baselines.painted(node, target, "liver")[1] == ((0, 4),)


def test_an_empty_segment_can_be_painted(scene):
    target = nodes.volume()
    node = nodes.segmentation(target, {})
    node.GetSegmentation().AddEmptySegment("new", "New")
    baselines = Baselines()
    baselines.take(node, ["new"])

    assert baselines.painted(node, target, "new")[1] == ()
    slicer.util.updateSegmentBinaryLabelmapFromArray(nodes.box((3, 4), (1, 4), (1, 4)).astype(np.uint8), node, "new", target)
    assert baselines.painted(node, target, "new")[1] == ((2, 3),)
