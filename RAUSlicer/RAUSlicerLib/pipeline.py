"""The one way through the house: annotated reference and target in, structures on the target's own grid out."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .imaging.frame import canonical, resample
from .imaging.segmentation import Reference, Segmentation, Structure
from .inputs import check_inputs
from .localization.matching.matcher import Match, Matcher, carry_labels
from .localization.registration import RegistrationLocalizer
from .localization.vlm.localizer import VlmLocalizer
from .models.device import choose_device
from .models.rau import RauModel, load_model
from .progress import CancelToken, ProgressCallback, ProgressEvent, ignore, part
from .protocols import Localizer
from .results import Localization, SoftMask, Status, StructureResult, Transfer
from .segmentation.confidence import Evidence, overlap, sharpness
from .segmentation.propagation import Sam2Propagator
from .segmentation.resolution import resolve
from .vision import Vision

LOCALIZERS = ("vlm", "registration")


class Pipeline:
    """A loaded model, ready for any number of runs, one at a time. The worker keeps one warm."""

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model: RauModel = load_model(model)
        self.matcher = Matcher(self.model.matching, self.device)
        self.vision = Vision(self.matcher, self.model.segmenter, self.device)
        self.propagator = Sam2Propagator(self.vision)
        self.calibration = self.model.calibration

    def transfer(
        self,
        references: Reference | Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[str] | None = None,
        *,
        localizer: str = "vlm",
        edits: Mapping[Structure, Mapping[int, np.ndarray]] | None = None,
        progress: ProgressCallback = ignore,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """See `transfer`."""
        cancel = cancel or CancelToken()
        given = [references] if isinstance(references, Reference) else list(references)
        inputs = check_inputs([(reference.volume, reference.segmentation) for reference in given], target)
        wanted = inputs.references[0].segmentation.select(structures)
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "localization"):
                found = self._localizer(localizer).locate(inputs.references, inputs.target, wanted, part(progress, 0.0, 0.55), cancel)
            with _timed(timings, "segmentation"):
                painted = {structure for structure, levels in (edits or {}).items() if levels}
                present = [localization for localization in found if localization.box_mm is not None or localization.structure in painted]
                masks = self.propagator.segment(inputs.references, inputs.target, present, edits or {}, part(progress, 0.55, 0.85), cancel)
            with _timed(timings, "resolution"):
                # What was not reached before a cancel is left out; what is not there comes out empty.
                sought = {localization.structure for localization in present}
                absent = {localization.structure for localization in found} - sought
                finished = [structure for structure in wanted if structure in masks or structure in absent]
                segmentation = resolve(masks, finished, inputs.target)
            with _timed(timings, "confidence"):
                results = self._judge(
                    inputs.references[0], inputs.target, segmentation, masks, found, painted, part(progress, 0.85, 1.0), cancel
                )
        finally:
            self.vision.forget()
        segmentation, results = _without_lost(segmentation, results)
        progress(ProgressEvent("done", 1.0))
        return Transfer(segmentation, results, timings, inputs.warnings, cancel.cancelled, self.model.name, localizer)

    def _localizer(self, name: str) -> Localizer:
        if name == "vlm":
            return VlmLocalizer(self.model.vlm, self.vision)
        if name == "registration":
            return RegistrationLocalizer()
        raise InputError(f"There is no localizer named {name!r}.", f"Localizers are: {', '.join(LOCALIZERS)}.", "Choose one of these.")

    def _judge(
        self,
        reference: Reference,
        target: sitk.Image,
        segmentation: Segmentation,
        masks: Mapping[Structure, SoftMask],
        found: Sequence[Localization],
        painted: Collection[Structure],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> tuple[StructureResult, ...]:
        """Confidence and status of every finished structure, from the reverse pass and the localizer's answers."""
        # A cancelled run may not have come as far as matching; then nothing is matched only to judge it.
        match = self.vision.matches[0] if self.vision.matches else None
        stopped = cancel.cancelled
        back = {} if match is None or stopped else reverse_agreement(match, segmentation, target)
        progress(ProgressEvent("confidence", 0.9))
        by_structure = {localization.structure: localization for localization in found}
        results = []
        for structure in segmentation.structures:
            voxels = int(segmentation.array(structure).sum())
            volume = voxels * float(np.prod(target.GetSpacing())) / 1000
            known = float(reference.segmentation.array(structure).sum() * np.prod(reference.volume.GetSpacing())) / 1000
            localization = by_structure[structure]
            evidence = Evidence(
                back.get(structure, 0.0),
                localization.presence,
                sharpness(masks[structure]) if structure in masks else 0.0,
                match.support if match is not None else 0.0,
                min(volume, known) / max(volume, known, 1e-9),
            )
            confidence = self.calibration.confidence(evidence) if voxels else 0.0
            status = self.calibration.status(confidence, voxels)
            if voxels and status is Status.NOT_FOUND and (stopped or structure in painted):
                # What a stopped run has finished and what the user has painted is not taken back for want of evidence.
                status = Status.LOW_CONFIDENCE
            results.append(StructureResult(structure, status, confidence, volume, known, localization, asdict(evidence)))
        return tuple(results)


def reverse_agreement(match: Match, segmentation: Segmentation, target: sitk.Image) -> dict[Structure, float]:
    """Dice of each structure, carried back from the target onto the reference, with the reference's own annotation.

    The way back is matched anew, so that a wrong way there is not simply undone. Source: RevSAM2.
    """
    structures = [structure for structure in segmentation.structures if segmentation.array(structure).any()]
    if not structures:
        return {}
    field = Matcher.reversed_field(match)
    annotated = Reference(target, segmentation)
    carried = carry_labels(annotated, match.reference_view, match.target_view, field, structures, radius=1)
    out = {}
    own = match.reference.segmentation
    grid = match.reference_view.grid
    truth = [sitk.GetArrayFromImage(resample(canonical(layer), grid, nearest=True)) for layer in own.layers]
    for structure, mask in carried.items():
        z, y, x = mask.start
        d, h, w = mask.values.shape
        label = truth[structure.layer] == structure.label
        window = (slice(z, z + d), slice(y, y + h), slice(x, x + w))
        inside = np.zeros_like(label)
        inside[window] = mask.values > 0.5
        out[structure] = overlap(inside, label)
    return out


def _without_lost(segmentation: Segmentation, results: tuple[StructureResult, ...]) -> tuple[Segmentation, tuple[StructureResult, ...]]:
    """Voxels of structures that are judged "not found" are taken back: a wrong segment is worse than none."""
    lost = [result for result in results if result.status is Status.NOT_FOUND and result.volume_ml > 0]
    if not lost:
        return segmentation, results
    layers = list(segmentation.layers)
    for result in lost:
        layer = result.structure.layer
        layers[layer] = sitk.ChangeLabel(layers[layer], {result.structure.label: 0})
    kept = tuple(replace(result, volume_ml=0.0) if result in lost else result for result in results)
    return segmentation.map_layers(layers), kept


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start


def transfer(
    reference: Reference | Sequence[Reference],
    target: sitk.Image,
    structures: Sequence[str] | None = None,
    *,
    localizer: str = "vlm",
    model: str = "embedded",
    device: str = "auto",
    pipeline: Pipeline | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Transfer:
    """Carry the structures of an annotated case over to a new one.

    Args:
        reference: One annotated case or several; the first one decides which structures there are.
        target: The new volume; its world position and the order of its axes don't matter.
        structures: Names to carry over; None takes all.
        localizer: ``vlm`` or ``registration``.
        model: Name or folder of the model, which is opened for this call.
        device: ``auto``, ``cpu`` or ``cuda``.
        pipeline: A loaded model to use instead; keep one for several runs.
        progress: Is called with every step, on the calling thread.
        cancel: Asked between slices; what is finished by then is in the result.

    Returns:
        The segmentation on the target's own grid, and confidence, status and place of every structure.

    Raises:
        InputError: an input can't be used; nothing was computed.
        ModelError: the model is missing or damaged.
        ResourceError: the device is not available.
    """
    pipeline = pipeline or Pipeline(model, device)
    return pipeline.transfer(reference, target, structures, localizer=localizer, progress=progress or ignore, cancel=cancel)
