"""Keeps a run's structures in fixed groups, so that what a large model was shown of the reference stays true from slice to slice.

Which structures are asked about changes with every slice. Cut into groups anew each time, nearly every group would be another one, and the
reference's part of its prompt, two pictures and all their layers, would be computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from ..rau.network import Pictures
from .drawing import picture, with_regions

# A structure by its name; where several are called the same, by its place among them.
Seat = tuple[str, int]


@dataclass
class Shown:
    """What a group's prompt shows of the reference: its slice ``key`` with the masks of ``seats``; ``head`` is it, as a model takes it."""

    key: int
    seats: dict[Seat, np.ndarray]
    pictures: tuple[Image.Image, Image.Image]
    head: dict[str, Tensor] | None = None

    def number(self, seat: Seat) -> int:
        """The number, from 1 on, that a structure has in the drawing."""
        return list(self.seats).index(seat) + 1

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.seats)


class Groups:
    """Groups of one run, made as structures come up; another reference is another run."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.forget()

    def forget(self) -> None:
        """Let go of the run."""
        self._of: object = None
        self._places: dict[Seat, int] = {}
        self._shown: dict[int, Shown] = {}

    def divide(self, pictures: Pictures, names: Sequence[str]) -> dict[int, list[int]]:
        """The numbers of the structures that are asked about, by the group they belong to."""
        if self._of is not pictures.reference:
            self.forget()
            self._of = pictures.reference
        out: dict[int, list[int]] = {}
        for index, seat in enumerate(seats(names)):
            place = self._places.setdefault(seat, len(self._places))
            out.setdefault(place // self._size, []).append(index)
        return out

    def show(self, group: int, pictures: Pictures, names: Sequence[str], asked: Sequence[int], key: int, side: int) -> Shown:
        """What the group is shown: what it was before if that has all that are asked about, else those as well.

        Args:
            group: Its number.
            pictures: Slices of the run.
            names: Of all structures that are asked about on this slice.
            asked: Which of them are of this group.
            key: The reference's slice to show.
            side: Of the pictures, in pixels.
        """
        named = seats(names)
        before = self._shown.get(group)
        known = before.seats if before is not None and before.key == key else {}
        if before is not None and known and all(named[index] in known for index in asked):
            return before
        masks = {**known, **{named[index]: pictures.mask(index, key) for index in asked if named[index] not in known}}
        image = pictures.reference[key]
        self._shown[group] = Shown(key, masks, (picture(image, side), with_regions(image, list(masks.values()), side)))
        return self._shown[group]


def seats(names: Sequence[str]) -> list[Seat]:
    """Names told apart where they are the same.

    >>> seats(["cyst", "liver", "cyst"])
    [('cyst', 0), ('liver', 0), ('cyst', 1)]
    """
    return [(name, list(names[:index]).count(name)) for index, name in enumerate(names)]
