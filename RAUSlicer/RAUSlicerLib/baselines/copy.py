"""The simplest peer: the reference's masks, shifted and scaled so that the two foreground boxes coincide."""

from __future__ import annotations

import SimpleITK as sitk

from ..imaging.segmentation import Reference
from ..matching.registration import align_boxes
from ..progress import CancelToken, ProgressCallback
from .warping_peer import WarpingPeer


class CopyPeer(WarpingPeer):
    """Copies the reference's masks."""

    name = "copy"

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        return align_boxes(target, reference.volume)
