"""Every kind of run on a pretended CUDA device with autocast on: what would stop a GPU stops here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RAUSlicerLib.correction import Correction
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.results import Transfer

pytestmark = pytest.mark.usefixtures("coarse")
# What takes most of the time of a run, and has to be done where the embeddings are.
MATCHING = (
    "correspondence.py:global_affine",
    "correspondence.py:coarse_field",
    "correspondence.py:fuse_labels",
    "correspondence.py:likeness",
    "refinement.py:_demons",
    "recognition.py:recognize",
    "posteriors.py:_worth",
    "posteriors.py:_most_probable",
)
NETWORKS = ("network.py:forward", "refiner.py:redraw", "sam2.py:encode", "propagation.py:_decode", "asking.py:put_to")


@pytest.fixture
def pipeline(cuda: Any, tiny_model: Path) -> Pipeline:
    return Pipeline(str(tiny_model), "auto")


def agreement(result: Transfer, other: Transfer) -> dict[str, float]:
    """Dice of two results a structure."""
    out = {}
    for structure in result.segmentation.structures:
        first, second = (one.segmentation.array(structure) for one in (result, other))
        out[structure.name] = 2 * int((first & second).sum()) / max(int(first.sum()) + int(second.sum()), 1)
    return out


def test_a_transfer_runs_on_it_and_comes_to_what_a_processor_comes_to(
    cuda: Any, pipeline: Pipeline, tiny_pipeline: Pipeline, case: Reference
) -> None:
    assert pipeline.device.type == "cuda"
    result = pipeline.transfer(case, case.volume)
    assert same_grid(result.segmentation.labelmap, case.volume)
    for function in (*MATCHING, *NETWORKS):
        assert cuda.calls[function] > 0, f"{function} did not compute on the device"
    found = agreement(result, tiny_pipeline.transfer(case, case.volume))
    assert min(found.values()) > 0.97, found


def test_embeddings_do_not_leave_it(cuda: Any, pipeline: Pipeline, case: Reference) -> None:
    frame = case.volume
    match = pipeline.matcher.match(case, frame, lambda _event: None, pipeline_cancel())
    assert match is not None
    for view in (match.target_view, match.reference_view):
        embedded = view.embedded
        parts = (embedded.fine, embedded.coarse, embedded.texture, embedded.inside, embedded.read)
        assert {part.device.type for part in parts} == {"cuda"}
    assert match.field.device.type == "cuda" and match.head is not None and match.head.weights[0].device.type == "cuda"
    # What is told of structures is small, and goes to those that work on the processor.
    labels = match.labels
    assert labels is not None and {part.device.type for part in (labels.index, labels.share, labels.ratio)} == {"cpu"}


def pipeline_cancel() -> Any:
    from RAUSlicerLib.progress import CancelToken

    return CancelToken()


def test_matching_alone_is_to_the_last_digit_what_it_is_on_a_processor(cuda: Any, tiny_pipeline: Pipeline, case: Reference) -> None:
    """Of the same embeddings; the networks compute in another type there."""
    from dataclasses import fields, replace

    from RAUSlicerLib.localization.matching.matcher import View, correspond
    from RAUSlicerLib.localization.matching.posteriors import label_evidence

    match = tiny_pipeline.matcher.match(case, case.volume, lambda _event: None, pipeline_cancel())
    assert match is not None and match.head is not None

    def there(view: View) -> View:
        held = {one.name: getattr(view.embedded, one.name) for one in fields(view.embedded)}
        moved = {name: one.to("cuda") for name, one in held.items() if isinstance(one, torch.Tensor)}
        return View(view.grid, replace(view.embedded, **moved))

    views = match.target_view, match.reference_view
    moved = [there(view) for view in views]
    ours, theirs = correspond(*views), correspond(*moved)
    assert ours[0].support == theirs[0].support and torch.equal(ours[0].linear, theirs[0].linear)
    assert theirs[1].device.type == "cuda" and torch.equal(ours[1], theirs[1].cpu())
    other = replace(match, target_view=moved[0], reference_view=moved[1], field=match.field.to("cuda"), head=match.head.to("cuda"))
    structures = case.segmentation.structures
    for told in ("attend", "recognize"):
        first, second = (getattr(one, told)(structures) for one in (match, other))
        assert all(np.array_equal(first[structure].values, second[structure].values) for structure in structures)
    ours, theirs = match.labels, other.labels
    assert ours is not None and theirs is not None
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("index", "share", "ratio"))
    assert label_evidence.__module__.endswith("posteriors")


def test_several_references_run_on_it(pipeline: Pipeline, make_ellipsoids: Callable[..., Reference], case: Reference) -> None:
    other = make_ellipsoids(size=(40, 46, 20), spacing=(2.4, 2.4, 3.6), scale=(1.05, 0.97, 1.0), seed=1)
    result = pipeline.transfer([case, other], case.volume)
    assert {one.structure.name for one in result.results} == {"body", "left organ", "right organ"}
    assert same_grid(result.segmentation.labelmap, case.volume)


def test_the_registration_localizer_runs_beside_it(pipeline: Pipeline, case: Reference) -> None:
    assert pipeline.transfer(case, case.volume, localizer="registration").localizer == "registration"


@pytest.mark.parametrize("way", ["slice", "box"])
def test_a_correction_runs_on_it(pipeline: Pipeline, case: Reference, way: str) -> None:
    first = pipeline.transfer(case, case.volume, keep_mb=1e6)
    structure = case.segmentation.structures[0]
    mask = sitk.GetImageFromArray(case.segmentation.array(structure).astype(np.uint8))
    mask.CopyInformation(case.volume)
    if way == "slice":
        correction = Correction(structure.name, mask, slices=((2, 9), (0, 20)))
    else:
        correction = Correction(structure.name, box_mm=((-40.0, 40.0, 310.0), (20.0, 100.0, 350.0)))
    assert first.segmentation.structures
    corrected = pipeline.correct(correction)
    (result,) = corrected.results
    assert result.structure.name == structure.name and same_grid(corrected.segmentation.labelmap, case.volume)
    # Matched anew as well.
    assert pipeline.correct(correction, case, case.volume).results[0].structure.name == structure.name


def test_sides_are_judged_on_it(cuda: Any, pipeline: Pipeline, case: Reference) -> None:
    from RAUSlicerLib.localization.matching.laterality import Laterality, check_laterality

    assert check_laterality(pipeline.matcher, case, case.volume, pipeline_cancel()) in Laterality
    assert cuda.calls["laterality.py:_correlation"] > 0 or cuda.calls["handedness.py:_sureness"] > 0
    from RAUSlicerLib.imaging.frame import canonical, normalized
    from RAUSlicerLib.localization.matching.handedness import label_margins

    frames = [normalized(canonical(case.volume))] * 2
    margins = label_margins(pipeline.matcher, case, frames, pipeline_cancel())
    assert margins is not None and margins[0] == pytest.approx(margins[1])
    assert cuda.calls["handedness.py:_sureness"] > 0
