"""The parameters of refinement, of fusion and of the label map, in one place."""

from __future__ import annotations

from dataclasses import dataclass

# What is seen around a structure: this share of its extent, and the least and the most in voxels.
Margins = tuple[float, int, int]


@dataclass(frozen=True)
class RefinementSettings:
    """How masks are refined, merged and put into a label map. ``settings`` in a refiner's ``config.json`` overrides any of it."""

    finer: float = 1.4
    """Voxels are this much smaller than those of the match, but not smaller than the target's own."""
    first_margins: Margins = (0.25, 8, 20)
    """What the first pass sees around a structure, at half of the resolution."""
    second_margins: Margins = (0.15, 6, 12)
    """The second pass needs to see less far: a brain, an abdomen and a heart came out the same to .001 in Dice, .7 to 2.5 s sooner."""
    located: float = 0.3
    """Where the first pass gives a structure this probability the second one works."""
    first_passes: int = 3
    """A structure that reaches the rim of what the first pass sees is located again with more around it, so often in all."""
    telling_worth: float = 0.8
    """A training label that is worth this much for a structure (see `LabelEvidence`) says where to work, too."""
    telling_share: int = 128
    """The share of a voxel (of 255) that such a label needs."""
    fair_volume: float = 2.0
    """One of several references' masks counts in full while its volume differs from its annotation's by no more than this factor."""
    drawn: float = 0.4
    """What a voxel needs to belong to a structure that the model has drawn. Its probabilities are steep and fade at thin ends first: with
    one half boxes were too small on brains and abdomens. With .3 one abdomen and one heart of two each lost Dice."""
    island: float = 0.05
    """An island is kept if it has this share of the largest one's voxels: two-part structures stay whole, specks go. A fifth as the limit
    cost .02 to .03 of the boxes' overlap on two abdomens, where vessels fall apart, and gained nothing on a brain and a heart."""


DEFAULT = RefinementSettings()
