"""Every kind of run on a pretended CUDA device with autocast on: what would stop a GPU stops here."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from RAUSlicerLib.confidence.laterality import Laterality, compare_laterality
from RAUSlicerLib.confidence.laterality_by_labels import label_margins
from RAUSlicerLib.correction.edits import Correction
from RAUSlicerLib.imaging.frame import canonical, normalized
from RAUSlicerLib.imaging.grids import from_array, same_grid
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.matching.matcher import Match, Matcher, View, correspond
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.rau.settings import PropagationSettings
from RAUSlicerLib.results import Transfer

pytestmark = [pytest.mark.usefixtures("coarse"), pytest.mark.slow]
# What takes most of the time of a run, and has to be done where the embeddings are.
MATCHING = (
    "correspondence.py:global_affine",
    "correspondence.py:coarse_field",
    "correspondence.py:fuse_labels",
    "correspondence.py:similarity",
    "correspondence.py:self_similarity",
    "demons.py:_demons",
    "global_attention.py:global_attention",
    "label_posteriors.py:_worth",
    "label_posteriors.py:_most_probable",
)
NETWORKS = ("network.py:forward", "refiner.py:redraw", "sam2.py:encode", "propagation.py:_decode", "queries.py:put_to")


@pytest.fixture(scope="module")
def pipeline(cuda_for_all: Any, tiny_model: Path) -> Pipeline:
    return Pipeline(str(tiny_model), "auto")


@pytest.fixture(scope="module")
def first(cuda_for_all: Any, coarse: None, pipeline: Pipeline, case: Reference) -> tuple[Transfer, dict[str, int]]:
    """A transfer, and what computed on the device."""
    result = pipeline.transfer(case, case.volume, keep_mb=1e6)
    return result, dict(cuda_for_all.calls)


def match_on(matcher: Matcher, case: Reference) -> Match:
    match = matcher.match(case, case.volume, ignore, CancelToken())
    assert match is not None
    return match


def test_a_transfer_runs_on_it(first, pipeline, case):
    result, calls = first
    assert pipeline.device.type == "cuda" and same_grid(result.segmentation.labelmap, case.volume)
    assert [function for function in (*MATCHING, *NETWORKS) if not calls.get(function)] == []


def test_it_comes_to_what_a_processor_comes_to(first, tiny_pipeline, case):
    other = tiny_pipeline.transfer(case, case.volume)
    for structure in case.segmentation.structures:
        ours, theirs = (one.segmentation.array(structure) for one in (first[0], other))
        assert 2 * (ours & theirs).sum() > 0.97 * (ours.sum() + theirs.sum()) > 0


@pytest.mark.parametrize("way", ["slice", "box"])
def test_a_correction_runs_on_it(cuda_for_all, first, pipeline, case, way, monkeypatch):
    structure = case.segmentation.structures[0]
    mask = from_array(case.segmentation.array(structure).astype(np.uint8), case.volume)
    if way == "slice":
        correction = Correction(structure.name, mask, slices=((2, 9), (0, 20)))
    else:
        correction = Correction(structure.name, box_mm=((-40.0, 40.0, 310.0), (20.0, 100.0, 350.0)))
    # Every slice is asked for: the tiny model's first guess is sure of them all.
    monkeypatch.setattr(pipeline.propagator, "settings", PropagationSettings(doubt=0.0))
    before = dict(cuda_for_all.calls)
    corrected = pipeline.correct(correction)
    for function in ("propagation.py:_decode", "propagation.py:_memorize", "sam2.py:decode"):
        assert cuda_for_all.calls[function] > before.get(function, 0)
    (result,) = corrected.results
    assert result.structure.name == structure.name and same_grid(corrected.segmentation.labelmap, case.volume)
    assert "first pass" not in corrected.timings


def test_several_references_and_the_other_localizer_run_on_it(pipeline, make_ellipsoids, case):
    other = make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6), scale=(1.05, 0.97, 1.0), seed=1)
    result = pipeline.transfer([case, other], case.volume, localizer="registration")
    assert {one.structure.name for one in result.results} == {"body", "left organ", "right organ"}
    result = pipeline.transfer([case, other], case.volume, ["left organ"])
    assert same_grid(result.segmentation.labelmap, case.volume)


def test_embeddings_do_not_leave_it(cuda_for_all, pipeline, case):
    cuda_for_all.largest.clear()
    match = match_on(pipeline.matcher, case)
    for view in (match.target_view, match.reference_view):
        held = [getattr(view.embedded, one.name) for one in fields(view.embedded)]
        assert {one.device.type for one in held if isinstance(one, torch.Tensor)} == {"cuda"}
    assert match.field.device.type == "cuda" and match.head is not None and match.head.weights[0].device.type == "cuda"
    match.attend(case.segmentation.structures)
    match.attend_globally(case.segmentation.structures)
    # Nothing larger than the field, which becomes a transform, comes to the processor.
    assert max(cuda_for_all.largest.values()) <= match.field.numel()
    # What is told of structures is small, and goes to those that work there.
    labels = match.labels
    assert labels is not None and {part.device.type for part in (labels.index, labels.share, labels.ratio)} == {"cpu"}


def test_matching_is_what_it_is_on_a_processor(cuda_for_all, tiny_pipeline, case):
    """Of the same embeddings: the networks compute in another type there."""
    match = match_on(tiny_pipeline.matcher, case)
    assert match.head is not None

    def there(view):
        held = {one.name: getattr(view.embedded, one.name) for one in fields(view.embedded)}
        return View(
            view.grid, replace(view.embedded, **{name: one.to("cuda") for name, one in held.items() if isinstance(one, torch.Tensor)})
        )

    moved = there(match.target_view), there(match.reference_view)
    other = replace(match, target_view=moved[0], reference_view=moved[1], field=match.field.to("cuda"), head=match.head.to("cuda"))
    ours, theirs = correspond(match.target_view, match.reference_view), correspond(*moved)
    assert theirs[1].device.type == "cuda" and theirs[0].inlier_ratio == pytest.approx(ours[0].inlier_ratio)
    torch.testing.assert_close(theirs[1].cpu(), ours[1], atol=1e-2, rtol=0)
    structures = case.segmentation.structures
    for told in ("attend", "attend_globally"):
        mine, its = (getattr(one, told)(structures) for one in (match, other))
        for structure in structures:
            np.testing.assert_allclose(its[structure].values, mine[structure].values, atol=1e-3)
    mine, its = match.labels, other.labels
    assert mine is not None and its is not None
    torch.testing.assert_close(its.ratio, mine.ratio, atol=1e-3, rtol=0)
    assert (its.index == mine.index).float().mean() > 0.999


def test_sides_are_judged_on_it(cuda_for_all, pipeline, case):
    assert compare_laterality(pipeline.matcher, case, case.volume, CancelToken()) in Laterality
    frames = [normalized(canonical(case.volume))] * 2
    margins = label_margins(pipeline.matcher, case, frames, CancelToken(), 1_000_000)
    assert margins is not None and margins[0] == pytest.approx(margins[1])
    assert cuda_for_all.calls["laterality_by_labels.py:_sureness"] > 0
