"""Which slices were painted."""

import nodes
import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from RAUSlicerLib.scene import edits, write_result
from RAUSlicerLib.scene.edits import Baselines, covering_planes
from RAUSlicerLib.scene.segmentations import segment_mask

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

    assert baselines.painted(node, target, "liver") == ((2, 2),)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segment_mask(node, "liver", target)) > 0, LIVER | stroke)
    assert baselines.painted(node, target, "spleen") == ()


def test_erasing_counts_and_what_is_taken_anew_does_not(scene):
    target = nodes.volume()
    node = write_result(nodes.transfer(target, {nodes.LIVER: LIVER}), target)
    baselines = Baselines()
    baselines.take(node, ["liver"])
    erased = LIVER.copy()
    erased[:, :, 4] = False
    slicer.util.updateSegmentBinaryLabelmapFromArray(erased.astype(np.uint8), node, "liver", target)
    assert baselines.painted(node, target, "liver") == ((0, 4),)

    before = baselines.take(node, ["liver"])

    assert baselines.painted(node, target, "liver") == ()
    baselines.put_back(before)
    assert baselines.painted(node, target, "liver") == ((0, 4),)


def test_an_empty_segment_can_be_painted(scene):
    target = nodes.volume()
    node = nodes.segmentation(target, {})
    node.GetSegmentation().AddEmptySegment("new", "New")
    baselines = Baselines()
    baselines.take(node, ["new"])

    assert baselines.painted(node, target, "new") == ()
    slicer.util.updateSegmentBinaryLabelmapFromArray(nodes.box((3, 4), (1, 4), (1, 4)).astype(np.uint8), node, "new", target)
    assert baselines.painted(node, target, "new") == ((2, 3),)


def test_nothing_is_compared_where_nothing_has_changed_since_the_last_look(scene, monkeypatch):
    """A large scan takes a second to compare, and every click on a row asks."""
    target = nodes.volume()
    node = write_result(nodes.transfer(target, {nodes.LIVER: LIVER, nodes.SPLEEN: SPLEEN}), target)
    compared = []
    real = edits._changed_planes
    monkeypatch.setattr(edits, "_changed_planes", lambda *arguments: compared.append(1) or real(*arguments))
    baselines = Baselines()
    baselines.take(node, ["liver", "spleen"])
    assert baselines.painted(node, target, "liver") == () and compared == []
    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | nodes.box((2, 3), (0, 7), (5, 8))).astype(np.uint8), node, "liver", target)

    answers = [baselines.painted(node, target, "liver") for _look in range(3)]

    assert answers == [((2, 2),)] * 3 and len(compared) == 1
    # In the same plane again: the layer is another one than at the last look.
    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | nodes.box((4, 5), (0, 7), (5, 8))).astype(np.uint8), node, "liver", target)
    assert baselines.painted(node, target, "liver") == ((2, 4),)


def test_what_is_painted_beyond_the_segment_and_the_volume_is_found_on_the_grid_alone(scene):
    target = nodes.volume()
    larger = nodes.volume("Larger", shape=(9, 7, 8))
    node = nodes.segmentation(larger, {"one": nodes.box((1, 3), (2, 6), (3, 7), shape=(9, 7, 8))})
    baselines = Baselines()
    baselines.take(node, ["one"])
    painted = nodes.box((1, 3), (2, 6), (3, 7), shape=(9, 7, 8)) | nodes.box((5, 9), (0, 2), (0, 8), shape=(9, 7, 8))

    slicer.util.updateSegmentBinaryLabelmapFromArray(painted.astype(np.uint8), node, "one", larger)

    # Its slices 6 to 8 are beyond the target.
    assert baselines.painted(node, target, "one") == ((2, 5),)


def test_a_transform_between_segment_and_volume_is_followed(scene):
    target = nodes.volume(matrix=np.diag((2.0, 2.0, 2.0, 1.0)))
    node = nodes.segmentation(target, {"one": LIVER})
    moved = nodes.transform(translation=(0.0, 0.0, 4.0), degrees=0.0)
    baselines = Baselines()
    baselines.take(node, ["one"])
    slicer.util.updateSegmentBinaryLabelmapFromArray((LIVER | nodes.box((1, 2), (0, 2), (0, 8))).astype(np.uint8), node, "one", target)
    assert baselines.painted(node, target, "one") == ((2, 1),)

    node.SetAndObserveTransformNodeID(moved.GetID())

    # 4 mm are two slices.
    assert baselines.painted(node, target, "one") == ((2, 3),)
