"""What every peer is that places the reference's masks through one transform."""

from __future__ import annotations

from collections.abc import Sequence

import SimpleITK as sitk

from ..imaging.segmentation import Reference, Structure
from ..matching.warping import merge, warp_structures
from ..progress import CancelToken, ProgressCallback, part
from ..results import SoftMask


class WarpingPeer:
    """Subclasses say which transform. Several references vote with equal weight."""

    name = "warping"

    def find_transform(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> sitk.Transform:
        """The transform that maps target points to reference points (LPS, mm)."""
        raise NotImplementedError

    def segment(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[Structure],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> dict[Structure, SoftMask]:
        """See ``protocols.Peer``."""
        votes: dict[Structure, list[SoftMask]] = {}
        for number, reference in enumerate(references):
            start, end = number / len(references), (number + 1) / len(references)
            middle = start + 0.8 * (end - start)
            transform = self.find_transform(reference, target, part(progress, start, middle), cancel)
            if cancel.cancelled:
                break
            for structure, mask in warp_structures(reference, structures, transform, target, part(progress, middle, end), cancel).items():
                votes.setdefault(structure, []).append(mask)
        return {structure: merge(masks, [1.0] * len(masks)) for structure, masks in votes.items()}
