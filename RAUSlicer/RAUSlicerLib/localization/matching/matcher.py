"""Matches a reference to a target: where every target voxel lies in the reference, and what that says of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ...imaging.frame import canonical, foreground, foreground_box, grid_over, normalized, resample, working_spacing
from ...imaging.segmentation import Reference, Structure
from ...imaging.slicing import grid_map
from ...models.device import autocast
from ...progress import CancelToken, ProgressCallback, ProgressEvent
from ...results import SoftMask
from .correspondence import Affine, Embedded, coarse_field, fuse_labels, global_affine, refine, self_similarity
from .network import MatchingNet

STAGE = "matching"
# Probabilities below this are not kept.
NEGLIGIBLE = 0.02


@dataclass(frozen=True)
class View:
    """A volume on its working grid, embedded."""

    grid: sitk.Image
    embedded: Embedded


@dataclass(frozen=True)
class Match:
    """How a reference lies over a target.

    ``affine`` maps target points to reference points in the world (LPS, mm); ``field`` (D, H, W, 3) gives every voxel of the target's
    working grid its place in the reference's, in mm; ``support`` is the share of coarse matches that agree with the affine map.
    """

    reference: Reference
    target_view: View
    reference_view: View
    affine: sitk.AffineTransform
    field: torch.Tensor
    support: float

    def carry(self, structures: Sequence[Structure], *, radius: int = 2) -> dict[Structure, SoftMask]:
        """The structures' probabilities on the target's working grid."""
        return carry_labels(self.reference, self.target_view, self.reference_view, self.field, structures, radius=radius)


class Matcher:
    """Runs the matching network on reference and target and regularizes what it finds."""

    def __init__(self, net: MatchingNet, device: torch.device) -> None:
        self._net = net.to(device).eval()
        if device.type == "cpu":
            self._net = self._net.to(memory_format=torch.channels_last_3d)
        self._device = device

    def view(self, image: sitk.Image, spacing: float) -> View:
        """Embed a volume at a working spacing in mm."""
        frame = normalized(canonical(image))
        grid = grid_over(frame, spacing, foreground_box(sitk.GetArrayViewFromImage(frame)))
        values = sitk.GetArrayFromImage(resample(frame, grid))
        with torch.inference_mode(), autocast(self._device):
            fine, coarse = self._net(torch.from_numpy(values)[None, None].to(self._device))
        inside, texture = torch.from_numpy(foreground(values)), self_similarity(torch.from_numpy(values))
        # Correspondence needs plain tensors: inference tensors can't be used where gradients are taken later.
        return View(grid, Embedded(fine[0].float().cpu().clone(), coarse[0].float().cpu().clone(), texture, inside, (spacing,) * 3))

    def match(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> Match | None:
        """Match one reference to the target; None after a cancel. The reference fixes the scale at which both are seen."""
        frame = normalized(canonical(reference.volume))
        spacing = working_spacing(frame, sitk.GetArrayViewFromImage(frame))
        reference_view = self.view(reference.volume, spacing)
        progress(ProgressEvent(STAGE, 0.2))
        if cancel.cancelled:
            return None
        target_view = self.view(target, spacing)
        progress(ProgressEvent(STAGE, 0.4))
        if cancel.cancelled:
            return None
        affine, field = correspond(target_view, reference_view)
        progress(ProgressEvent(STAGE, 1.0))
        world = grid_map(affine.linear.double().numpy(), affine.shift.double().numpy(), target_view.grid, reference_view.grid)
        return Match(reference, target_view, reference_view, world, field, affine.support)

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
    """Carry structures of an annotated volume along a field; ``reference_view`` is that volume's, ``target_view`` the other's."""
    out: dict[Structure, SoftMask] = {}
    for layer in sorted({structure.layer for structure in structures}):
        mine = [structure for structure in structures if structure.layer == layer]
        labels = resample(canonical(reference.segmentation.layers[layer]), reference_view.grid, nearest=True)
        values = sitk.GetArrayFromImage(labels).astype(np.int64)
        # All labels of the layer compete, also those that nobody asked for.
        present = [int(value) for value in np.unique(values) if value]
        lookup = {value: index + 1 for index, value in enumerate(present)}
        compact = np.zeros(values.shape, np.int64)
        for value, index in lookup.items():
            compact[values == value] = index
        with torch.no_grad():
            where, probability = fuse_labels(
                target_view.embedded, reference_view.embedded, field, torch.from_numpy(compact), len(present) + 1, radius=radius
            )
        for structure in mine:
            if structure.label in lookup:
                out[structure] = _soft_mask(probability[:, lookup[structure.label]].numpy(), where.numpy(), target_view.grid)
            else:
                out[structure] = SoftMask(np.zeros((1, 1, 1), np.float32), (0, 0, 0), target_view.grid)
    return out


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
