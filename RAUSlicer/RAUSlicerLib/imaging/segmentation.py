"""Structures, segmentations and annotated references: what every other room passes around."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..support.text import name_key, plain_text


@dataclass(frozen=True)
class Structure:
    """One anatomical structure of a segmentation.

    ``label`` is its value in the label map of ``layer`` (structures that overlap lie in different layers).
    ``color`` is RGB, 0 to 1. ``terminology`` is Slicer's serialized terminology entry, kept verbatim. ``id`` is the segment id of the file
    or node it came from.
    """

    label: int
    name: str
    color: tuple[float, float, float] | None = None
    terminology: str | None = None
    parent: str | None = None
    layer: int = 0
    id: str | None = None

    def __post_init__(self) -> None:
        # Names come from files, headers and scenes, and go to terminals, tables and files.
        object.__setattr__(self, "name", plain_text(self.name))


@dataclass(frozen=True)
class Segmentation:
    """Structures and the label maps that hold them, all on one grid.

    ``labelmap`` is an integer image, 0 is background. ``overlays`` are the further layers of a segmentation whose structures overlap;
    ``Structure.layer`` 0 is ``labelmap``, k is ``overlays[k - 1]``.
    """

    labelmap: sitk.Image
    structures: tuple[Structure, ...]
    overlays: tuple[sitk.Image, ...] = ()

    @property
    def layers(self) -> tuple[sitk.Image, ...]:
        return (self.labelmap, *self.overlays)

    def mask(self, structure: Structure) -> sitk.Image:
        """The structure's voxels as a 0/1 image on the segmentation's grid."""
        return sitk.Cast(self.layers[structure.layer] == structure.label, sitk.sitkUInt8)

    def array(self, structure: Structure) -> np.ndarray:
        """The structure's voxels as booleans, shape (z, y, x)."""
        return sitk.GetArrayViewFromImage(self.layers[structure.layer]) == structure.label

    def map_layers(self, layers: Iterable[sitk.Image]) -> Segmentation:
        """The same structures in other label maps, for example resampled ones."""
        first, *rest = layers
        return replace(self, labelmap=first, overlays=tuple(rest))

    def select(self, names: Sequence[str] | None) -> tuple[Structure, ...]:
        """The structures with the given names, in the segmentation's order; all of them for None.

        Names match without regard to case, surrounding spaces and the way accents are stored; a name that several structures share selects
        all of them.

        Raises:
            InputError: a name is empty or belongs to no structure.
        """
        if names is None:
            return self.structures
        wanted = [name_key(name) for name in names]
        known = {name_key(structure.name) for structure in self.structures}
        missing = [name for name, key in zip(names, wanted, strict=True) if not key or key not in known]
        if missing or not wanted:
            raise self._unknown(missing)
        return tuple(structure for structure in self.structures if name_key(structure.name) in wanted)

    def _unknown(self, missing: Sequence[str]) -> InputError:
        names = sorted({structure.name for structure in self.structures})
        folded = {name_key(name): name for name in names}
        near = [folded[key] for name in missing for key in difflib.get_close_matches(name_key(name), folded, n=3)]
        # A brain atlas has more names than anybody reads.
        listed = names if len(names) <= 30 else [*names[:30], f"and {len(names) - 30} more"]
        return InputError(
            f"The reference has no structure named {', '.join(repr(name) for name in missing) or 'as asked: the list is empty'}.",
            f"Its structures are: {', '.join(listed)}.",
            f"Did you mean {', '.join(dict.fromkeys(near))}?"
            if near
            else "Choose among these, or leave the list out to transfer every structure.",
        )


@dataclass(frozen=True)
class Reference:
    """An annotated case: a volume and its segmentation on the same grid."""

    volume: sitk.Image
    segmentation: Segmentation
