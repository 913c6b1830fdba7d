"""The parameters by which left and right are told, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ..matching.settings import Level


@dataclass(frozen=True)
class LateralitySettings:
    """When voxels say that left and right are exchanged. ``laterality`` in a model's ``calibration`` overrides any of it."""

    coarser: float = 2.0
    """Voxels of the fits, in working spacings. Asymmetries that all people share are large: at twice the working spacing they are seen as
    well, in an eighth of the voxels."""
    levels: tuple[Level, ...] = ((4, 15, 1.0), (2, 8, 0.8))
    """Demons of the fits. What was measured below rests on these."""
    inlier_ratio: float = 0.6
    """Least inlier ratio of every fit. Of training pairs, no hearts and no abdomens had it in all four fits; brains that had less showed
    margins of either sign. In the match itself five brains had .76 and more, five abdomens and four hearts .49 and less."""
    unsure: float = 0.002
    """A smaller difference in correlation says nothing. On training brains with that ratio the smallest mean of both margins that was right
    was .003."""
    asymmetric: float = 0.06
    """A larger one means that a fit went wrong. The largest right margin was .050, and two that were right differed by .052 at most; where
    fits went wrong it was .067 and .125."""
    label_voxels: int = 1_000_000
    """Voxels at which training labels are read: fewer than for matching, since sides are told by whole organs. All 17 abdomens and 17
    hearts of training were told by so many; at a third of them some abdomens were not."""
    label_margin: float = 0.012
    """A smaller margin of the training labels says nothing. Of ten of these abdomens and eight hearts the smallest was .079, of four brains
    the largest .002."""
