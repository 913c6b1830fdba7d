from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.baselines.affine import AffinePeer
from RAUSlicerLib.baselines.copy import CopyPeer
from RAUSlicerLib.baselines.demons import DemonsPeer
from RAUSlicerLib.imaging.overlap import dice
from RAUSlicerLib.imaging.segmentation import Reference, Structure
from RAUSlicerLib.matching.warping import inside, merge, warp_mask, warp_structures
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.results import SoftMask


@pytest.mark.parametrize("peer", [CopyPeer(), AffinePeer(), DemonsPeer()], ids=lambda p: p.name)
def test_each_peer_segments_another_subject(make_ellipsoids, peer) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(scale=(1.1, 1.0, 1.0), shift=(4.0, -4.0, 0.0), seed=1)
    structures = reference.segmentation.structures

    masks = peer.segment([reference], target.volume, structures, ignore, CancelToken())

    assert list(masks) == list(structures)
    for structure, mask in masks.items():
        assert dice(mask.values >= 0.5, target.segmentation.array(structure)[inside(mask)]) > 0.85, structure.name


def test_cropped_warping_equals_warping_the_whole(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    shift = sitk.TranslationTransform(3, (3.0, -1.0, 2.5))
    masks = warp_structures(reference, reference.segmentation.structures, shift, reference.volume, ignore, CancelToken())
    for structure, mask in masks.items():
        whole = warp_mask(reference.segmentation.mask(structure), shift, reference.volume)
        filled = np.zeros_like(whole)
        filled[inside(mask)] = mask.values
        np.testing.assert_allclose(filled, whole, atol=1e-6)


def test_a_structure_outside_of_the_target_comes_out_empty(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    away = sitk.TranslationTransform(3, (1000.0, 0.0, 0.0))
    masks = warp_structures(reference, reference.segmentation.structures, away, reference.volume, ignore, CancelToken())
    assert [mask.values.max() for mask in masks.values()] == [0.0, 0.0, 0.0]


def test_references_vote_and_a_structure_that_one_lacks_comes_from_the_other(make_ellipsoids) -> None:
    whole = make_ellipsoids()
    lacking = Reference(whole.volume, replace(whole.segmentation, structures=whole.segmentation.structures[:2]))
    masks = CopyPeer().segment([lacking, whole], whole.volume, whole.segmentation.structures, ignore, CancelToken())
    assert [structure.name for structure in masks] == ["body", "left organ", "right organ"]


def test_merge_weighs_masks_of_different_boxes() -> None:
    grid = sitk.Image(6, 6, 6, sitk.sitkUInt8)
    merged = merge([SoftMask(np.ones((2, 2, 2)), (0, 0, 0), grid), SoftMask(np.ones((2, 2, 2)), (1, 1, 1), grid)], [3.0, 1.0])
    assert merged.start == (0, 0, 0) and merged.values.shape == (3, 3, 3)
    assert (merged.values[0, 0, 0], merged.values[1, 1, 1], merged.values[2, 2, 2], merged.values[2, 0, 0]) == (0.75, 1.0, 0.25, 0.0)


def test_structures_not_reached_before_a_cancel_are_left_out(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    cancel = CancelToken()

    def after_first(event) -> None:
        if event.structure is not None:
            cancel.cancel()

    masks = CopyPeer().segment([reference], reference.volume, reference.segmentation.structures, after_first, cancel)
    assert [structure.name for structure in masks] == ["body"]


def test_a_structure_the_reference_lacks_is_left_out(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    stranger = Structure(9, "spleen")
    assert CopyPeer().segment([reference], reference.volume, [stranger], ignore, CancelToken()) == {}
