"""The method on one screen: annotated references and a target in, structures on the target's own grid out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import SimpleITK as sitk

from .confidence.assessment import STAGE as CONFIDENCE
from .confidence.assessment import Assessment, assess
from .confidence.scoring import way_back
from .correction.edits import Correction, check_correction
from .correction.update import RunState, StructureUpdate, drop_embeddings, find_structure, megabytes
from .device import choose_device, keep_memory, release_memory
from .errors import InputError
from .imaging.frame import canonical
from .imaging.segmentation import Reference, Segmentation, Structure
from .inputs import Inputs, check_inputs
from .loading import RauModel, load_model
from .matching.matcher import Matcher
from .matching.registration_matcher import RegistrationMatcher
from .progress import CancelToken, ProgressCallback, ProgressEvent, ignore, part
from .protocols import Localizer, ReferenceMatcher
from .rau.localizer import VlmLocalizer
from .rau.propagation import Sam2Propagator
from .rau.registration_localizer import RegistrationLocalizer
from .rau.slices import MatchedCase
from .refinement.fusion import merge_priors
from .refinement.label_map import resolve
from .refinement.refiner import Refiner, overlay, reference_votes
from .refinement.settings import RefinementSettings
from .results import Localization, SoftMask, Status, StructureResult, Transfer
from .support.shortage import limited_memory, with_less

LOCALIZERS = ("vlm", "registration")


class Pipeline:
    """A loaded model, ready for any number of runs, one at a time. The worker keeps one open.

    ``state`` is what the last run left behind for corrections, None where nothing was kept.
    """

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        keep_memory()
        self.device = choose_device(device)
        self.model: RauModel = load_model(model, self.device)
        self.matcher = Matcher(self.model.matching, self.device)
        refiner = self.model.refiner
        self.refiner = Refiner(refiner, self.device) if refiner is not None else None
        self.refinement = refiner.config.settings if refiner is not None else RefinementSettings()
        self.propagator = Sam2Propagator(self.model.segmenter, self.device)
        self._localizers: dict[str, Localizer] = {
            "vlm": VlmLocalizer(self.model.vlm, self.device, self.model.localization),
            "registration": RegistrationLocalizer(),
        }
        self._matchers: dict[str, ReferenceMatcher] = {"vlm": self.matcher, "registration": RegistrationMatcher(self.matcher)}
        self.state: RunState | None = None

    def forget(self) -> None:
        """Let go of the last run's volumes and features."""
        self.state = None
        release_memory()

    def transfer(
        self,
        references: Reference | Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[str] | None = None,
        *,
        localizer: str = "vlm",
        keep_mb: float = 0.0,
        economy: int = 0,
        progress: ProgressCallback = ignore,
        cancel: CancelToken | None = None,
    ) -> Transfer:
        """See `transfer`.

        A run is kept for corrections if that takes at most ``keep_mb``. Each step of ``economy`` matches on a quarter of the voxels.
        """
        require_localizer(localizer)
        self.forget()
        self.matcher.most_voxels = self.matcher.settings.most_voxels // 4**economy
        given = [references] if isinstance(references, Reference) else list(references)
        try:
            return self._transfer(given, target, structures, localizer, keep_mb, progress, cancel or CancelToken())
        finally:
            # Not within the run: what it holds has to be gone before memory can be handed back.
            if self.state is None:
                self.forget()

    def _transfer(
        self,
        given: Sequence[Reference],
        target: sitk.Image,
        structures: Sequence[str] | None,
        localizer: str,
        keep_mb: float,
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> Transfer:
        """The steps of a run, one after the other."""
        steps = _Steps(progress)
        with steps("frames", 0.0):
            inputs = check_inputs([(reference.volume, reference.segmentation) for reference in given], target)
            wanted = inputs.references[0].segmentation.select(structures)
        case, found = self._locate(inputs, wanted, localizer, steps, cancel)
        present = [one for one in found if one.box_mm is not None]
        with steps("segment", 0.85) as share:
            masks = self.propagator.segment(case, present, share, cancel) if present else {}
        with steps("label map", 0.9):
            # What was not reached before a cancel is left out; what is not there comes out empty.
            absent = {one.structure for one in found if one.box_mm is None}
            finished = [structure for structure in wanted if structure in masks or structure in absent]
            settings = self.refinement
            segmentation = resolve(masks, finished, inputs.target, least=settings.drawn, island=settings.island)
        with steps("confidence", 1.0) as share:
            known = (inputs, case.matches, segmentation, masks, found)
            assessed = assess(self.matcher, self.model.calibration, *known, share, cancel)
        if keep_mb > 0 and case.matches and found:
            self._keep(inputs, localizer, case, found, masks, assessed, keep_mb)
        segmentation, results = _without_lost(segmentation, assessed.results)
        progress(ProgressEvent("done", 1.0))
        warnings = (*inputs.warnings, *self.model.warnings, *assessed.warnings)
        return Transfer(segmentation, results, steps.seconds, warnings, cancel.cancelled, self.model.name, localizer)

    def locate(
        self,
        inputs: Inputs,
        structures: Sequence[Structure],
        *,
        localizer: str = "vlm",
        progress: ProgressCallback = ignore,
        cancel: CancelToken | None = None,
    ) -> list[Localization]:
        """Where structures are, by the steps of `transfer` up to "locate"; nothing after a cancel.

        Raises:
            InputError: there is no such localizer.
        """
        require_localizer(localizer)
        self.matcher.most_voxels = self.matcher.settings.most_voxels
        try:
            return self._locate(inputs, structures, localizer, _Steps(progress), cancel or CancelToken())[1]
        finally:
            self.forget()

    def _locate(
        self, inputs: Inputs, structures: Sequence[Structure], localizer: str, steps: _Steps, cancel: CancelToken
    ) -> tuple[MatchedCase, list[Localization]]:
        """The steps from "match" to "locate"; nothing is located after a cancel."""
        target = inputs.target
        with steps("match", 0.35) as share:
            matches = self._matchers[localizer].match_all(inputs.references, target, share, cancel)
        with steps("prior"):
            votes = reference_votes(matches, cancel) if self.refiner is not None else []
        refined: list[dict[Structure, SoftMask]] = []
        # One reference after the other: what is laid over the target takes hundreds of megabytes.
        for match in matches:
            if cancel.cancelled:
                break
            if self.refiner is None:
                with steps("prior"):
                    refined.append(match.prior(structures, canonical(target)))
                continue
            with steps("prior"):
                laid = overlay(match, target, votes, self.refinement)
            with steps("refine"):
                refined.append(self.refiner.refine(laid, structures, cancel))
                del laid
        # With several references they hold every structure of each.
        del votes
        with steps("merge"):
            case = MatchedCase(target, matches, self.model.segmenter, self.device)
            if cancel.cancelled:
                return case, []
            priors = {structure: _merged(structure, case, refined, self.refinement) for structure in structures}
        with steps("locate", 0.55) as share:
            return case, self._localizers[localizer].locate(case, structures, refined, priors, share, cancel)

    def _keep(
        self,
        inputs: Inputs,
        localizer: str,
        case: MatchedCase,
        found: Sequence[Localization],
        masks: Mapping[Structure, SoftMask],
        assessed: Assessment,
        most_mb: float,
    ) -> None:
        """Keep what a correction of this run needs, if that is not too much."""
        back = way_back(case.matches[0], assessed.field) if assessed.field is not None else None
        # What was taken back claims no voxels from others.
        lost = {result.structure for result in assessed.results if result.status is Status.NOT_FOUND}
        rivals = {structure: mask for structure, mask in masks.items() if structure not in lost}
        drop_embeddings(case)
        places = {one.structure: one for one in found}
        state = RunState(inputs, localizer, case, places, rivals, back, assessed.labels, assessed.doubted)
        self.state = state if megabytes(state) <= most_mb else None

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
        """Transfer one structure again from what the user has corrected of it.

        Args:
            correction: The structure and what was changed.
            reference: With ``target``, what to match first; without, the run that is kept is corrected.
            target: See ``reference``.
            localizer: As for `transfer`; a kept run has its own.
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
        steps = _Steps(progress)
        if reference is not None and target is not None:
            asked = find_structure(reference.segmentation, correction.structure)
            check_correction(correction, target)
            with steps("first pass", 0.85) as share:
                first = self.transfer(
                    reference,
                    target,
                    [asked.name],
                    localizer=localizer,
                    keep_mb=math.inf,
                    economy=economy,
                    progress=_first_pass(share),
                    cancel=cancel,
                )
            if cancel.cancelled:
                if self.state is not None and megabytes(self.state) > keep_mb:
                    self.forget()
                return replace(first, segmentation=replace(first.segmentation, structures=()), results=())
        if self.state is None:
            raise InputError(
                f"There is no run whose {correction.structure!r} could be corrected.",
                "A correction starts from a transfer, and none was made or kept.",
                "Transfer the structure again, then correct it.",
            )
        state = self.state
        with steps("correction", 1.0) as share:
            update = StructureUpdate(state, self.propagator, self.model.calibration, self.refinement)
            corrected = update.correct(correction, share, cancel)
        if megabytes(state) > keep_mb:
            self.forget()
        if corrected is None:
            return Transfer(
                resolve({}, (), state.inputs.target), (), steps.seconds, state.inputs.warnings, True, self.model.name, state.localizer
            )
        progress(ProgressEvent("done", 1.0))
        segmentation, result = corrected
        return Transfer(segmentation, (result,), steps.seconds, state.inputs.warnings, False, self.model.name, state.localizer)


def _first_pass(progress: ProgressCallback) -> ProgressCallback:
    """Progress of a run that a correction goes on from: no structure is finished with it, and nothing is done."""

    def report(event: ProgressEvent) -> None:
        if event.stage not in (CONFIDENCE, "done"):
            progress(replace(event, structure=None))

    return report


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


def _merged(
    structure: Structure, case: MatchedCase, refined: Sequence[Mapping[Structure, SoftMask]], settings: RefinementSettings
) -> SoftMask:
    """A structure's prior from all references that have it."""
    own = [(reference, masks[structure]) for reference, masks in zip(case.references, refined, strict=True) if structure in masks]
    volumes = [reference.volume(structure) for reference, _ in own]
    return merge_priors([mask for _, mask in own], canonical(case.target), volumes, settings)


class _Steps:
    """Times the steps of a run, and gives each its part of the progress bar."""

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress, self._done = progress, 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str, end: float | None = None) -> Iterator[ProgressCallback]:
        """A step that ends where the whole run is done to the share ``end``; a step that is taken several times adds up."""
        start, first = time.perf_counter(), self._done
        self._done = first if end is None else end
        yield part(self._progress, first, self._done)
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def require_localizer(name: str) -> None:
    """Raise InputError unless there is a localizer of that name."""
    if name not in LOCALIZERS:
        raise InputError(f"There is no localizer named {name!r}.", f"Localizers are: {', '.join(LOCALIZERS)}.", "Choose one of these.")


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
    """Transfer the structures of an annotated case to a new one.

    Args:
        reference: One annotated case or several; the first one decides which structures there are.
        target: The new volume; its world position and the order of its axes don't matter.
        structures: Names to transfer; None takes all.
        localizer: ``vlm`` or ``registration``.
        model: Name or folder of the model, which is opened for this call.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
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
