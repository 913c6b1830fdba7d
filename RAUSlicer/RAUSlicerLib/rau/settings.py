"""The parameters of localization by the vision-language model and of propagation by SAM 2, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalizerSettings:
    """When the vision-language model is asked, and what its answers count. ``settings`` in its ``config.json`` overrides any of it."""

    pixels: int = 8
    """A slice is asked about a structure from this many pixels of its matched reference on,"""
    probability: float = 0.15
    """or from this matched probability on."""
    every_second_mm: float = 3.5
    """Where slices lie closer than this the model is asked on every second one: two patients' organs change less from one to the next. On
    three abdomens with slices of 3 mm own boxes were as good as with all slices (.667), in 4 s less."""
    present: float = 0.35
    """Slices whose presence is below this hold no box."""


@dataclass(frozen=True)
class PropagationSettings:
    """Where SAM 2 draws, and what it remembers. ``settings`` in its ``config.json`` overrides any of it."""

    nearest: int = 3
    """The reference's slice of a structure may lie this many slices from the target's: two patients' organs never end at the same level."""
    pixels: int = 8
    """Fewest pixels with which a reference's slice is remembered."""
    batch: int = 12
    """Structures that are propagated together."""
    doubt: float = 1.0
    """A slice is left as the prior has it where less than this share of the structure's area is undecided: SAM 2 takes most of the time of
    a run."""
    patience: int = 2
    """So many slices in a row without a voxel end a structure."""
