"""A body in which one organ lies on the left is told from its mirror image by labels that are surer of it there."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from RAUSlicerLib.confidence.laterality_by_labels import label_margins, mirrored
from RAUSlicerLib.confidence.settings import LateralitySettings
from RAUSlicerLib.imaging.frame import canonical, from_array, normalized
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching.label_posteriors import LabelHead
from RAUSlicerLib.matching.matcher import Matcher
from RAUSlicerLib.matching.settings import MatchingSettings
from RAUSlicerLib.progress import CancelToken

BODY, ORGAN = 100.0, 200.0


class LeftLivers(nn.Module):
    """Embeds bright voxels as an organ: clearly on the left, between organ and background on the right."""

    settings = MatchingSettings()
    label_head: LabelHead | None = LabelHead((20 * torch.eye(3)[:1].repeat(2, 1), 20 * torch.eye(3)[:2]), (torch.zeros(2),) * 2)

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def forward(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.looks += 1
        left = torch.arange(volume.shape[-1]) >= volume.shape[-1] / 2
        organ, sure = volume[:, 0] > 0.8, torch.where(left, 1.0, 0.5)
        fine = torch.zeros(1, 3, *volume.shape[2:])
        fine[:, 1] = organ * sure
        fine[:, 0] = (1 - fine[:, 1] ** 2).sqrt()
        return fine, fine[..., ::4, ::4, ::4], fine

    def read(self, volume: torch.Tensor) -> torch.Tensor:
        return self(volume)[2]


def body(centre: int) -> Reference:
    """A body with an organ around a place along x, of which larger is further left."""
    values = np.zeros((24, 32, 40), np.float32)
    values[2:-2, 2:-2, 2:-2] = BODY
    organ = np.zeros(values.shape, np.uint8)
    organ[8:16, 10:20, centre - 5 : centre + 5] = 1
    values[organ == 1] = ORGAN
    volume = sitk.GetImageFromArray(values)
    volume.SetSpacing((4.0, 4.0, 4.0))
    return Reference(volume, Segmentation(from_array(organ, volume), (Structure(1, "organ"),)))


def margins(reference: Reference, target: Reference, net: LeftLivers, cancel: CancelToken | None = None) -> tuple[float, float] | None:
    frames = [normalized(canonical(case.volume)) for case in (reference, target)]
    return label_margins(Matcher(net, torch.device("cpu")), reference, frames, cancel or CancelToken(), 1_000_000)  # type: ignore[arg-type]


def test_the_labels_are_surer_of_the_side_they_know() -> None:
    left, right = body(30), body(10)
    for reference, target in ((left, right), (right, left), (left, left)):
        found = margins(reference, target, LeftLivers())
        assert found is not None
        for margin, case in zip(found, (reference, target), strict=True):
            assert abs(margin) > 10 * LateralitySettings().label_margin and (margin > 0) == (case is left)


def test_a_body_that_is_the_same_on_both_sides_has_no_margin() -> None:
    found = margins(body(20), body(20), LeftLivers())
    assert found == pytest.approx((0, 0), abs=1e-6)


def test_a_network_that_knows_no_labels_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeftLivers, "label_head", None)
    net = LeftLivers()
    assert margins(body(30), body(10), net) is None and net.looks == 0


def test_a_cancel_is_answered_before_the_next_look() -> None:
    cancel, net = CancelToken(), LeftLivers()
    cancel.cancel()
    assert margins(body(30), body(10), net, cancel) is None and net.looks == 0


def test_the_mirror_image_lies_on_the_same_grid() -> None:
    frame = canonical(body(30).volume)
    flipped = mirrored(frame)
    assert flipped.GetOrigin() == frame.GetOrigin() and flipped.GetDirection() == frame.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(flipped), sitk.GetArrayViewFromImage(frame)[:, :, ::-1])
