"""The peer closest to the method: SAM2 with the reference in its memory and nothing else, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import SimpleITK as sitk

from ..device import choose_device, release_memory
from ..imaging.segmentation import Reference, Structure
from ..loading import load_model
from ..matching.matcher import Matcher
from ..progress import CancelToken, ProgressCallback, part
from ..rau.propagation import Sam2Propagator
from ..rau.slices import MatchedCase
from ..results import Localization, SoftMask


class Sam2MemoryPeer:
    """SAM2 sees the target's slices and, in its memory, the reference's slices of the same level with their masks.

    It gets no prior, box or query. The level comes from the same matching as in the method itself, so that the difference between the two
    is what localization adds.
    """

    name = "sam2-memory"

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        opened, self._device = load_model(model), choose_device(device)
        self._matcher = Matcher(opened.matching, self._device)
        # Levels come from the affine map alone: the rest would only take time.
        self._matcher.refined = False
        self._propagator = Sam2Propagator(opened.segmenter, self._device, use_prior=False, use_prompts=False)

    def segment(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[Structure],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> dict[Structure, SoftMask]:
        """See ``protocols.Peer``."""
        matches = self._matcher.match_all(references, target, part(progress, 0.0, 0.1), cancel)
        if cancel.cancelled:
            return {}
        case = MatchedCase(target, matches, self._propagator.segmenter, self._device)
        nowhere = [Localization(structure, 1.0, None) for structure in structures]
        try:
            return self._propagator.segment(case, nowhere, part(progress, 0.1, 1.0), cancel)
        finally:
            del case, matches
            release_memory()
