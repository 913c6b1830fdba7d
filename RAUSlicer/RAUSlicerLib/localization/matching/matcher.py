"""Matches a reference to a target: where every target voxel lies in the reference, and what that says of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from ...baselines.warping import warp_structures
from ...imaging.frame import canonical, foreground, foreground_box, grid_over, normalized, resample, working_spacing
from ...imaging.names import same_structure
from ...imaging.segmentation import Reference, Structure
from ...imaging.slicing import grid_map
from ...models.device import autocast
from ...progress import CancelToken, ProgressCallback, ProgressEvent, ignore
from ...results import SoftMask, weighted
from .correspondence import Affine, Embedded, coarse_field, fuse_labels, global_affine, refine, self_similarity
from .network import MatchingNet
from .warp import field_transform, polish

STAGE = "matching"
# Probabilities below this are not kept.
NEGLIGIBLE = 0.02
# The network holds some 500 bytes a voxel while it works.
MOST_VOXELS = 4_000_000


@dataclass(frozen=True)
class View:
    """A volume on its working grid, embedded."""

    grid: sitk.Image
    embedded: Embedded


@dataclass(frozen=True)
class Match:
    """How a reference lies over a target.

    ``affine`` and ``transform`` map target points to reference points in the world (LPS, mm), the second one voxel by voxel; ``field``
    (D, H, W, 3) gives every voxel of the target's working grid its place in the reference's, in mm; ``support`` is the share of coarse
    matches that agree with the affine map.
    """

    reference: Reference
    target_view: View
    reference_view: View
    affine: sitk.AffineTransform
    transform: sitk.Transform
    field: torch.Tensor
    support: float

    def carry(self, structures: Sequence[Structure], frame: sitk.Image, *, radius: int = 2) -> dict[Structure, SoftMask]:
        """The structures' probabilities on the target's canonical frame; structures that the reference lacks are left out.

        The mean of two ways: attention on the working grid knows what a voxel looks like, the warped masks have the full resolution.
        """
        attended = carry_labels(self.reference, self.target_view, self.reference_view, self.field, structures, radius=radius)
        warped = warp_structures(self.reference, structures, self.transform, frame, ignore, CancelToken())
        return {structure: weighted([(mask, 0.5), (warped[structure], 0.5)], frame) for structure, mask in attended.items()}


class Matcher:
    """Runs the matching network on reference and target and regularizes what it finds."""

    def __init__(self, net: MatchingNet, device: torch.device) -> None:
        self._net: MatchingNet = net.to(device).eval()
        if device.type == "cpu":
            self._net.to(memory_format=torch.channels_last_3d)
        self._device = device

    def view(self, image: sitk.Image, spacing: float) -> View:
        """Embed a volume at a working spacing in mm."""
        frame = normalized(canonical(image))
        grid = grid_over(frame, spacing, foreground_box(sitk.GetArrayViewFromImage(frame)))
        values = sitk.GetArrayFromImage(resample(frame, grid))
        with torch.inference_mode(), autocast(self._device):
            fine, coarse = self._net(torch.from_numpy(values)[None, None].to(self._device))
        inside, texture = torch.from_numpy(body(values)), self_similarity(torch.from_numpy(values))
        # Correspondence needs plain tensors: inference tensors can't be used where gradients are taken later.
        return View(grid, Embedded(fine[0].float().cpu().clone(), coarse[0].float().cpu().clone(), texture, inside, (spacing,) * 3))

    def match(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> Match | None:
        """Match one reference to the target; None after a cancel. The reference fixes the scale at which both are seen."""
        frame = normalized(canonical(reference.volume))
        spacing = working_spacing(frame, sitk.GetArrayViewFromImage(frame))
        spacing = max(spacing, *(affordable_spacing(image) for image in (reference.volume, target)))
        views = []
        for image in (reference.volume, target):
            views.append(self.view(image, spacing))
            progress(ProgressEvent(STAGE, 0.2 * len(views)))
            if cancel.cancelled:
                return None
        reference_view, target_view = views
        affine, field = correspond(target_view, reference_view)
        progress(ProgressEvent(STAGE, 0.7))
        if cancel.cancelled:
            return None
        dense = polish(field_transform(field, target_view.grid, reference_view.grid), target, reference.volume, spacing)
        progress(ProgressEvent(STAGE, 1.0))
        world = grid_map(affine.linear.double().numpy(), affine.shift.double().numpy(), target_view.grid, reference_view.grid)
        return Match(reference, target_view, reference_view, world, dense, field, affine.support)

    @staticmethod
    def reversed_field(match: Match) -> torch.Tensor:
        """Places in the target's grid of the reference's voxels, found anew from the embeddings and not by inverting the field."""
        return correspond(match.reference_view, match.target_view)[1]


def correspond(target: View, reference: View) -> tuple[Affine, torch.Tensor]:
    """The affine map and the dense field from one view to another."""
    with torch.no_grad():
        affine = global_affine(target.embedded, reference.embedded)
        coarse = coarse_field(target.embedded, reference.embedded, affine)
    return affine, refine(target.embedded, reference.embedded, coarse)


def carry_labels(
    reference: Reference, target_view: View, reference_view: View, field: torch.Tensor, structures: Sequence[Structure], *, radius: int = 2
) -> dict[Structure, SoftMask]:
    """Carry structures of an annotated volume along a field; ``reference_view`` is that volume's, ``target_view`` the other's.

    Structures that the volume lacks are left out.
    """
    found = {structure: same_structure(reference.segmentation, structure) for structure in structures}
    own = {structure: mine for structure, mine in found.items() if mine is not None}
    out: dict[Structure, SoftMask] = {}
    for layer in sorted({mine.layer for mine in own.values()}):
        labels = resample(canonical(reference.segmentation.layers[layer]), reference_view.grid, nearest=True)
        values = sitk.GetArrayFromImage(labels)
        asked = sorted({mine.label for mine in own.values() if mine.layer == layer})
        # What nobody asked for competes as background does: that changes no answer and saves a number a voxel.
        compact = np.zeros(values.shape, np.int64)
        for index, label in enumerate(asked, start=1):
            compact[values == label] = index
        with torch.no_grad():
            where, probability = fuse_labels(
                target_view.embedded, reference_view.embedded, field, torch.from_numpy(compact), len(asked) + 1, radius=radius
            )
        for structure, mine in own.items():
            if mine.layer == layer:
                column = probability[:, asked.index(mine.label) + 1]
                out[structure] = _soft_mask(column.numpy(), where.numpy(), target_view.grid)
    return {structure: out[structure] for structure in own}


def body(values: np.ndarray) -> np.ndarray:
    """The foreground of normalized intensities (z, y, x) with what it encloses in a slice: lungs and ventricles are as dark as air."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in foreground(values)])


def affordable_spacing(image: sitk.Image) -> float:
    """The smallest isotropic spacing in mm at which a volume has no more voxels than memory allows for.

    It matters where a small reference, say a heart, meets a whole body.
    """
    return float((np.prod(np.array(image.GetSize()) * image.GetSpacing()) / MOST_VOXELS) ** (1 / 3))


def _soft_mask(probability: np.ndarray, where: np.ndarray, grid: sitk.Image) -> SoftMask:
    size = grid.GetSize()[::-1]
    keep = probability > NEGLIGIBLE
    if not keep.any():
        return SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), grid)
    places = np.stack(np.unravel_index(where[keep], size))
    low, high = places.min(1), places.max(1) + 1
    values = np.zeros(high - low, np.float32)
    values[tuple(places - low[:, None])] = probability[keep]
    return SoftMask(values, (int(low[0]), int(low[1]), int(low[2])), grid)
