"""Sharpens a field of correspondences: diffeomorphic demons on many channels, embeddings and local texture together.

Each step solves a small linear system a voxel (Gauss-Newton), smooths the update and composes it with the field.

Source: demons (Thirion, 1998), diffeomorphic and symmetric (Vercauteren et al., 2009), on feature vectors as in Peyrat et al. (2010).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .correspondence import COARSE_STEP, Embedded, axis_centres, pool, positions, sample

# (cells of so many voxels, iterations, smoothing of the displacement in cells)
LEVELS = ((4, 15, 1.0), (2, 8, 0.8), (1, 2, 1.0))
# Share of local intensities beside the embedding: tissue borders are sharper in the image than in an embedding.
TEXTURE = 0.25
# The first principal components of both embeddings: more changed nothing on brains and hearts and cost twice the time.
COMPONENTS = 12
# Largest update of an iteration and smoothing of the update, in cells.
_LONGEST, _FLUID = 1.0, 0.5
# Slices that are compared at once.
_SLAB = 16


def refine(target: Embedded, reference: Embedded, estimate: Tensor, levels: tuple[tuple[int, int, float], ...] = LEVELS) -> Tensor:
    """Reference positions in mm (D, H, W, 3) of every target voxel; ``estimate`` is that of the coarse cells, from `coarse_field`.

    Without ``levels`` the estimate is only brought to every voxel.
    """
    field, step = estimate, COARSE_STEP
    basis = _principal(target, reference)
    for finer, iterations, smoothing in levels:
        field = resize(field, step, finer, target.size)
        step = finer
        field = _demons(target, reference, field, basis, step, iterations, smoothing)
    return resize(field, step, 1, target.size)


def _principal(target: Embedded, reference: Embedded) -> Tensor:
    """Directions (C, k) in which the two embeddings vary most."""
    seen = torch.cat([embedded.fine[:, embedded.inside][:, ::37] for embedded in (target, reference)], dim=1)
    centred = seen - seen.mean(1, keepdim=True)
    return torch.linalg.eigh(centred @ centred.t())[1][:, -COMPONENTS:]


def _channels(embedded: Embedded, basis: Tensor, step: int) -> Tensor:
    """What is compared, (k + 6, d, h, w)."""
    anatomy = torch.einsum("cdhw,ck->kdhw", pool(embedded.fine, step), basis) * (1 - TEXTURE) ** 0.5
    return torch.cat([anatomy, F.normalize(pool(embedded.texture, step), dim=0, eps=0.05) * TEXTURE**0.5])


def _demons(target: Embedded, reference: Embedded, field: Tensor, basis: Tensor, step: int, iterations: int, smoothing: float) -> Tensor:
    fixed, moving = _channels(target, basis, step), _channels(reference, basis, step)
    inside = pool(target.inside[None].float(), step)[0]
    cells = positions(target.size, target.spacing, step)
    cell = torch.tensor(target.spacing) * step
    first = positions(reference.size, reference.spacing, step)[0, 0, 0]
    pitch = (reference.spacing[0] * step, reference.spacing[1] * step, reference.spacing[2] * step)
    for _ in range(iterations):
        update = _gaussian(_steps(fixed, moving, field - first, pitch, cell) * inside, _FLUID)
        update = update * (_LONGEST / update.norm(dim=0, keepdim=True).clamp(min=_LONGEST))
        shift = update.permute(1, 2, 3, 0) * cell
        own = (cells[0, 0, 0], (float(cell[0]), float(cell[1]), float(cell[2])))
        moved = sample((field - cells).permute(3, 0, 1, 2), cells + shift - own[0], own[1], outside="border")
        field = cells + _gaussian(moved + shift.permute(3, 0, 1, 2), smoothing).permute(1, 2, 3, 0)
    return field


def _steps(fixed: Tensor, moving: Tensor, where: Tensor, pitch: tuple[float, float, float], cell: Tensor) -> Tensor:
    """Every voxel's next displacement in cells (3, d, h, w); ``where`` (d, h, w, 3) are places in ``moving``, whose cells are ``pitch`` mm.

    Slopes along three axes take several times the memory of what is compared: a slab at a time.
    """
    depth = fixed.shape[1]
    out = torch.empty(3, *fixed.shape[1:])
    for start in range(0, depth, _SLAB):
        end = min(start + _SLAB, depth)
        # One slice more on either side, for the slope across slices.
        low, high = max(start - 1, 0), min(end + 1, depth)
        given, there = fixed[:, low:high], where[low:high]
        warped = sample(moving, there, pitch, outside="border")
        slopes = []
        for axis in range(3):
            if fixed.shape[1 + axis] > 2:
                # The gradients of both volumes together: steps are longer and surer than with those of one.
                slopes.append(_central((given + warped) / 2, 1 + axis))
            else:
                # A slice has no slope across itself, but the reference has one where the slice lies.
                aside = torch.zeros(3).index_fill(0, torch.tensor(axis), float(cell[axis]))
                ahead, behind = (sample(moving, there + sign * aside, pitch, outside="border") for sign in (1, -1))
                slopes.append((ahead - behind) / 2)
        out[:, start:end] = _update(given - warped, slopes)[:, start - low : end - low]
    return out


def _update(difference: Tensor, slopes: list[Tensor]) -> Tensor:
    """The displacement in cells (3, d, h, w) that best explains a difference of channels by their slopes along each axis."""
    b0, b1, b2 = ((slope * difference).sum(0) for slope in slopes)
    # Thirion's normalization: where the difference is large beside the slopes, no step is longer than half a cell times `_LONGEST`.
    damping = (difference**2).sum(0) / (2 * _LONGEST) ** 2 + 1e-4
    a00, a11, a22 = ((slope**2).sum(0) + damping for slope in slopes)
    a01, a02, a12 = ((slopes[i] * slopes[j]).sum(0) for i, j in ((0, 1), (0, 2), (1, 2)))
    # The inverse of a symmetric 3x3 matrix by its cofactors: batched solvers are slow on a million of these.
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    determinant = a00 * c00 + a01 * c01 + a02 * c02
    solved = torch.stack([c00 * b0 + c01 * b1 + c02 * b2, c01 * b0 + c11 * b1 + c12 * b2, c02 * b0 + c12 * b1 + c22 * b2])
    return solved / determinant


def _central(values: Tensor, axis: int) -> Tensor:
    """Central differences along an axis, zero at its ends."""
    out = torch.zeros_like(values)
    count = values.shape[axis] - 2
    if count > 0:
        out.narrow(axis, 1, count).copy_(values.narrow(axis, 2, count) - values.narrow(axis, 0, count))
    return out.div_(2)


def _gaussian(field: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of a field (3, d, h, w), held constant beyond its rim."""
    radius = max(1, int(2.5 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).float() / sigma) ** 2)
    kernel /= kernel.sum()
    stacked = field[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        stacked = F.conv3d(F.pad(stacked, padding, mode="replicate"), kernel.view(shape))
    return stacked[:, 0]


def resize(field: Tensor, step: int, to: int, size: tuple[int, int, int]) -> Tensor:
    """A position field of a volume's cells of ``step`` voxels at its cells of ``to`` voxels; linear, extrapolated at the rim."""
    if step == to:
        return field
    given, asked = [axis_centres(n, step) for n in size], [axis_centres(n, to) for n in size]
    unit = [(a - g[0]) / step / max(len(g) - 1, 1) * 2 - 1 for a, g in zip(asked, given, strict=True)]
    # Beyond the outermost centres the mean slope goes on: there the field is held constant only in what differs from it.
    source, wanted = (torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) for axes in (given, asked))
    slope = _slope(field, source)
    residual = (field - source * slope).permute(3, 0, 1, 2)
    where = torch.stack(torch.meshgrid(*unit, indexing="ij"), dim=-1).flip(-1)
    values = F.grid_sample(residual[None], where[None], padding_mode="border", align_corners=True)[0]
    return values.permute(1, 2, 3, 0) + wanted * slope


def _slope(field: Tensor, source: Tensor) -> Tensor:
    """Mean mm per voxel of a position field along each axis, (3,)."""
    out = []
    for axis in range(3):
        if field.shape[axis] < 2:
            out.append(torch.tensor(1.0))
            continue
        rise = torch.diff(field[..., axis], dim=axis).mean()
        run = torch.diff(source[..., axis], dim=axis).mean()
        out.append(rise / run)
    return torch.stack(out)
