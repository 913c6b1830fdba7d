"""Propagation with a decoder that has learned nothing: what comes out is the prior, and the bookkeeping shows."""

from dataclasses import replace

import numpy as np
import pytest

from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.rau.propagation import Sam2Propagator
from RAUSlicerLib.rau.settings import PropagationSettings
from RAUSlicerLib.rau.slices import MatchedCase
from RAUSlicerLib.results import Localization, SlicePrompt, SoftMask

USUAL = PropagationSettings()


class Run:
    """References that were matched to a target once."""

    def __init__(self, pipeline: Pipeline, references: tuple[Reference, ...]) -> None:
        self.segmenter, self._device, target = pipeline.propagator.segmenter, pipeline.device, references[0].volume
        matches = pipeline.matcher.match_all(references, target, ignore, CancelToken())
        self.slices = MatchedCase(target, matches, self.segmenter, self._device)

    def segment(self, localizations, cancel=None, progress=ignore, settings=USUAL, **options) -> dict[Structure, SoftMask]:
        propagator = Sam2Propagator(self.segmenter, self._device, **options)
        propagator.settings = settings
        return propagator.segment(self.slices, localizations, progress, cancel or CancelToken())

    def localized(self, structure: Structure, levels: slice, value: float = 0.9) -> Localization:
        values = np.full((levels.stop - levels.start, 20, 16), value, np.float32)
        return Localization(structure, 0.9, ((0, 0, 0), (1, 1, 1)), prior=SoftMask(values, (levels.start, 22, 24), self.slices.grid))


@pytest.fixture
def run(tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 36)
    return Run(tiny_pipeline, (case,))


def whole(mask: SoftMask) -> np.ndarray:
    return mask.spread(mask.grid).astype(np.float32)


def test_a_located_structure_starts_at_its_prior(run: Run, case: Reference) -> None:
    left = run.localized(case.segmentation.structures[1], slice(5, 12))
    mask = run.segment([left])[left.structure]
    np.testing.assert_allclose(whole(mask), whole(left.prior), atol=0.02)


def test_no_structure_depends_on_the_others_or_on_their_order(run: Run, case: Reference) -> None:
    query = np.random.default_rng(0).normal(size=32).astype(np.float32)
    body, left, right = (run.localized(s, slice(3 + n, 12 + n), 0.6) for n, s in enumerate(case.segmentation.structures))
    # Only one of them has prompts, and not on all slices.
    left = replace(left, prompts={level: SlicePrompt((20.0, 20.0, 40.0, 40.0), query) for level in range(5, 9)})
    together = run.segment([body, left, right], settings=PropagationSettings(doubt=0.2))
    assert list(together) == [body.structure, left.structure, right.structure]
    for chosen in ([left], [right, left, body]):
        for structure, mask in run.segment(chosen, settings=PropagationSettings(doubt=0.2)).items():
            np.testing.assert_allclose(whole(mask), whole(together[structure]), atol=2e-3)


def test_sam2_is_asked_where_the_prior_is_undecided(run: Run, case: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    decode = run.segmenter.decode

    def watch(attended, *rest):
        asked.append(len(attended))
        return decode(attended, *rest)

    monkeypatch.setattr(run.segmenter, "decode", watch)
    values = np.full((7, 20, 16), 0.95, np.float32)
    values[4:] = 0.6
    left = Localization(case.segmentation.structures[1], 0.9, None, prior=SoftMask(values, (5, 22, 24), run.slices.grid))
    mask = whole(run.segment([left], settings=PropagationSettings(doubt=0.2))[left.structure])
    assert asked == [1, 1, 1]
    np.testing.assert_allclose(mask[5:9], whole(left.prior)[5:9], atol=2e-3)


def test_a_structure_ends_where_nothing_is_left_of_it(run: Run, case: Reference) -> None:
    values = np.zeros((12, 10, 10), np.float32)
    values[:4], values[4:10], values[10:] = 0.9, 0.35, 0.9
    left = Localization(case.segmentation.structures[1], 0.9, None, prior=SoftMask(values, (3, 25, 25), run.slices.grid))
    mask = whole(run.segment([left])[left.structure])
    assert (mask[3:7] > 0.5).any(axis=(1, 2)).all()
    # Two silent slices end it; what follows belongs to something else.
    assert not (mask[9:] > 0.5).any()


def test_a_cancel_keeps_whole_structures_only(run: Run, case: Reference) -> None:
    located = [run.localized(s, slice(5, 12)) for s in case.segmentation.structures]
    cancel = CancelToken()

    def watch(event) -> None:
        if event.structure == "left organ":
            cancel.cancel()

    kept = run.segment(located, cancel=cancel, progress=watch, settings=PropagationSettings(batch=1))
    assert [structure.name for structure in kept] == ["body", "left organ"]
    for structure, mask in run.segment(located[:2]).items():
        np.testing.assert_array_equal(whole(kept[structure]), whole(mask))


def test_memory_alone_runs_without_prior_and_prompts(run: Run, case: Reference) -> None:
    left = run.localized(case.segmentation.structures[1], slice(5, 12))
    mask = run.segment([left], use_prior=False, use_prompts=False)[left.structure]
    # A decoder that has learned nothing is undecided or says no; it has not seen the prior.
    assert float(mask.values.max()) <= 0.5


def test_references_with_and_without_the_structure_on_a_slice_go_together(
    tiny_pipeline: Pipeline, case: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("RAUSlicerLib.imaging.frame.WORKING_EXTENT", 36)
    body, left, right = case.segmentation.structures
    lacking = Reference(case.volume, Segmentation(case.segmentation.labelmap == 1, (body,)))
    run = Run(tiny_pipeline, (case, lacking))
    located = [run.localized(structure, slice(5, 12)) for structure in (body, left, right)]
    together = run.segment(located)
    alone = run.segment(located[1:2])
    np.testing.assert_allclose(whole(together[left]), whole(alone[left]), atol=2e-3)
    assert not run.slices.references[1].masks(left).any() and run.slices.references[0].masks(left).any()


def test_an_empty_list_is_an_empty_answer(run: Run) -> None:
    assert run.segment([]) == {}
