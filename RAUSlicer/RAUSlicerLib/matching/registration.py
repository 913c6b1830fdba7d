"""Registers a reference to a target: foreground boxes, then an affine transform, then diffeomorphic demons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.frame import canonical, foreground_box, normalized
from ..progress import CancelToken, ProgressCallback, ProgressEvent

STAGE = "registration"
SEED = 20251123

# Finest working grids, in voxels: at these a brain of 130x170x140 mm is registered at 2 mm (affine) and 1 mm (deformable).
_AFFINE_VOXELS = 400_000
_DEFORMABLE_VOXELS = 3_500_000
# Both stages go from coarse to fine; factors of the finest spacing.
_LEVELS = (4, 2, 1)
_AFFINE_ITERATIONS = 60
_DEMONS_ITERATIONS = (60, 40, 15)
_FEWEST_SLICES = 4


def align_boxes(target: sitk.Image, reference: sitk.Image) -> sitk.Transform:
    """Map the target's foreground box onto the reference's by shift and scale; target points (LPS, mm) to reference points."""
    fixed, moving = axis_aligned(target), axis_aligned(reference)
    return between_worlds(_box_transform(fixed, moving, per_axis=True), target, reference)


def register(
    fixed_target: sitk.Image,
    moving_reference: sitk.Image,
    *,
    deformable: bool,
    progress: ProgressCallback,
    cancel: CancelToken,
    spacing_mm: float | None = None,
) -> sitk.Transform:
    """The transform that maps target points to reference points, both LPS in mm.

    The two volumes' world positions need not correspond and their axes may be stored in any order: both are brought to axes in LPS order
    and their foregrounds laid over each other first. Runs on one thread where the number of threads would change the result, so that the
    same input gives the same output.

    Args:
        fixed_target: The target volume.
        moving_reference: The reference volume.
        deformable: Whether diffeomorphic demons follow the affine stage.
        progress: Receives the stage ``registration``.
        cancel: After a cancel the transform found so far is returned.
        spacing_mm: Finest working spacing of the last stage; None takes what keeps the foreground at a few million voxels.

    Raises:
        InputError: a volume has too few slices, or the two can't be laid over each other at all.
    """
    for role, image in (("target", fixed_target), ("reference", moving_reference)):
        if min(image.GetSize()) < _FEWEST_SLICES:
            raise InputError(
                f"The {role} has {' x '.join(map(str, image.GetSize()))} voxels, too few to be registered.",
                f"Registration needs at least {_FEWEST_SLICES} voxels along each axis.",
                "Choose the localizer 'vlm', which works slice by slice.",
            )
    fixed, moving = axis_aligned(fixed_target), axis_aligned(moving_reference)
    affine_share = 0.4 if deformable else 1.0
    affine = _affine(
        fixed,
        moving,
        None if deformable else spacing_mm,
        lambda fraction: progress(ProgressEvent(STAGE, affine_share * fraction)),
        cancel,
    )
    found: sitk.Transform = affine
    if deformable and not cancel.cancelled:
        field = _demons(
            fixed,
            moving,
            affine,
            spacing_mm,
            lambda fraction: progress(ProgressEvent(STAGE, affine_share + (1 - affine_share) * fraction)),
            cancel,
        )
        # The last transform of a composite is applied first.
        found = sitk.CompositeTransform([affine, field])
    progress(ProgressEvent(STAGE, 1.0))
    return between_worlds(found, fixed_target, moving_reference)


def overlaid(target: sitk.Image, reference: sitk.Image) -> tuple[sitk.Image, sitk.Image, sitk.AffineTransform]:
    """Both volumes as other registration packages get them: target, reference laid over it, and how it was laid.

    Both come on one isotropic grid, the one that demons work on, in the frame of `axis_aligned`. The reference's foreground lies over the
    target's as well as boxes and a shift along the body can bring it, so that no package fails for want of a start.
    """
    fixed, moving = axis_aligned(target), axis_aligned(reference)
    start = _best_start(fixed, moving, _LEVELS[0] * _spacing_for(fixed, _AFFINE_VOXELS))
    grid = _resample_isotropic(fixed, _spacing_for(fixed, _DEFORMABLE_VOXELS))
    return grid, sitk.Resample(moving, grid, start, sitk.sitkLinear, 0.0), start


def axis_aligned(image: sitk.Image) -> sitk.Image:
    """Normalized intensities, axes in LPS order, with neither origin nor direction."""
    plain = normalized(canonical(image))
    plain.SetOrigin((0.0, 0.0, 0.0))
    plain.SetDirection(np.eye(3).ravel().tolist())
    return plain


def between_worlds(transform: sitk.Transform, target: sitk.Image, reference: sitk.Image) -> sitk.Transform:
    """A transform between axis-aligned frames as one between the two patients' own spaces."""
    return sitk.CompositeTransform([_to_world(canonical(reference)), transform, _to_world(canonical(target)).GetInverse()])


def _to_world(image: sitk.Image) -> sitk.AffineTransform:
    return sitk.AffineTransform(list(image.GetDirection()), list(image.GetOrigin()))


def _foreground(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (x, y, z; mm) of an axis-aligned image's foreground box."""
    box = foreground_box(sitk.GetArrayViewFromImage(image))[::-1]
    spacing = np.array(image.GetSpacing())
    low = np.array([side.start for side in box]) * spacing
    high = np.array([side.stop for side in box]) * spacing
    return (low + high - spacing) / 2, high - low


def _box_transform(fixed: sitk.Image, moving: sitk.Image, *, per_axis: bool) -> sitk.AffineTransform:
    fixed_centre, fixed_size = _foreground(fixed)
    moving_centre, moving_size = _foreground(moving)
    scale = moving_size / fixed_size
    if not per_axis:
        # Along the body the box shows how much was scanned, not how large the patient is.
        scale = np.full(3, np.clip(math.sqrt(scale[0] * scale[1]), 0.75, 1.33))
    transform = sitk.AffineTransform(3)
    transform.SetCenter(fixed_centre.tolist())
    transform.SetMatrix(np.diag(scale).ravel().tolist())
    transform.SetTranslation((moving_centre - fixed_centre).tolist())
    return transform


def _resample_isotropic(image: sitk.Image, spacing: float) -> sitk.Image:
    """The foreground of an axis-aligned image and a margin around it, smoothed and resampled."""
    centre, size = _foreground(image)
    native = np.array(image.GetSpacing())
    extent = np.array(image.GetSize()) * native
    low = np.maximum(centre - size / 2 - 2 * spacing, -native / 2)
    high = np.minimum(centre + size / 2 + 2 * spacing, extent - native / 2)
    grid_size = np.maximum(np.ceil((high - low) / spacing), 4).astype(int)
    origin = (low + high) / 2 - (grid_size - 1) * spacing / 2
    # Half the widening of the voxels, so that downsampling doesn't alias and slices thicker than the grid aren't blurred further.
    sigmas = 0.5 * np.sqrt(np.maximum(spacing**2 - native**2, 0.0))
    smooth = image
    for axis, sigma in enumerate(sigmas):
        if sigma > 1e-3:
            smooth = sitk.RecursiveGaussian(smooth, float(sigma), direction=axis)
    return sitk.Resample(
        smooth,
        grid_size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        [spacing] * 3,
        np.eye(3).ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
    )


def _spacing_for(image: sitk.Image, voxels: int) -> float:
    """Isotropic spacing in mm that divides the foreground into at most ``voxels``, and into no more than it was scanned with."""
    _, size = _foreground(image)
    return float(np.cbrt(max(np.prod(size) / voxels, np.prod(image.GetSpacing()))))


def _affine(
    fixed: sitk.Image, moving: sitk.Image, spacing_mm: float | None, report: Callable[[float], None], cancel: CancelToken
) -> sitk.AffineTransform:
    finest = spacing_mm or _spacing_for(fixed, _AFFINE_VOXELS)
    transform = _best_start(fixed, moving, _LEVELS[0] * finest)
    for number, factor in enumerate(_LEVELS):
        if cancel.cancelled:
            break
        spacing = factor * finest
        method = _mutual_information(sampled=0.1 if factor == 1 else 0.5)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=0.5 * spacing,
            minStep=1e-3 * spacing,
            numberOfIterations=_AFFINE_ITERATIONS,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        span = (number / len(_LEVELS), (number + 1) / len(_LEVELS))
        watch = _Watch(method, method.GetOptimizerIteration, _AFFINE_ITERATIONS, span, report, cancel)
        try:
            method.Execute(_resample_isotropic(fixed, spacing), _resample_isotropic(moving, spacing))
        except RuntimeError as error:
            watch.raise_own_error()
            raise InputError(
                "The reference could not be registered to the target.",
                f"The two have too little in common to be laid over each other ({str(error).strip().splitlines()[-1]}).",
                "Choose a reference of the same part of the body, or the localizer 'vlm'.",
            ) from error
        watch.raise_own_error()
    return transform


def _mutual_information(sampled: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(sampled, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    # Threads add up the metric in changing order, and the optimizer amplifies the last bits: Dice moved by up to .07 from run to run.
    method.SetNumberOfThreads(1)
    return method


def _best_start(fixed: sitk.Image, moving: sitk.Image, spacing: float) -> sitk.AffineTransform:
    """The shift along the body at which the foregrounds agree best.

    Centre on centre is wrong by as much as a liver where two scans cover different lengths of the body.
    """
    coarse_fixed, coarse_moving = _resample_isotropic(fixed, spacing), _resample_isotropic(moving, spacing)
    start = _box_transform(fixed, moving, per_axis=False)
    reach = 0.3 * min(_foreground(fixed)[1][2], _foreground(moving)[1][2])
    best, best_value = start, math.inf
    for shift in np.linspace(-reach, reach, 13):
        candidate = sitk.AffineTransform(start)
        candidate.SetTranslation(np.add(start.GetTranslation(), (0.0, 0.0, shift)).tolist())
        method = _mutual_information(sampled=1.0)
        method.SetInitialTransform(candidate)
        value = method.MetricEvaluate(coarse_fixed, coarse_moving)
        if value < best_value:
            best, best_value = candidate, value
    return best


def _demons(
    fixed: sitk.Image,
    moving: sitk.Image,
    affine: sitk.AffineTransform,
    spacing_mm: float | None,
    report: Callable[[float], None],
    cancel: CancelToken,
) -> sitk.DisplacementFieldTransform:
    finest = spacing_mm or _spacing_for(fixed, _DEFORMABLE_VOXELS)
    work = [iterations / factor**3 for iterations, factor in zip(_DEMONS_ITERATIONS, _LEVELS, strict=True)]
    field = _no_displacement(fixed, _LEVELS[0] * finest)
    for level, (iterations, factor) in enumerate(zip(_DEMONS_ITERATIONS, _LEVELS, strict=True)):
        if cancel.cancelled:
            break
        fixed_level = _resample_isotropic(fixed, finest * factor)
        moving_level = sitk.Resample(_resample_isotropic(moving, finest * factor), fixed_level, affine, sitk.sitkLinear, 0.0)
        moving_level = alike(moving_level, fixed_level)
        demons = diffeomorphic_demons(iterations)
        span = (sum(work[:level]) / sum(work), sum(work[: level + 1]) / sum(work))
        watch = _Watch(demons, demons.GetElapsedIterations, iterations, span, report, cancel)
        try:
            field = demons.Execute(fixed_level, moving_level, sitk.Resample(field, fixed_level))
        finally:
            watch.raise_own_error()
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def diffeomorphic_demons(iterations: int) -> sitk.DiffeomorphicDemonsRegistrationFilter:
    """The demons filter with this project's smoothness and step; wherever demons run, they run alike."""
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(iterations)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(1.2)
    demons.SetMaximumUpdateStepLength(2.0)
    return demons


def alike(moving: sitk.Image, fixed: sitk.Image) -> sitk.Image:
    """An image with the intensities of another: demons compare them one to one."""
    return sitk.HistogramMatching(moving, fixed, 256, 15, True)


def _no_displacement(image: sitk.Image, spacing: float) -> sitk.Image:
    grid = _resample_isotropic(image, spacing)
    field = sitk.Image(grid.GetSize(), sitk.sitkVectorFloat64, 3)
    field.CopyInformation(grid)
    return field


class _Watch:
    """Follows a registration filter: reports its iterations and stops it on a cancel.

    An exception of the progress callback (a second Ctrl-C, a closed pipe) would come out of SimpleITK as a RuntimeError without its cause;
    it is kept here and raised once the filter has stopped.
    """

    def __init__(
        self,
        method: Any,
        iteration: Callable[[], int],
        iterations: int,
        span: tuple[float, float],
        report: Callable[[float], None],
        cancel: CancelToken,
    ) -> None:
        self._stop = method.StopRegistration
        self._iteration = iteration
        self._iterations = iterations
        self._span = span
        self._report = report
        self._cancel = cancel
        self._error: BaseException | None = None
        method.AddCommand(sitk.sitkIterationEvent, self._on_iteration)

    def raise_own_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _on_iteration(self) -> None:
        start, end = self._span
        try:
            self._report(start + (end - start) * min(self._iteration() / self._iterations, 1.0))
        except BaseException as error:
            self._error = error
        if self._error is not None or self._cancel.cancelled:
            self._stop()
