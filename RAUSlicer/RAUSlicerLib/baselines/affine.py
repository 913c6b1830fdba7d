"""The peer that registers the reference to the target by an affine transform."""

from __future__ import annotations

import SimpleITK as sitk

from ..imaging.segmentation import Reference
from ..matching.registration import register
from ..progress import CancelToken, ProgressCallback
from .warping_peer import WarpingPeer


class AffinePeer(WarpingPeer):
    """Carries the reference's masks through an affine registration."""

    name = "affine"

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        return register(target, reference.volume, deformable=False, progress=progress, cancel=cancel)
