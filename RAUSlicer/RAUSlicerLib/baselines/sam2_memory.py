"""The peer closest to the method: SAM2 with the reference in its memory and nothing else, with the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..device import choose_device
from ..imaging.segmentation import Reference, Structure
from ..loading import load_model
from ..matching.matcher import Matcher
from ..progress import CancelToken, ProgressCallback
from ..rau.propagation import Sam2Propagator
from ..rau.slices import Vision
from ..results import Localization, SoftMask


class Sam2MemoryPropagator:
    """SAM2 sees the target's slices and, in its memory, the reference's slices of the same level with their masks.

    It gets no prior, box or query. The level comes from the same matching as in the method itself, so that the difference between the two
    is what localization adds.
    """

    name = "sam2-memory"

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        opened, place = load_model(model), choose_device(device)
        matcher = Matcher(opened.matching, place)
        # Levels come from the affine map alone: the rest would only take time.
        matcher.refined = False
        vision = Vision(matcher, opened.segmenter, place)
        self._vision = vision
        self._propagator = Sam2Propagator(vision, use_prior=False, use_prompts=False)

    def segment(
        self,
        references: Sequence[Reference],
        target: sitk.Image,
        localizations: Sequence[Localization],
        edits: Mapping[Structure, Mapping[int, np.ndarray]],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> dict[Structure, SoftMask]:
        """See ``protocols.Propagator``; of the localizations only the structures are used."""
        bare = [Localization(localization.structure, 1.0, None) for localization in localizations]
        try:
            return self._propagator.segment(references, target, bare, edits, progress, cancel)
        finally:
            self._vision.forget()
