"""Sharpens a field of correspondences: diffeomorphic demons on many channels, embeddings and local texture together.

Each step solves a small linear system a voxel (Gauss-Newton), smooths the update and composes it with the field.

Source: demons (Thirion, 1998), diffeomorphic and symmetric (Vercauteren et al., 2009), on feature vectors as in Peyrat et al. (2010).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..progress import CancelToken
from .correspondence import COARSE_STEP, Embedded, at_once, axis_centres, interpolate, pool, positions
from .settings import DEFAULT, Level, MatchingSettings

# Slices that are compared at once: what a slab takes should fit into the processor's cache.
_SLAB = 3


def refine(
    target: Embedded,
    reference: Embedded,
    estimate: Tensor,
    levels: tuple[Level, ...] = DEFAULT.levels,
    cancel: CancelToken | None = None,
    settings: MatchingSettings = DEFAULT,
) -> Tensor:
    """Reference positions in mm (D, H, W, 3) of every target voxel; ``estimate`` is that of the coarse cells, from `coarse_field`.

    Without ``levels`` the estimate is only brought to every voxel. After a cancel the field is as far as it came.
    """
    field, step = estimate.permute(3, 0, 1, 2), COARSE_STEP
    volumes = _anatomy(settings, target, reference) if levels else ()
    for finer, iterations, smoothing in levels:
        field = _resize(field, step, finer, target.size)
        step = finer
        fixed, moving = (
            _channels(anatomy, embedded, step, settings) for anatomy, embedded in zip(volumes, (target, reference), strict=True)
        )
        field = _demons(target, reference, fixed, moving, field, step, iterations, smoothing, settings, cancel)
    return _resize(field, step, 1, target.size).permute(1, 2, 3, 0).contiguous()


def _anatomy(settings: MatchingSettings, *volumes: Embedded) -> tuple[Tensor, ...]:
    """The directions in which the fine embeddings of all volumes vary most: (D, H, W, k) of each."""
    seen = torch.cat([volume.fine_rows[volume.inside.flatten().nonzero()[::37, 0]] for volume in volumes])
    centred = seen - seen.mean(0)
    # A CPU takes a few dozen channels apart as fast as a GPU does.
    basis = torch.linalg.eigh((centred.t() @ centred).cpu())[1][:, -settings.components :].to(seen.device) * (1 - settings.texture) ** 0.5
    return tuple((volume.fine_rows @ basis).view(*volume.size, -1) for volume in volumes)


def _channels(anatomy: Tensor, embedded: Embedded, step: int, settings: MatchingSettings) -> Tensor:
    """What is compared, (d, h, w, k + 6)."""
    texture = pool(embedded.texture, step)
    texture = texture * (settings.texture**0.5 / _length(texture).clamp(min=0.05))
    return torch.cat([pool(anatomy, step, first=0), texture.permute(1, 2, 3, 0)], dim=3)


def _demons(
    target: Embedded,
    reference: Embedded,
    fixed: Tensor,
    moving: Tensor,
    field: Tensor,
    step: int,
    iterations: int,
    smoothing: float,
    settings: MatchingSettings,
    cancel: CancelToken | None = None,
) -> Tensor:
    """The field (3, d, h, w) in mm after some iterations at cells of ``step`` voxels."""
    fixed = fixed.permute(3, 0, 1, 2).contiguous()
    size = fixed.shape[1:]
    inside = pool(target.inside[None].float(), step)[0]
    device = field.device
    cells = positions(target.size, target.spacing, step, device=device).permute(3, 0, 1, 2).contiguous()
    cell, first, pitch = (
        torch.tensor(values, device=device).view(3, 1, 1, 1)
        for values in (
            [s * step for s in target.spacing],
            positions(reference.size, reference.spacing, step)[0, 0, 0].tolist(),
            [s * step for s in reference.spacing],
        )
    )
    numbers = torch.stack(torch.meshgrid(*(torch.arange(n, device=device).float() for n in size), indexing="ij"))
    fluid, stiff = ([_smoother(n, sigma).to(device) for n in size] for sigma in (settings.fluid, smoothing))
    moved = field - cells
    for _ in range(iterations):
        if cancel is not None and cancel.cancelled:
            break
        update = _along(
            _steps(fixed, moving, (moved + cells - first) / pitch, (cell / pitch).flatten(), settings.longest_step) * inside, fluid
        )
        update *= settings.longest_step / _length(update).clamp(min=settings.longest_step)
        rows = moved.flatten(1).t().contiguous()
        there = interpolate(rows, size, (numbers + update).flatten(1)).t().reshape(moved.shape)
        moved = _along(there + update * cell, stiff)
    return cells + moved


def _steps(fixed: Tensor, moving: Tensor, where: Tensor, aside: Tensor, longest: float) -> Tensor:
    """Every voxel's next displacement in cells (3, d, h, w).

    Args:
        fixed: The target's channels (C, d, h, w).
        moving: The reference's channels (d', h', w', C).
        where: Places in ``moving`` (3, d, h, w), in its cells.
        aside: The target's cells in cells of ``moving``, (3,).
        longest: About twice the longest step, in cells.
    """
    channels, depth, height, width = fixed.shape
    rows, size = moving.view(-1, channels), moving.shape[:3]

    def sampled(at: Tensor) -> Tensor:
        return interpolate(rows, size, at.flatten(1)).t().reshape(channels, *at.shape[1:])

    out = fixed.new_empty(3, depth, height, width)
    warped = fixed[:, :0]
    slab = at_once(_SLAB, fixed.device)
    for start in range(0, depth, slab):
        end = min(start + slab, depth)
        # One slice more on either side, for the slope across slices; the last two are known from the slab before.
        low, high = max(start - 1, 0), min(end + 1, depth)
        known = low + min(2, warped.shape[1])
        warped = torch.cat([warped[:, -2:], sampled(where[:, known:high])], dim=1)
        given, own = fixed[:, low:high], slice(start - low, end - low)
        both, difference = given + warped, given[:, own] - warped[:, own]
        slopes = []
        for axis in range(3):
            if fixed.shape[1 + axis] > 2:
                # The gradients of both volumes together: steps are longer and surer than with those of one.
                slopes.append(_central(both, 1)[:, own] if axis == 0 else _central(both[:, own], 1 + axis))
            else:
                # A slice has no slope across itself, but the reference has one where the slice lies.
                shift = torch.zeros_like(aside)
                shift[axis] = aside[axis]
                shift = shift.view(3, 1, 1, 1)
                ahead, behind = (sampled(where[:, start:end] + sign * shift) for sign in (1, -1))
                slopes.append((ahead - behind) * 2)
        out[:, start:end] = _update(difference, slopes, longest)
    return out


def _update(difference: Tensor, slopes: list[Tensor], longest: float) -> Tensor:
    """The displacement in cells (3, d, h, w) that best explains a difference of channels by four times their slopes along each axis."""
    b0, b1, b2 = ((slope * difference).sum(0) / 4 for slope in slopes)
    # Thirion's normalization: where the difference is large beside the slopes, no step is longer than half a cell times ``longest``.
    damping = difference.square().sum(0) / (2 * longest) ** 2 + 1e-4
    a00, a11, a22 = (slope.square().sum(0) / 16 + damping for slope in slopes)
    a01, a02, a12 = ((slopes[i] * slopes[j]).sum(0) / 16 for i, j in ((0, 1), (0, 2), (1, 2)))
    # The inverse of a symmetric 3x3 matrix by its cofactors: batched solvers are slow on a million of these.
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    determinant = a00 * c00 + a01 * c01 + a02 * c02
    solved = torch.stack([c00 * b0 + c01 * b1 + c02 * b2, c01 * b0 + c11 * b1 + c12 * b2, c02 * b0 + c12 * b1 + c22 * b2])
    return solved / determinant


def _central(values: Tensor, axis: int) -> Tensor:
    """Differences between the neighbours on either side along an axis, zero at its ends."""
    out = torch.empty_like(values)
    last = values.shape[axis] - 1
    if last > 1:
        torch.sub(values.narrow(axis, 2, last - 1), values.narrow(axis, 0, last - 1), out=out.narrow(axis, 1, last - 1))
    for rim in (0, last):
        out.narrow(axis, rim, 1).zero_()
    return out


def _length(vectors: Tensor) -> Tensor:
    """Lengths of vectors along the first axis; torch's own norm is many times slower along it."""
    return (vectors**2).sum(0).sqrt()


def _along(field: Tensor, matrices: list[Tensor]) -> Tensor:
    """A field (3, d, h, w) after a linear map along each axis; as products of matrices, several times faster than convolutions."""
    z, y, x = matrices
    field = y @ (field @ x.t())
    return (z @ field.flatten(2)).unflatten(2, field.shape[2:])


def _smoother(extent: int, sigma: float) -> Tensor:
    """Gaussian smoothing along an axis as a matrix; values are held constant beyond the rim."""
    radius = max(1, int(2.5 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).float() / sigma) ** 2)
    columns = (torch.arange(extent)[:, None] + torch.arange(-radius, radius + 1)).clamp(0, extent - 1)
    return torch.zeros(extent, extent).scatter_add_(1, columns, (kernel / kernel.sum()).expand(extent, -1))


def _resize(field: Tensor, step: int, to: int, size: tuple[int, int, int]) -> Tensor:
    """A position field (3, d, h, w) of a volume's cells of ``step`` voxels at its cells of ``to`` voxels; extrapolated at the rim."""
    if step == to:
        return field
    # Beyond the outermost centres the mean slope goes on: there the field is held constant only in what differs from it.
    given, asked = ([axis_centres(n, cells, field.device) for n in size] for cells in (step, to))
    trend, wanted = (torch.stack(torch.meshgrid(*axes, indexing="ij")) for axes in (given, asked))
    slope = torch.stack([_slope(field[axis], axis, centres) for axis, centres in enumerate(given)]).view(3, 1, 1, 1)
    return _along(field - trend * slope, [_stretcher(a, b) for a, b in zip(given, asked, strict=True)]) + wanted * slope


def _stretcher(given: Tensor, asked: Tensor) -> Tensor:
    """Linear interpolation from evenly spaced places to others as a matrix (asked, given); constant beyond the rim."""
    pitch = float(given[1] - given[0]) if len(given) > 1 else 1.0
    return (1 - (asked.clamp(given[0], given[-1])[:, None] - given).abs() / pitch).clamp(min=0)


def _slope(positions: Tensor, axis: int, centres: Tensor) -> Tensor:
    """Mean mm per voxel of positions (d, h, w) along an axis."""
    if len(centres) < 2:
        return torch.tensor(1.0, device=positions.device)
    return torch.diff(positions, dim=axis).mean() / torch.diff(centres).mean()
