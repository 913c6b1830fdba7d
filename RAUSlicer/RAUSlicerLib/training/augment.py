"""Random patches of volumes: geometry, missing field of view and intensity, with the exact way back to the voxels they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from .cases import MIRRORED, TrainingCase
from .datasets import IGNORE


@dataclass
class Patch:
    """A patch on the working grid.

    ``image`` (z, y, x) in 0 to 1; ``labels`` (z, y, x), `IGNORE` where nothing is known or outside. ``to_source`` (3, 4) maps patch voxels
    (z, y, x) to source voxels, after ``shift`` (z, y, x, 3) in patch voxels where there is one. ``unmarked`` are the labels of which the
    case says nothing, ``parcels`` the first and last of those that are many and alike.
    """

    image: Tensor
    labels: Tensor
    to_source: np.ndarray
    shift: Tensor | None = None
    unmarked: tuple[int, ...] = ()
    parcels: tuple[int, ...] = ()

    def source_of(self, voxels: np.ndarray) -> np.ndarray:
        """Source voxels (N, 3) that patch voxels (N, 3) show."""
        if self.shift is not None:
            voxels = voxels + self.shift[tuple(torch.from_numpy(voxels).T)].numpy()
        return voxels @ self.to_source[:, :3].T + self.to_source[:, 3]


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix in (z, y, x) coordinates from angles about z, y and x in radians."""
    z, y, x = angles
    # In this order of axes a positive turn about the middle one is a negative one.
    return Rotation.from_euler("XYZ", (z, -y, x)).as_matrix()


def random_affine(rng: np.random.Generator, degrees: tuple[float, float, float] = (22.0, 18.0, 18.0), scale: float = 0.16) -> np.ndarray:
    """A random rotation about z, y, x and anisotropic scale, as a (3, 3) matrix in mm."""
    # Small turns are the rule; the root keeps the large ones from being most of the pairs.
    draw = rng.uniform(-1, 1, 3)
    turn = rotation(np.radians(draw * np.abs(draw) ** 0.5 * degrees))
    return turn @ np.diag(np.exp(rng.uniform(-scale, scale) + rng.uniform(-0.06, 0.06, 3)))


def patch_transform(case: TrainingCase, size: tuple[int, int, int], centre: np.ndarray, affine: np.ndarray, working: float) -> np.ndarray:
    """The (3, 4) map from patch voxels of ``working`` mm to source voxels that puts ``centre`` (source voxels) in the patch's middle."""
    linear = np.diag(1 / np.array(case.spacing)) @ affine * working
    return np.concatenate([linear, (centre - linear @ ((np.array(size) - 1) / 2))[:, None]], axis=1)


def cut(case: TrainingCase, size: tuple[int, int, int], to_source: np.ndarray, shift: Tensor | None = None) -> Patch:
    """Sample a patch of ``size`` (z, y, x), bent by ``shift`` (z, y, x, 3) in patch voxels."""
    reach = 0.0 if shift is None else float(shift.abs().max())
    window, offset = _window(case, size, to_source, reach)
    extent = np.array([s.stop - s.start for s in window], dtype=np.float64)
    # affine_grid speaks (x, y, z) in units where -1 and 1 are the outer voxel centres.
    source, patch = (extent - 1) / 2, (np.array(size) - 1) / 2
    linear = np.diag(1 / source) @ to_source[:, :3] @ np.diag(patch)
    middle = (to_source[:, :3] @ patch + to_source[:, 3] - offset - source) / source
    theta = np.concatenate([linear[::-1, ::-1], middle[::-1, None]], axis=1)
    grid = F.affine_grid(torch.from_numpy(theta.copy()).float()[None], [1, 1, *size], align_corners=True)
    if shift is not None:
        moved = torch.from_numpy((np.diag(1 / source) @ to_source[:, :3])[::-1].T.copy()).float()
        grid = grid + shift @ moved
    # One is added so that what lies outside of the volume, which grid_sample fills with zero, can be told from background.
    labels = F.grid_sample(case.labels[window][None, None].float() + 1, grid, mode="nearest", align_corners=True)[0, 0].round().long() - 1
    labels[labels < 0] = IGNORE
    image = F.grid_sample(case.image[window][None, None].float(), grid, align_corners=True)[0, 0] / 255
    return Patch(image, labels, to_source, shift, case.unmarked, case.parcels)


def _window(
    case: TrainingCase, size: tuple[int, int, int], to_source: np.ndarray, reach: float
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """The part of a case that a patch can see, at least two voxels along each axis, and where it starts: converting all of it is slow."""
    ends = np.array([[(number >> axis) & 1 for axis in range(3)] for number in range(8)]) * (np.array(size) - 1 + 2 * reach) - reach
    corners = ends @ to_source[:, :3].T + to_source[:, 3]
    extent = np.array(case.image.shape)
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, extent - 2)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 2, extent)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return (z, y, x), low.astype(np.float64)


def smooth_noise(size: Sequence[int], knots: Sequence[int] | np.ndarray, channels: int, rng: np.random.Generator) -> Tensor:
    """Smooth random fields (channels, z, y, x) of about unit variance at their ``knots`` (z, y, x) an axis."""
    coarse = torch.from_numpy(rng.standard_normal((1, channels, *knots), np.float32))
    # Straight between knots would show them as kinks: smoothed at a resolution where that costs little.
    middle = [min(extent, max(8, min(28, 3 * number))) for extent, number in zip(size, knots, strict=True)]
    fields = F.interpolate(coarse, size=middle, mode="trilinear", align_corners=True)
    fields = F.avg_pool3d(F.pad(fields, (1,) * 6, mode="replicate"), 3, stride=1)
    return F.interpolate(fields, size=list(size), mode="trilinear", align_corners=True)[0]


def random_shift(size: tuple[int, int, int], rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """A smooth random displacement (z, y, x, 3) in voxels at two scales that hardly ever folds: bodies differ by more than affine maps."""
    total = torch.zeros(3, *size)
    for knots, most in ((rng.integers(3, 6, 3), 0.30), (rng.integers(6, 11, 3), 0.22)):
        apart = float(min(extent / number for extent, number in zip(size, knots, strict=True)))
        total += smooth_noise(size, knots, 3, rng) * float(rng.uniform(0, most) * apart * strength)
    return total.permute(1, 2, 3, 0)


def degrade(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Thick slices or a coarse grid, seldom a strong blur: the same anatomy as another scanner would show it."""
    size = image.shape
    kind = rng.random()
    if kind < 0.25:
        axis, thick = int(rng.integers(3)), int(rng.integers(2, 5))
        kernel = [thick if a == axis else 1 for a in range(3)]
    elif kind < 0.4:
        kernel = [2, 2, 2]
    else:
        return image
    coarse = F.avg_pool3d(image[None, None], kernel, ceil_mode=True)
    return F.interpolate(coarse, size=list(size), mode="trilinear")[0, 0]


def drop_field_of_view(patch: Patch, rng: np.random.Generator) -> None:
    """Blank everything on one side of a random plane across an axis, as in a scan that covers half of the body part."""
    axis = int(rng.choice(3, p=(0.6, 0.2, 0.2)))
    extent = patch.image.shape[axis]
    at = int(extent * rng.uniform(0.25, 0.6))
    gone = [slice(None)] * 3
    gone[axis] = slice(0, at) if rng.random() < 0.5 else slice(extent - at, extent)
    patch.image[tuple(gone)] = 0
    patch.labels[tuple(gone)] = IGNORE


def recolor(image: Tensor, rng: np.random.Generator, *, contrast: bool) -> Tensor:
    """Random gamma, gain, bias field, blur and noise; with ``contrast`` also a random new mapping of tissue intensities."""
    air = image < 0.02
    x = image.clamp(0, 1)
    if contrast:
        knots = torch.from_numpy(rng.uniform(0.1, 1.0, 7)).float()
        at = x * 5.999
        low = at.floor().long()
        x = knots[low] + (at - low) * (knots[low + 1] - knots[low])
    x = x ** float(np.exp(rng.uniform(-0.35, 0.35)))
    field = torch.from_numpy(rng.normal(0, 0.12, (1, 1, 3, 3, 3))).float()
    x = x * (1 + F.interpolate(field, size=x.shape, mode="trilinear", align_corners=True)[0, 0]) * float(rng.uniform(0.85, 1.15))
    x = x + float(rng.uniform(-0.06, 0.06))
    if rng.random() < 0.2:
        x = F.avg_pool3d(F.pad(x[None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0]
    x = x + _noise(x.shape, rng) * float(rng.uniform(0, 0.04))
    return torch.where(air, image, x.clamp(0, 1.2))


def synthesize(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """A made-up scan of a label patch: every label a random intensity, blurred over the borders.

    Source: the generative model of SynthSeg (Billot et al., 2023), in its simplest form.
    """
    table = torch.from_numpy(rng.uniform(0.12, 0.95, 256)).float()
    # Both halves of a body are alike in any contrast.
    for one, other in MIRRORED:
        table[other] = table[one]
    table[0] = table[IGNORE] = 0.0
    texture = torch.from_numpy(rng.uniform(0.0, 0.06, 256)).float()
    image = table[labels] + _noise(labels.shape, rng) * texture[labels] * (labels != 0) * (labels != IGNORE)
    blurred = F.avg_pool3d(F.pad(image[None, None], (1,) * 6, mode="replicate"), 3, stride=1)[0, 0]
    share = float(rng.uniform(0.3, 0.9))
    return (share * blurred + (1 - share) * image).clamp(0, 1)


def _noise(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), np.float32))
