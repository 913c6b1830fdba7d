"""The one way through the house: annotated reference and target in, structures on the target's own grid out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from .anatomy.terms import lateralized
from .confidence.laterality import MIRRORED_WARNING, Laterality, check_laterality
from .confidence.scoring import OTHER_PART_WARNING, Judge, reverse_agreement, said_by_labels, unless_cancelled, way_back
from .correction.edits import Correction, check_correction
from .correction.update import SecondPass, Warm, find_structure, lean, megabytes
from .device import choose_device, release_memory
from .errors import InputError
from .imaging.segmentation import Reference, Segmentation, Structure
from .inputs import Inputs, check_inputs
from .loading import RauModel, load_model
from .matching.matcher import MOST_VOXELS, Match, Matcher
from .matching.registration_localizer import RegistrationLocalizer
from .progress import CancelToken, ProgressCallback, ProgressEvent, ignore, part
from .protocols import Localizer
from .rau.localizer import VlmLocalizer
from .rau.propagation import Sam2Propagator
from .rau.slices import Vision
from .refinement.label_map import DRAWN, resolve
from .refinement.refiner import Refiner
from .results import Status, StructureResult, Transfer
from .support.shortage import limited_memory, with_less

LOCALIZERS = ("vlm", "registration")


class Pipeline:
    """A loaded model, ready for any number of runs, one at a time. The worker keeps one warm."""

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model: RauModel = load_model(model, self.device)
        self.matcher = Matcher(self.model.matching, self.device)
        refiner = Refiner(self.model.refiner, self.device) if self.model.refiner is not None else None
        self.vision = Vision(self.matcher, self.model.segmenter, self.device, refiner)
        self.propagator = Sam2Propagator(self.vision)
        self.calibration = self.model.calibration
        self.warm: Warm | None = None

    def forget(self) -> None:
        """Let go of the last run's volumes and features."""
        self.warm = None
        self.vision.forget()

    def transfer(
        self,
        references: Reference | Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[str] | None = None,
        *,
        localizer: str = "vlm",
        edits: Mapping[Structure, Mapping[int, np.ndarray]] | None = None,
        keep_mb: float = 0.0,
        economy: int = 0,
        progress: ProgressCallback = ignore,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """See `transfer`.

        A run is kept warm for corrections if that takes at most ``keep_mb``. Each step of ``economy`` matches on a quarter of the voxels.
        """
        self.forget()
        self.matcher.most_voxels = MOST_VOXELS // 4**economy
        cancel = cancel or CancelToken()
        given = [references] if isinstance(references, Reference) else list(references)
        inputs = check_inputs([(reference.volume, reference.segmentation) for reference in given], target)
        wanted = inputs.references[0].segmentation.select(structures)
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "localization"):
                found = self._localizer(localizer).locate(inputs.references, inputs.target, wanted, part(progress, 0.0, 0.55), cancel)
            with _timed(timings, "segmentation"):
                drawn = {structure for structure, levels in (edits or {}).items() if levels}
                present = [localization for localization in found if localization.box_mm is not None or localization.structure in drawn]
                masks = self.propagator.segment(inputs.references, inputs.target, present, edits or {}, part(progress, 0.55, 0.85), cancel)
            with _timed(timings, "resolution"):
                # What was not reached before a cancel is left out; what is not there comes out empty.
                sought = {localization.structure for localization in present}
                absent = {localization.structure for localization in found} - sought
                finished = [structure for structure in wanted if structure in masks or structure in absent]
                segmentation = resolve(masks, finished, inputs.target, least=DRAWN)
            with _timed(timings, "confidence"):
                # A cancelled run may not have come as far as matching; then nothing is matched only to judge it.
                match = self.vision.matches[0] if self.vision.matches else None
                stopped = cancel.cancelled
                # On this thread: another would have its own pool beside this one, and each small operation would wait for the system.
                field = None if match is None or stopped else self.matcher.reversed_field(match, cancel)
                progress(ProgressEvent("confidence", 0.92))
                back = None
                if match is not None and field is not None:
                    there = (match, field, segmentation, inputs.target)
                    back = unless_cancelled(lambda: reverse_agreement(*there), cancel)
                progress(ProgressEvent("confidence", 0.96))
                doubted, doubts = self._doubts(inputs, finished, match, cancel) if match is not None and back is not None else ((), ())
                agreement = (match.support, match.likeness) if match is not None else (0.0, 0.0)
                judge = Judge(self.calibration, inputs.references[0], inputs.target, *agreement, drawn, doubted)
                said = {} if match is None or stopped else self._said(match, segmentation)
                results = judge.judge(segmentation, masks, found, back or {}, said, stopped=back is None)
            if keep_mb > 0 and match is not None:
                way = way_back(match, field) if field is not None else None
                # What was taken back claims no voxels from others.
                lost = {result.structure for result in results if result.status is Status.NOT_FOUND}
                rivals = {structure: mask for structure, mask in masks.items() if structure not in lost}
                labels = match.labels if back is not None else None
                self._keep(Warm(inputs, localizer, {one.structure: one for one in found}, rivals, way, labels, doubted), keep_mb)
        finally:
            if self.warm is None:
                self.forget()
        segmentation, results = _without_lost(segmentation, results)
        progress(ProgressEvent("done", 1.0))
        warnings = (*inputs.warnings, *self.model.warnings, *doubts)
        return Transfer(segmentation, results, timings, warnings, cancel.cancelled, self.model.name, localizer)

    def _doubts(
        self, inputs: Inputs, structures: Sequence[Structure], match: Match, cancel: CancelToken
    ) -> tuple[tuple[Structure, ...], tuple[str, ...]]:
        """What speaks against structures beyond their own evidence: against which, and what the user is told.

        All of them, if the target looks like another part of the body than every reference. Those that have a side, if it looks like its
        mirror image.
        """
        if self.calibration.is_foreign(max(one.likeness for one in self.vision.matches)):
            # Left and right of what has nothing in common say nothing.
            return tuple(structures), (OTHER_PART_WARNING,)
        # Only they can be on the wrong side; without them the comparison would be time lost.
        sided = lateralized(structures)
        if not sided or cancel.cancelled:
            return (), ()
        verdict = check_laterality(self.matcher, inputs.references[0], inputs.target, cancel, support=match.support)
        return (sided, (MIRRORED_WARNING,)) if verdict is Laterality.MIRRORED else ((), ())

    @staticmethod
    def _said(match: Match, segmentation: Segmentation) -> dict[Structure, float]:
        """What the labels of training say of the structures that were found."""
        places = {structure: number for number, structure in enumerate(match.reference.segmentation.structures)}
        asked = {structure: places[structure] for structure in segmentation.structures}
        return said_by_labels(match.labels, match.target_view.grid, segmentation, asked)

    def _localizer(self, name: str) -> Localizer:
        if name == "vlm":
            return VlmLocalizer(self.model.vlm, self.vision)
        if name == "registration":
            return RegistrationLocalizer()
        raise InputError(f"There is no localizer named {name!r}.", f"Localizers are: {', '.join(LOCALIZERS)}.", "Choose one of these.")

    def _keep(self, warm: Warm, most_mb: float) -> None:
        slices = self.vision.look(warm.inputs.references, warm.inputs.target, ignore, CancelToken())
        assert slices is not None
        lean(slices)
        self.warm = warm if megabytes(slices, warm) <= most_mb else None

    def correct(
        self,
        correction: Correction,
        reference: Reference | None = None,
        target: sitk.Image | None = None,
        *,
        localizer: str = "vlm",
        keep_mb: float = math.inf,
        economy: int = 0,
        progress: ProgressCallback = ignore,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """Carry one structure over again from what the user has corrected of it.

        Args:
            correction: The structure and what was changed.
            reference: With ``target``, what to match first; without, the run that is kept warm is corrected.
            target: See ``reference``.
            localizer: As for `transfer`; a warm run has its own.
            keep_mb: As for ``Pipeline.transfer``.
            economy: As for ``Pipeline.transfer``.
            progress: As for `transfer`.
            cancel: As for `transfer`.

        Returns:
            That structure alone on the target's own grid; painted slices are voxel by voxel as in the correction. No structure after a
            cancel.

        Raises:
            InputError: there is no such structure, no run to correct, or the correction doesn't fit the target.
        """
        cancel = cancel or CancelToken()
        timings: dict[str, float] = {}
        start = 0.0
        if reference is not None and target is not None:
            asked = find_structure(reference.segmentation, correction.structure)
            check_correction(correction, target)
            start = 0.85
            with _timed(timings, "first pass"):
                first = self.transfer(
                    reference,
                    target,
                    [asked.name],
                    localizer=localizer,
                    keep_mb=math.inf,
                    economy=economy,
                    progress=part(progress, 0.0, start),
                    cancel=cancel,
                )
            if cancel.cancelled:
                return replace(first, segmentation=replace(first.segmentation, structures=()), results=())
        if self.warm is None:
            raise InputError(
                f"There is no run whose {correction.structure!r} could be corrected.",
                "A correction starts from a transfer, and none was made or kept.",
                "Transfer the structure again, then correct it.",
            )
        warm = self.warm
        with _timed(timings, "correction"):
            second = SecondPass(warm, self.vision, self.propagator, self.calibration)
            corrected = second.correct(correction, part(progress, start, 1.0), cancel)
        slices = self.vision.look(warm.inputs.references, warm.inputs.target, ignore, CancelToken())
        if slices is not None and megabytes(slices, warm) > keep_mb:
            self.forget()
        if corrected is None:
            return Transfer(resolve({}, (), warm.inputs.target), (), timings, warm.inputs.warnings, True, self.model.name, warm.localizer)
        progress(ProgressEvent("done", 1.0))
        segmentation, result = corrected
        return Transfer(segmentation, (result,), timings, warm.inputs.warnings, False, self.model.name, warm.localizer)


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
        pipeline: A loaded model to use instead; keep one for several runs. Without one, a run for which memory runs out is repeated with
            less: on the CPU in place of a GPU, then on fewer voxels. The result's warnings say so.
        progress: Is called with every step, on the calling thread.
        cancel: Asked between slices; what is finished by then is in the result.

    Returns:
        The segmentation on the target's own grid, and confidence, status and place of every structure.

    Raises:
        InputError: an input can't be used; nothing was computed.
        ModelError: the model is missing or damaged.
        OutOfMemory: however small, the run needs more memory than there is.
        ResourceError: the device is not available.
    """
    asked: dict[str, Any] = {"localizer": localizer, "progress": progress or ignore, "cancel": cancel}
    if pipeline is not None:
        return pipeline.transfer(reference, target, structures, **asked)

    def run(where: str, economy: int) -> Transfer:
        opened = Pipeline(model, where)
        # A GPU's driver reserves address space that it never uses.
        with limited_memory() if opened.device.type == "cpu" else nullcontext():
            return opened.transfer(reference, target, structures, economy=economy, **asked)

    def uses_gpu(where: str) -> bool:
        return choose_device(where).type == "cuda"

    def again() -> None:
        gc.collect()
        release_memory()

    transferred, notes = with_less(run, device, uses_gpu=uses_gpu, again=again, cancel=cancel)
    return replace(transferred, warnings=(*transferred.warnings, *notes))
