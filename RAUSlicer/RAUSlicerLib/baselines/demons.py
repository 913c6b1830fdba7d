"""The strongest classical peer here: affine registration followed by diffeomorphic demons."""

from __future__ import annotations

import SimpleITK as sitk

from ..imaging.segmentation import Reference
from ..matching.registration import register
from ..progress import CancelToken, ProgressCallback
from .warping_peer import WarpingPeer


class DemonsPeer(WarpingPeer):
    """Carries the reference's masks through an affine registration and diffeomorphic demons."""

    name = "demons"

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        return register(target, reference.volume, deformable=True, progress=progress, cancel=cancel)
