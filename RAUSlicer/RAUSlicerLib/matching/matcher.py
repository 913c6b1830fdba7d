"""Matches a reference to a target: where every target voxel lies in the reference, and what that says of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch.nn import functional as F

from ..device import autocast
from ..imaging.frame import canonical, foreground, foreground_box, grid_over, normalized, resample, working_spacing
from ..imaging.label_values import numbered
from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Structure
from ..imaging.slicing import grid_map
from ..progress import CancelToken, ProgressCallback, ProgressEvent, ignore, part
from ..results import SoftMask, weighted
from .correspondence import (
    COARSE_STEP,
    Affine,
    Embedded,
    coarse_field,
    fuse_labels,
    global_affine,
    positions,
    sample,
    self_similarity,
    similarity,
)
from .demons import refine
from .global_attention import global_attention
from .label_posteriors import LabelEvidence, LabelHead, label_evidence
from .network import EmbeddingNet
from .settings import DEFAULT, Level, MatchingSettings
from .transforms import field_transform
from .warping import warp_structures

STAGE = "matching"
# Probabilities below this are not kept.
NEGLIGIBLE = 0.02


@dataclass(frozen=True)
class View:
    """A volume on its working grid, embedded."""

    grid: sitk.Image
    embedded: Embedded


@dataclass(frozen=True)
class Reading:
    """What the classifier over labels reads of a volume on its working grid: ``rows`` (D * H * W, C), ``inside`` is the foreground."""

    grid: sitk.Image
    rows: torch.Tensor
    inside: torch.Tensor


@dataclass(frozen=True)
class Match:
    """How a reference lies over a target.

    ``affine`` and ``transform`` map target points to reference points in the world (LPS, mm), the second one voxel by voxel; ``field``
    (D, H, W, 3) gives every voxel of the target's working grid its place in the reference's, in mm; ``inlier_ratio`` is the share of
    coarse matches that agree with the affine map, ``similarity`` how alike the volumes look (see `similarity`). ``head`` is what the
    network knows of labels, where it does. Embeddings, field and head lie on the device that matches; what is told of structures comes to
    the CPU.
    """

    reference: Reference
    target_view: View
    reference_view: View
    affine: sitk.AffineTransform
    transform: sitk.Transform
    field: torch.Tensor
    inlier_ratio: float
    similarity: float
    head: LabelHead | None = None
    settings: MatchingSettings = DEFAULT

    def prior(self, structures: Sequence[Structure], frame: sitk.Image) -> dict[Structure, SoftMask]:
        """The structures' probabilities on the target's canonical frame; structures that the reference lacks are left out.

        The mean of two ways: attention on the working grid knows what a voxel looks like, the warped masks have the full resolution.
        """
        attended = self.attend(structures)
        warped = warp_structures(self.reference, structures, self.transform, frame, ignore, CancelToken())
        return {structure: weighted([(mask, 0.5), (warped[structure], 0.5)], frame) for structure, mask in attended.items()}

    def attend(self, structures: Sequence[Structure]) -> dict[Structure, SoftMask]:
        """The structures' probabilities on the target's working grid, from attention around the matched places alone."""
        return carry_labels(self.reference, self.target_view, self.reference_view, self.field, structures, settings=self.settings)

    def attend_globally(self, structures: Sequence[Structure]) -> dict[Structure, SoftMask]:
        """The probabilities by looks alone of structures that the reference has, on coarse cells."""
        target, reference = self.target_view, self.reference_view
        cells = cell_grid(target.grid)
        out: dict[Structure, SoftMask] = {}
        for layer in sorted({structure.layer for structure in structures}):
            labels = resample(canonical(self.reference.segmentation.layers[layer]), reference.grid, nearest=True)
            asked = [structure for structure in structures if structure.layer == layer]
            known = torch.from_numpy(numbered(sitk.GetArrayFromImage(labels), [structure.label for structure in asked]))
            known = known.to(self.field.device)
            with torch.no_grad():
                shares = global_attention(target.embedded, reference.embedded, self.field, known, len(asked) + 1, self.settings)
            shares = shares.cpu()
            out |= {structure: _whole(shares[number].numpy(), cells) for number, structure in enumerate(asked, start=1)}
        return {structure: out[structure] for structure in structures}

    @cached_property
    def labels(self) -> LabelEvidence | None:
        """What the training labels say of the reference's structures, in their order; None where the network has none."""
        if self.head is None:
            return None
        structures = self.reference.segmentation.structures
        layers, counts, order = numbered_layers(self.reference, structures, self.reference_view.grid)
        with torch.no_grad():
            found = label_evidence(self.target_view.embedded, self.reference_view.embedded, layers, counts, self.head, self.settings)
        places = [order.index(structure) for structure in structures]
        return LabelEvidence(found.index, found.share, found.ratio[places])


class Matcher:
    """Runs the matching network on reference and target and regularizes what it finds.

    ``refined`` says whether more than the affine map is wanted: who only needs to know which slices belong together turns it off.
    """

    refined = True

    def __init__(self, net: EmbeddingNet, device: torch.device) -> None:
        self._net: EmbeddingNet = net.to(device).eval()
        self.settings = net.settings
        if device.type == "cpu":
            self._net.to(memory_format=torch.channels_last_3d)
        self._device = device
        # Apple's GPUs lack some of what matching needs, and nobody has tried one.
        self._matches_on = device if device.type == "cuda" else torch.device("cpu")
        # Where memory has run out, fewer are tried.
        self.most_voxels = self.settings.most_voxels

    @property
    def head(self) -> LabelHead | None:
        """What the network knows of labels, where it does, on the device that matches."""
        head = self._net.label_head
        return None if head is None else head.to(self._matches_on)

    def view(self, frame: sitk.Image, spacing: float, *, surely: bool = False) -> View:
        """Embed the foreground of a canonical, normalized volume at a working spacing in mm.

        ``surely`` reads labels at two scales, where they are what the view is for.
        """
        return self._view_on(frame, _foreground_grid(frame, spacing), surely=surely)

    def read(self, frame: sitk.Image, spacing: float) -> Reading:
        """What the classifier over labels reads of such a view, without what the view takes besides."""
        grid = _foreground_grid(frame, spacing)
        values = sitk.GetArrayFromImage(resample(frame, grid))
        with torch.no_grad(), autocast(self._device):
            read = self._net.read(torch.from_numpy(values)[None, None].to(self._device))
        rows, inside = read[0].permute(1, 2, 3, 0).flatten(0, 2), torch.from_numpy(body(values)).flatten()
        return Reading(grid, rows.to(self._matches_on), inside.to(self._matches_on))

    def _view_on(self, frame: sitk.Image, grid: sitk.Image, *, surely: bool) -> View:
        values = sitk.GetArrayFromImage(resample(frame, grid))
        # Not in inference mode: what it makes can't be used where gradients are taken later.
        with torch.no_grad(), autocast(self._device):
            image = torch.from_numpy(values)[None, None].to(self._device)
            fine, coarse, read = self._net(image)
            if surely and self.head is not None:
                smaller = [max(1, round(extent / self.settings.label_scale)) for extent in values.shape]
                farther = self._net.read(F.interpolate(image, smaller, mode="trilinear"))
                # The classifier is linear in what it reads: this is the mean of its logits. CUDA's autocast interpolates in float32.
                read = torch.lerp(read, F.interpolate(farther, values.shape, mode="trilinear").to(read.dtype), 0.5)
        inside = torch.from_numpy(body(values)).to(self._matches_on)
        texture = self_similarity(torch.from_numpy(values).to(self._matches_on))
        fine, coarse, read = (one[0].to(self._matches_on) for one in (fine.float(), coarse.float(), read))
        return View(grid, Embedded(fine, coarse, texture, inside, tuple(grid.GetSpacing()[::-1]), read))

    def match(self, reference: Reference, target: sitk.Image, progress: ProgressCallback, cancel: CancelToken) -> Match | None:
        """Match one reference to the target; None after a cancel. The reference fixes the scale at which both are seen."""
        frames = [normalized(canonical(image)) for image in (reference.volume, target)]
        first = self._first_look(reference, frames, part(progress, 0.0, 0.5), cancel)
        if first is None:
            return None
        reference_view, target_view, affine, field = first
        # The whole volumes: of another part of the body some piece may look alike.
        alike = similarity(target_view.embedded, reference_view.embedded)
        world = grid_map(affine.linear.double().numpy(), affine.shift.double().numpy(), target_view.grid, reference_view.grid)
        nearer = self._nearer(reference, frames, (reference_view, target_view), field, cancel) if self.refined else None
        if nearer is not None:
            reference_view, target_view, field = nearer
        elif (
            not cancel.cancelled
            and self.refined
            and self._nearer_spacing(reference, frames[0], reference_view.grid.GetSpacing()[0]) is not None
        ):
            # It could not be taken: the first look has to do, with its last level too.
            field = correspond(target_view, reference_view, self.settings.levels, cancel, self.settings)[1]
        progress(ProgressEvent(STAGE, 0.8))
        if cancel.cancelled:
            return None
        dense = field_transform(field, target_view.grid, reference_view.grid)
        progress(ProgressEvent(STAGE, 1.0))
        return Match(reference, target_view, reference_view, world, dense, field, affine.inlier_ratio, alike, self.head, self.settings)

    def match_all(
        self, references: Sequence[Reference], target: sitk.Image, progress: ProgressCallback, cancel: CancelToken
    ) -> list[Match]:
        """Match every reference to the target; none after a cancel."""
        matches = []
        for number, reference in enumerate(references):
            share = (number / len(references), (number + 1) / len(references))
            match = None if cancel.cancelled else self.match(reference, target, part(progress, *share), cancel)
            if match is None:
                return []
            matches.append(match)
        return matches

    def _first_look(
        self, reference: Reference, frames: Sequence[sitk.Image], progress: ProgressCallback, cancel: CancelToken
    ) -> tuple[View, View, Affine, torch.Tensor] | None:
        """Both views of the whole foreground, and the maps from the target's to the reference's; None after a cancel."""
        working = working_spacing(frames[0], sitk.GetArrayViewFromImage(frames[0]))
        affordable = max(affordable_spacing(frame, self.most_voxels) for frame in frames)
        spacing = max(working, affordable)
        # Where a second look from nearer follows, labels and single voxels are its matter.
        last = self.refined and self._nearer_spacing(reference, frames[0], spacing) is None
        if last:
            # Smaller than those of both volumes there is nothing more to see.
            finest = min(size for frame in frames for size in frame.GetSpacing())
            spacing = max(self.settings.finer * working, min(working, finest), affordable)
        views = []
        for frame in frames:
            views.append(self.view(frame, spacing, surely=last))
            progress(ProgressEvent(STAGE, 0.3 * len(views)))
            if cancel.cancelled:
                return None
        reference_view, target_view = views
        levels = self.settings.levels if last else self.settings.levels[:-1]
        affine, field = correspond(target_view, reference_view, levels if self.refined else (), cancel, self.settings)
        progress(ProgressEvent(STAGE, 1.0))
        return None if cancel.cancelled else (reference_view, target_view, affine, field)

    def _nearer(
        self, reference: Reference, frames: Sequence[sitk.Image], views: tuple[View, View], field: torch.Tensor, cancel: CancelToken
    ) -> tuple[View, View, torch.Tensor] | None:
        """A second look at the annotated part alone, where that is small enough to be seen from much nearer.

        None where it is not, and after a cancel.
        """
        frame, target_frame = frames
        reference_view, target_view = views
        spacing = self._nearer_spacing(reference, frame, reference_view.grid.GetSpacing()[0])
        if spacing is None:
            return None
        labelled = _labelled_box(reference)
        margin = round(self.settings.second_pass_margin * max(_sides(labelled, frame)) / spacing)
        grid = grid_over(frame, spacing, labelled, margin)
        box = _matched_box(field, target_view.grid, reference_view.grid, grid_over(frame, spacing, labelled, 0), target_frame)
        if box is None:
            return None
        target_grid = grid_over(target_frame, spacing, box, margin)
        if max(np.prod(grid.GetSize()), np.prod(target_grid.GetSize())) > self.most_voxels:
            return None
        closer = self._view_on(frame, grid, surely=True)
        if cancel.cancelled:
            return None
        target_closer = self._view_on(target_frame, target_grid, surely=True)
        # Positions along the axes of one grid differ from those of another by where the two begin.
        cells = positions(target_closer.embedded.size, target_closer.embedded.spacing, COARSE_STEP, device=field.device)
        there, back = _between(target_view.grid, target_grid), _between(reference_view.grid, grid)
        given = sample(field.permute(3, 0, 1, 2), cells + there.to(field.device), target_view.embedded.spacing, outside="border")
        estimate = given.permute(1, 2, 3, 0) - back.to(field.device)
        with torch.no_grad():
            levels = self.settings.second_pass_levels
            return closer, target_closer, refine(target_closer.embedded, closer.embedded, estimate, levels, cancel, self.settings)

    def _nearer_spacing(self, reference: Reference, frame: sitk.Image, spacing: float) -> float | None:
        """The spacing of a second look after one at ``spacing``; None where it would not be much nearer."""
        width = max(_sides(_labelled_box(reference), frame)[1:])
        seen = (1 + 2 * self.settings.second_pass_margin) * width
        nearer = max(seen / self.settings.second_pass_width, min(frame.GetSpacing()))
        return nearer if nearer <= self.settings.second_pass * spacing else None

    def reversed_field(self, match: Match, cancel: CancelToken) -> torch.Tensor | None:
        """Places in the target's grid of the reference's voxels, found anew from the embeddings and not by inverting the field.

        None after a cancel.
        """
        field = correspond(match.reference_view, match.target_view, self.settings.way_back_levels, cancel, self.settings)[1]
        return None if cancel.cancelled else field


def _foreground_grid(frame: sitk.Image, spacing: float) -> sitk.Image:
    return grid_over(frame, spacing, foreground_box(sitk.GetArrayViewFromImage(frame)))


def correspond(
    target: View,
    reference: View,
    levels: tuple[Level, ...] = DEFAULT.levels,
    cancel: CancelToken | None = None,
    settings: MatchingSettings = DEFAULT,
) -> tuple[Affine, torch.Tensor]:
    """The affine map and the dense field from one view to another; ``levels`` and ``cancel`` as for `refine`."""
    with torch.no_grad():
        affine = global_affine(target.embedded, reference.embedded)
        coarse = coarse_field(target.embedded, reference.embedded, affine, settings=settings)
        return affine, refine(target.embedded, reference.embedded, coarse, levels, cancel, settings)


def _sides(box: tuple[slice, slice, slice], frame: sitk.Image) -> list[float]:
    """The extents (z, y, x) in mm of a box of a frame's voxels."""
    return [(side.stop - side.start) * size for side, size in zip(box, frame.GetSpacing()[::-1], strict=True)]


def _labelled_box(reference: Reference) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) of the canonical frame that hold all structures of an annotated case."""
    marked = np.logical_or.reduce(
        [sitk.GetArrayFromImage(canonical(layer, reference.volume)) > 0 for layer in reference.segmentation.layers]
    )
    z, y, x = ndimage.find_objects(marked.astype(np.uint8))[0] if marked.any() else (slice(0, n) for n in marked.shape)
    return z, y, x


def _matched_box(
    field: torch.Tensor, target_grid: sitk.Image, reference_grid: sitk.Image, piece: sitk.Image, target: sitk.Image
) -> tuple[slice, slice, slice] | None:
    """Slices (z, y, x) of the target that are matched to a part of the reference's grid; None if nothing is."""
    low = _between(reference_grid, piece)
    high = low + torch.tensor(piece.GetSize()[::-1]) * torch.tensor(piece.GetSpacing()[::-1])
    places = ((field > low.to(field.device)) & (field < high.to(field.device))).all(-1).nonzero()
    if len(places) == 0:
        return None
    ends = [target_grid.TransformIndexToPhysicalPoint([int(i) for i in corner.flip(0)]) for corner in (places.min(0)[0], places.max(0)[0])]
    first, last = (np.array(target.TransformPhysicalPointToContinuousIndex(end))[::-1] for end in ends)
    z, y, x = (slice(max(0, int(a)), int(np.ceil(b)) + 1) for a, b in zip(first, last, strict=True))
    return z, y, x


def _between(grid: sitk.Image, other: sitk.Image) -> torch.Tensor:
    """Where another grid with the same axes begins, (z, y, x) in mm along these from the first voxel of ``grid``."""
    direction = np.array(grid.GetDirection()).reshape(3, 3)
    along = direction.T @ (np.array(other.GetOrigin()) - np.array(grid.GetOrigin()))
    return torch.from_numpy(along[::-1].copy()).float()


def carry_labels(
    reference: Reference,
    target_view: View,
    reference_view: View,
    field: torch.Tensor,
    structures: Sequence[Structure],
    *,
    radius: int | None = None,
    settings: MatchingSettings = DEFAULT,
) -> dict[Structure, SoftMask]:
    """Carry structures of an annotated volume along a field; ``reference_view`` is that volume's, ``target_view`` the other's.

    Structures that the volume lacks are left out. ``radius`` is that of the attention, if not the usual one.
    """
    found = {structure: same_structure(reference.segmentation, structure) for structure in structures}
    own = {structure: mine for structure, mine in found.items() if mine is not None}
    out: dict[Structure, SoftMask] = {}
    for layer in sorted({mine.layer for mine in own.values()}):
        labels = resample(canonical(reference.segmentation.layers[layer]), reference_view.grid, nearest=True)
        values = sitk.GetArrayFromImage(labels)
        asked = sorted({mine.label for mine in own.values() if mine.layer == layer})
        # What nobody asked for competes as background does: that changes no answer and saves a number a voxel.
        compact = numbered(values, asked)
        with torch.no_grad():
            voxels, label, probability = fuse_labels(
                target_view.embedded,
                reference_view.embedded,
                field,
                torch.from_numpy(compact).to(field.device),
                len(asked) + 1,
                radius=settings.attention_radius if radius is None else radius,
                scale=settings.attention_sharpness,
                width=settings.attention_width,
                least=NEGLIGIBLE,
            )
        counts = torch.bincount(label, minlength=len(asked) + 1).tolist()[1:]
        parts = dict(zip(asked, zip(voxels.split(counts), probability.split(counts), strict=True), strict=True))
        for structure, mine in own.items():
            if mine.layer == layer:
                where, share = parts[mine.label]
                out[structure] = _soft_mask(share.cpu().numpy(), where.cpu().numpy(), target_view.grid)
    return {structure: out[structure] for structure in own}


def numbered_layers(
    reference: Reference, structures: Sequence[Structure], grid: sitk.Image
) -> tuple[list[torch.Tensor], list[int], list[Structure]]:
    """Label maps of a grid (z, y, x) with structures numbered from 1 on in each, how many each has, and the structures in that order.

    They lie on the CPU.
    """
    layers, counts, order = [], [], []
    for layer in sorted({structure.layer for structure in structures}):
        labels = resample(canonical(reference.segmentation.layers[layer]), grid, nearest=True)
        asked = [structure for structure in structures if structure.layer == layer]
        layers.append(torch.from_numpy(numbered(sitk.GetArrayFromImage(labels), [structure.label for structure in asked])))
        counts.append(len(asked))
        order += asked
    return layers, counts, order


def cell_grid(grid: sitk.Image) -> sitk.Image:
    """An empty grid of the coarse cells of a working grid."""
    size = [-(-n // COARSE_STEP) for n in grid.GetSize()]
    cells = sitk.Image(size, sitk.sitkUInt8)
    cells.SetSpacing([COARSE_STEP * s for s in grid.GetSpacing()])
    cells.SetDirection(grid.GetDirection())
    cells.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint([(min(COARSE_STEP, n) - 1) / 2 for n in grid.GetSize()]))
    return cells


def _whole(values: np.ndarray, grid: sitk.Image) -> SoftMask:
    """Probabilities (z, y, x) of a whole grid."""
    where = np.flatnonzero(values > NEGLIGIBLE)
    return _soft_mask(values.ravel()[where], where, grid)


def body(values: np.ndarray) -> np.ndarray:
    """The foreground of normalized intensities (z, y, x) with what it encloses in a slice: lungs and ventricles are as dark as air."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in foreground(values)])


def affordable_spacing(image: sitk.Image, most: int) -> float:
    """The smallest isotropic spacing in mm at which a volume has no more voxels than memory allows for.

    It matters where a small reference, say a heart, meets a whole body.
    """
    return float((np.prod(np.array(image.GetSize()) * image.GetSpacing()) / most) ** (1 / 3))


def _soft_mask(probability: np.ndarray, where: np.ndarray, grid: sitk.Image) -> SoftMask:
    """Probabilities (K,) of voxels (K,) of a grid, numbered in the order of its array."""
    if len(where) == 0:
        return SoftMask.empty(grid)
    places = np.stack(np.unravel_index(where, grid.GetSize()[::-1]))
    low, high = places.min(1), places.max(1) + 1
    values = np.zeros(high - low, np.float32)
    values[tuple(places - low[:, None])] = probability
    return SoftMask(values, (int(low[0]), int(low[1]), int(low[2])), grid)
