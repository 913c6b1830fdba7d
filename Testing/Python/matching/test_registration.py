import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.matching.registration import align_boxes, register
from RAUSlicerLib.matching.warping import warp_mask
from RAUSlicerLib.progress import CancelToken, ProgressEvent, ignore


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def agreement(reference: Reference, target: Reference, transform: sitk.Transform) -> dict[str, float]:
    scores = {}
    for structure in reference.segmentation.structures:
        warped = warp_mask(reference.segmentation.mask(structure), transform, target.volume) >= 0.5
        scores[structure.name] = dice(warped, target.segmentation.array(structure))
    return scores


def reworld(case: Reference, direction: list[float], origin: tuple[float, float, float]) -> Reference:
    """The same voxels elsewhere in patient space."""

    def moved(image: sitk.Image) -> sitk.Image:
        copy = sitk.Image(image)
        copy.SetDirection(direction)
        copy.SetOrigin(origin)
        return copy

    return Reference(moved(case.volume), case.segmentation.map_layers([moved(case.segmentation.labelmap)]))


def reoriented(case: Reference, code: str) -> Reference:
    """The same patient, stored with its axes in another order."""
    return Reference(
        sitk.DICOMOrient(case.volume, code), case.segmentation.map_layers([sitk.DICOMOrient(case.segmentation.labelmap, code)])
    )


@pytest.fixture(scope="module")
def pair(make_ellipsoids) -> tuple[Reference, Reference]:
    reference = make_ellipsoids()
    return reference, make_ellipsoids(size=(56, 48, 44), scale=(1.12, 0.93, 1.05), shift=(6.0, -5.0, 3.0), seed=1)


def run(reference: Reference, target: Reference, *, deformable: bool = False) -> sitk.Transform:
    return register(target.volume, reference.volume, deformable=deformable, progress=ignore, cancel=CancelToken())


def test_boxes_bring_a_shifted_and_scaled_body_over_each_other(pair) -> None:
    scores = agreement(*pair, align_boxes(pair[1].volume, pair[0].volume))
    assert min(scores.values()) > 0.85, scores


def test_affine_finds_organs_of_another_subject(pair) -> None:
    scores = agreement(*pair, run(*pair))
    assert min(scores.values()) > 0.9, scores


def test_demons_follow_what_no_affine_can(make_ellipsoids) -> None:
    reference = make_ellipsoids()
    target = make_ellipsoids(seed=1)
    # A smooth wave across the body.
    bend = np.zeros((*sitk.GetArrayViewFromImage(target.volume).shape, 3))
    bend[..., 0] = 7 * np.sin(np.arange(bend.shape[1]) / bend.shape[1] * 2 * np.pi)[None, :, None]
    field = sitk.GetImageFromArray(bend, isVector=True)
    field.CopyInformation(target.volume)
    wave = sitk.DisplacementFieldTransform(field)
    bent = Reference(
        sitk.Resample(target.volume, target.volume, wave, sitk.sitkLinear),
        target.segmentation.map_layers([sitk.Resample(target.segmentation.labelmap, target.volume, wave, sitk.sitkNearestNeighbor)]),
    )
    affine, deformable = (agreement(reference, bent, run(reference, bent, deformable=flag)) for flag in (False, True))
    assert deformable["body"] > affine["body"]
    assert min(deformable.values()) > 0.93, deformable


def test_the_same_input_gives_the_same_transform(pair) -> None:
    point = pair[1].volume.TransformContinuousIndexToPhysicalPoint((20.0, 20.0, 20.0))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    points = []
    try:
        for threads in (1, 2, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            points.append(run(*pair, deformable=True).TransformPoint(point))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_allclose(points, [points[0]] * 3, atol=1e-6)


@pytest.mark.parametrize("code", ["RAS", "PIR", "SLA"])
def test_the_order_of_stored_axes_does_not_matter(pair, code: str) -> None:
    reference, target = pair
    plain = run(reference, target)
    stored = run(reoriented(reference, "LAI"), reoriented(target, code))
    point = target.volume.TransformContinuousIndexToPhysicalPoint((30.0, 20.0, 15.0))
    np.testing.assert_allclose(stored.TransformPoint(point), plain.TransformPoint(point), atol=1e-3)


def test_positions_in_the_scanner_do_not_matter(pair) -> None:
    reference, target = pair
    angle = np.deg2rad(18)
    tilt = [1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle)]
    elsewhere = reworld(target, tilt, (700.0, -900.0, 55.0))
    scores = agreement(reference, elsewhere, run(reference, elsewhere))
    assert min(scores.values()) > 0.9, scores


def test_left_stays_left_in_a_flipped_file(pair) -> None:
    reference, target = pair
    scores = agreement(reference, reoriented(target, "RPI"), run(reference, reoriented(target, "RPI")))
    assert min(scores.values()) > 0.9, scores


def test_progress_rises_to_one(pair) -> None:
    events: list[ProgressEvent] = []
    register(pair[1].volume, pair[0].volume, deformable=True, progress=events.append, cancel=CancelToken())
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0 and len(set(fractions)) > 10


@pytest.mark.parametrize("after", [0.1, 0.6])
def test_cancel_stops_and_returns_what_there_is(pair, after: float) -> None:
    cancel = CancelToken()
    fractions: list[float] = []

    def stop(event: ProgressEvent) -> None:
        fractions.append(event.fraction)
        if event.fraction > after:
            cancel.cancel()

    transform = register(pair[1].volume, pair[0].volume, deformable=True, progress=stop, cancel=cancel)
    assert np.isfinite(transform.TransformPoint((0.0, 0.0, 0.0))).all()
    beyond = [fraction for fraction in fractions[:-1] if fraction > after]
    assert 1 <= len(beyond) <= 3


@pytest.mark.parametrize("after", [0.1, 0.6])
def test_an_error_of_the_progress_callback_comes_through(pair, after: float) -> None:
    def fail(event: ProgressEvent) -> None:
        if event.fraction > after:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        register(pair[1].volume, pair[0].volume, deformable=True, progress=fail, cancel=CancelToken())


def test_a_volume_of_a_few_millimetres_is_registered_too(make_ellipsoids) -> None:
    def shrunk(case: Reference) -> Reference:
        images = [sitk.Image(image) for image in (case.volume, case.segmentation.labelmap)]
        for image in images:
            image.SetSpacing((0.05, 0.05, 0.05))
        return Reference(images[0], case.segmentation.map_layers(images[1:]))

    reference, target = shrunk(make_ellipsoids()), shrunk(make_ellipsoids(scale=(1.1, 0.95, 1.0), shift=(4.0, 0.0, 0.0), seed=1))
    scores = agreement(reference, target, run(reference, target, deformable=True))
    assert min(scores.values()) > 0.9, scores


def test_a_single_slice_is_refused(pair) -> None:
    with pytest.raises(InputError, match="48 x 56 x 1"):
        register(pair[0].volume[:, :, 20:21], pair[0].volume, deformable=False, progress=ignore, cancel=CancelToken())
