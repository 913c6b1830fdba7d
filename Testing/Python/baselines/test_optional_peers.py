import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.baselines.ants import AntsPeer
from RAUSlicerLib.baselines.elastix import ElastixPeer
from RAUSlicerLib.errors import ResourceError
from RAUSlicerLib.evaluation.methods import check_methods
from RAUSlicerLib.imaging.overlap import dice
from RAUSlicerLib.matching.registration import between_worlds, overlaid
from RAUSlicerLib.progress import CancelToken, ignore

PEERS = [
    pytest.param(ElastixPeer, "itk", "itk-elastix", id="elastix"),
    pytest.param(AntsPeer, "ants", "antspyx", id="ants"),
]


@pytest.mark.parametrize(("peer", "package", "distribution"), PEERS)
def test_a_peer_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, peer, package: str, distribution: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ResourceError) as caught:
        peer.require()
    assert distribution in caught.value.explanation and "nstall" in caught.value.solution
    monkeypatch.setattr("RAUSlicerLib.evaluation.methods.is_installed", lambda name: name != peer.name)
    with pytest.raises(ResourceError):
        check_methods([peer.name])


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "package", "distribution"), PEERS)
def test_an_installed_peer_finds_organs_of_another_subject(
    make_ellipsoids, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, peer, package: str, distribution: str
) -> None:
    pytest.importorskip(package, reason=f"{distribution} is not installed")
    monkeypatch.chdir(tmp_path)
    reference = make_ellipsoids()
    target = make_ellipsoids(size=(56, 48, 44), scale=(1.12, 0.93, 1.05), shift=(6.0, -5.0, 3.0), seed=1)
    # Stored in another order, elsewhere in the scanner: the peer must get and give back the right places.
    volume = sitk.DICOMOrient(target.volume, "PIR")
    expected = [sitk.DICOMOrient(target.segmentation.mask(structure), "PIR") for structure in target.segmentation.structures]

    masks = peer().segment([reference], volume, reference.segmentation.structures, ignore, CancelToken())

    for structure, truth in zip(reference.segmentation.structures, expected, strict=True):
        found = masks[structure].spread(volume) >= 0.5
        marked = sitk.GetArrayViewFromImage(truth) > 0
        assert dice(found, marked) > 0.85, structure.name
    assert list(tmp_path.iterdir()) == []


def test_other_packages_get_the_reference_laid_over_the_target(make_ellipsoids) -> None:
    reference, target = make_ellipsoids(), make_ellipsoids(shift=(10.0, -6.0, 8.0), seed=1)
    fixed, moving, start = overlaid(target.volume, reference.volume)
    assert fixed.GetSize() == moving.GetSize() and fixed.GetOrigin() == moving.GetOrigin()
    values = [sitk.GetArrayViewFromImage(image).ravel() for image in (fixed, moving)]
    assert np.corrcoef(*values)[0, 1] > 0.9
    world = between_worlds(start, target.volume, reference.volume)
    organ = [np.argwhere(case.segmentation.array(case.segmentation.structures[1]))[:, ::-1].mean(0) for case in (target, reference)]
    there = target.volume.TransformContinuousIndexToPhysicalPoint(organ[0].tolist())
    here = reference.volume.TransformContinuousIndexToPhysicalPoint(organ[1].tolist())
    np.testing.assert_allclose(world.TransformPoint(there), here, atol=4.0)
