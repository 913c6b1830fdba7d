"""What the training labels say of a target, whatever they are called: the reference shows which of them speak for a structure.

An attention from voxel to voxel finds what looks like the reference's own kidney. Where that is unlike other kidneys, it finds nothing. A
classifier over the training labels has seen many kidneys; how its answers are spread in the reference, inside and outside of a
structure, says what they are worth for it. No name is read, and structures that nobody trained on are described by several labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy import ndimage
from torch import Tensor

from .correspondence import Embedded, at_once
from .settings import DEFAULT, MatchingSettings

# What the training labels say where they say nothing.
UNKNOWN = 0.5
# The voxels around a structure are thinned out by so much along each axis.
_THINNED = 2
# Voxels of a structure that are looked at.
_ENOUGH = 2000
# What is looked at together should stay in the processor's cache.
_AT_ONCE = 1 << 12
# Labels are kept as uint8.
_NUMBERS = 256
# Weight of not knowing, in shares of a voxel's probability.
_DOUBT = 1e-5


@dataclass(frozen=True)
class LabelHead:
    """A linear classifier over the training labels: several sets of them, of which a voxel has one label each.

    ``weights`` (L, C) and ``biases`` (L,) are those of each set.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def to(self, device: torch.device) -> LabelHead:
        """The same on a device."""
        return LabelHead(*(tuple(one.to(device) for one in many) for many in (self.weights, self.biases)))

    def posterior(self, rows: Tensor, which: int) -> Tensor:
        """Probabilities (N, L) of one set's labels for what the network says of voxels (N, C)."""
        return torch.addmm(self.biases[which], rows.float(), self.weights[which].t()).softmax(1)

    def across(self, rows: Tensor, which: int) -> Tensor:
        """The same as (L, N): the labels of many voxels are compared several times as fast along the first axis."""
        return torch.addmm(self.biases[which][:, None], self.weights[which], rows.float().t()).softmax(0)

    def masses(self, rows: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """Sums (L,) over voxels (N, C) of the probabilities of one set's labels, and of their squares."""
        whole, squared = torch.zeros(2, len(self.weights[which]), device=rows.device)
        for some in rows.split(at_once(_AT_ONCE, rows.device)):
            probability = self.posterior(some, which)
            whole += probability.sum(0)
            squared += probability.square().sum(0)
        return whole, squared


@dataclass(frozen=True)
class LabelEvidence:
    """How far the training labels speak for the structures of a reference in a target.

    ``index`` and ``share`` (K, D, H, W; uint8) are the most probable labels of the target's voxels and their probabilities, 255 is 1;
    ``ratio`` (S, L) says what a label is worth for each structure, 0 to 1, 0.5 is nothing. All of it lies on the CPU.
    """

    index: Tensor
    share: Tensor
    ratio: Tensor

    def mean(self, structure: int, box: Sequence[slice], inside: Tensor) -> float:
        """The mean of `of` for one structure, over the voxels of a box that are ``inside`` (booleans)."""
        z, y, x = box
        index, share = (values[:, z, y, x][:, inside] for values in (self.index, self.share))
        return float(_said(self.ratio[structure], index, share).mean())

    def of(self, structures: Sequence[int], box: Sequence[slice]) -> Tensor:
        """How far they speak for structures taken as one, 0 to 1, in a box (z, y, x) of the target."""
        z, y, x = box
        return _said(self.ratio[list(structures)].max(0)[0], self.index[:, z, y, x], self.share[:, z, y, x])


def _said(worth: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """What labels (K, ...) with their shares say, 0 to 1, by what each label is worth (L,)."""
    return (share.float() / 255 * (worth.float()[index.int()] - UNKNOWN)).sum(0) + UNKNOWN


def label_evidence(
    target: Embedded,
    reference: Embedded,
    layers: Sequence[Tensor],
    counts: Sequence[int],
    head: LabelHead,
    settings: MatchingSettings = DEFAULT,
) -> LabelEvidence:
    """What the training labels say of a target.

    Args:
        layers: Label maps (D', H', W') of the reference, numbered from 1 to their count, 0 is background; numbers go on from layer to layer
            in the result.
        counts: How many structures each layer has.

    Source: own design; the ratio is the likelihood ratio of naive Bayes with even odds.
    """
    every = _worths(reference.label_rows, layers, counts, head, settings)
    best = _clearest(every)
    index, share = _most_probable(target, head, best, settings.labels_kept)
    return LabelEvidence(index.cpu(), share.cpu(), torch.cat([worth for worth, _ in every[best]]).cpu())


def telling_set(
    reference: Tensor, layers: Sequence[Tensor], counts: Sequence[int], head: LabelHead, settings: MatchingSettings = DEFAULT
) -> int:
    """Which set of labels tells a reference's structures from what is around them best.

    ``reference`` is what the classifier reads of its voxels (D * H * W, C); the label maps are those of `label_evidence`.
    """
    return _clearest(_worths(reference, layers, counts, head, settings))


_Worth = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Layer:
    """A label map (D, H, W; on the CPU) of so many structures: where each is; sorted once for all sets."""

    labels: Tensor
    count: int

    @cached_property
    def boxes(self) -> list[tuple[slice, slice, slice] | None]:
        return ndimage.find_objects(self.labels.numpy(), max_label=self.count)

    def some_of(self, number: int) -> Tensor:
        """Some of a structure's voxels (n,), evenly spread."""
        own = self._order[self._ends[number - 1] : self._ends[number]]
        return own[:: -(-len(own) // _ENOUGH)]

    @cached_property
    def _order(self) -> Tensor:
        return torch.argsort(self.labels.flatten(), stable=True)

    @cached_property
    def _ends(self) -> list[int]:
        return torch.bincount(self.labels.flatten(), minlength=self.count + 1).cumsum(0).tolist()


def _worths(
    reference: Tensor, layers: Sequence[Tensor], counts: Sequence[int], head: LabelHead, settings: MatchingSettings
) -> list[list[_Worth]]:
    """What `_worth` says of each set and layer."""
    known = [_Layer(layer, count) for layer, count in zip(layers, counts, strict=True)]
    return [[_worth(reference, layer, head, which, settings.label_surroundings) for layer in known] for which in range(len(head.weights))]


def _clearest(every: list[list[_Worth]]) -> int:
    return max(range(len(every)), key=lambda which: sum(float(clear.sum()) for _, clear in every[which]))


def _worth(reference: Tensor, layer: _Layer, head: LabelHead, which: int, around: int) -> _Worth:
    """What each label is worth for each structure (count, L), and how clearly that tells the structure from what is around it (count,)."""
    size = len(head.weights[which])
    inner, outer = torch.zeros(2, layer.count, size, device=reference.device)
    thin = (slice(None, None, _THINNED),) * 3
    sparse = layer.labels[thin].to(reference.device)
    every = reference.view(*layer.labels.shape, -1)[thin]
    everywhere = _in_parts(every.reshape(-1, every.shape[-1]), head, which).view(*sparse.shape, size)
    for number, box in enumerate(layer.boxes, start=1):
        if box is None:
            continue
        inner[number - 1] = head.posterior(reference[layer.some_of(number).to(reference.device)], which).mean(0)
        near = tuple(slice(max(side.start - around, 0) // _THINNED, (side.stop + around) // _THINNED + 1) for side in box)
        others = sparse[near] != number
        if others.any():
            # A product of matrices: choosing the voxels first, and averaging them then, takes several times as long.
            outer[number - 1] = others.flatten().float() @ everywhere[near].reshape(-1, size) / others.sum()
    worth = (inner + _DOUBT) / (inner + outer + 2 * _DOUBT)
    return worth, ((inner - outer) * worth).sum(1)


def _in_parts(rows: Tensor, head: LabelHead, which: int) -> Tensor:
    # Written where it belongs: to join the parts at the end would take as much memory again.
    out = torch.empty(len(rows), len(head.weights[which]), device=rows.device)
    count = at_once(_AT_ONCE, rows.device)
    for some, part in zip(rows.split(count), out.split(count), strict=True):
        part.copy_(head.posterior(some, which))
    return out


def _most_probable(target: Embedded, head: LabelHead, which: int, kept: int) -> tuple[Tensor, Tensor]:
    """Labels and probabilities (K, D, H, W), uint8; zero where the target is air."""
    kept = min(kept, len(head.weights[which]))
    inside = target.inside.flatten().nonzero()[:, 0]
    index = torch.zeros(kept, target.inside.numel(), dtype=torch.uint8, device=inside.device)
    share = torch.zeros_like(index)
    rows = target.label_rows
    # Share and label in one number, exact in single precision: the largest says both.
    order = torch.arange(_NUMBERS - 1, _NUMBERS - 1 - len(head.weights[which]), -1.0, device=inside.device)[:, None]
    for some in inside.split(at_once(_AT_ONCE, inside.device)):
        packed = head.across(rows.index_select(0, some), which).mul_(255).round_().mul_(_NUMBERS).add_(order)
        for number in range(kept):
            best = packed.amax(0).int()
            label = _NUMBERS - 1 - best % _NUMBERS
            index[number, some], share[number, some] = label.to(torch.uint8), (best // _NUMBERS).to(torch.uint8)
            packed.scatter_(0, label.long()[None], -1.0)
    return index.view(kept, *target.size), share.view(kept, *target.size)
