"""What can be measured of the structures of one volume by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..anatomy.shapes import Shape, shapes, voxels_in
from ..anatomy.terms import Attached
from ..errors import InputError
from ..imaging.checks import is_ct_volume, same_grid
from ..imaging.dicom import MODALITY_KEY
from ..imaging.segmentation import Segmentation, Structure
from .evidence import CENTRE, Quantity

HOUNSFIELD = "[hnsf'U]"
NO_UNIT = "1"

EXTENTS = (Quantity.EXTENT_RIGHT_LEFT, Quantity.EXTENT_ANTERIOR_POSTERIOR, Quantity.EXTENT_SUPERIOR_INFERIOR)
INTENSITIES = (Quantity.MEAN_INTENSITY, Quantity.INTENSITY_SPREAD)

# The cosine between an axis of the patient and the normal of a slice, from which the slice does not show lengths along the axis.
_ALONG_NORMAL = 0.5


@dataclass(frozen=True)
class Value:
    """A measured value; ``is_cut`` says that the border of the volume cuts one of the structures it was measured on."""

    quantity: Quantity
    value: float
    unit: str
    structures: tuple[Structure, ...]
    is_cut: bool


@dataclass(frozen=True)
class MeasuredCase:
    """A volume with the shapes of its structures.

    The keys of ``own``, ``shapes`` and ``pairs`` are the structures that were asked for. ``own`` are the segmentation's structures that
    stand for them, ``pairs`` the left and the right structure of the pair that each belongs to.
    """

    volume: sitk.Image
    segmentation: Segmentation
    own: Mapping[Structure, Structure]
    shapes: Mapping[Structure, Shape]
    pairs: Mapping[Structure, tuple[Structure, Structure]]
    intensity_unit: str

    @classmethod
    def of(
        cls,
        volume: sitk.Image,
        segmentation: Segmentation,
        own: Mapping[Structure, Structure],
        attached: Attached,
        checkpoint: Callable[[], None],
    ) -> MeasuredCase:
        """Find the shapes of structures; ``checkpoint`` is called after each.

        Raises:
            InputError: volume and segmentation are on different grids.
        """
        if not same_grid(volume, segmentation.labelmap):
            raise InputError(
                f"The segmentation ({_size(segmentation.labelmap)} voxels) is not on the grid of the volume ({_size(volume)} voxels).",
                "Structures are measured in the image that they were drawn on.",
                "Bring the segmentation onto the volume's grid first.",
            )
        known = shapes(segmentation, own.values(), checkpoint)
        found = {structure: known[there] for structure, there in own.items() if there in known}
        return cls(volume, segmentation, own, found, _pairs(found, attached), HOUNSFIELD if is_ct_volume(volume) else NO_UNIT)

    def values(self, structure: Structure) -> Iterator[Value]:
        """Volume, extents, intensities and asymmetry of a structure, as far as the image has them."""
        shape = self.shapes.get(structure)
        if shape is None:
            return
        alone = (structure,)
        if self._is_thick:
            voxel_ml = float(np.prod(self.volume.GetSpacing())) / 1000
            yield Value(Quantity.VOLUME, shape.voxels * voxel_ml, "mL", alone, shape.is_cut)
        for axis, quantity in enumerate(EXTENTS):
            if self._shows_lengths(axis):
                yield Value(quantity, float(shape.extents[axis]), "mm", alone, shape.is_cut)
        for axis, quantity in enumerate(CENTRE):
            if self._shows_lengths(axis):
                yield Value(quantity, float(shape.centroid[axis]), "mm", alone, shape.is_cut)
        for quantity, value in zip(INTENSITIES, self._moments(structure, shape), strict=False):
            yield Value(quantity, value, self.intensity_unit, alone, shape.is_cut)
        if structure in self.pairs:
            yield self._asymmetry(*self.pairs[structure])

    def _moments(self, structure: Structure, shape: Shape) -> tuple[float, ...]:
        """Mean and standard deviation of the structure's defined voxels; empty where there are none."""
        values = sitk.GetArrayViewFromImage(self.volume)[shape.box][voxels_in(self.segmentation, self.own[structure], shape.box)]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        return (float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))) if values.size else ()

    def _asymmetry(self, left: Structure, right: Structure) -> Value:
        sizes = [self.shapes[one].voxels for one in (left, right)]
        is_cut = self.shapes[left].is_cut or self.shapes[right].is_cut
        return Value(Quantity.ASYMMETRY, 100 * (sizes[0] - sizes[1]) / (sum(sizes) / 2), "%", (left, right), is_cut)

    @property
    def _is_thick(self) -> bool:
        return min(self.volume.GetSize()) > 1

    def _shows_lengths(self, axis: int) -> bool:
        """Whether lengths along an axis of the patient (0 is right to left) can be measured."""
        if self._is_thick:
            return True
        # A picture's pixels are no millimetres: only DICOM says how large they are, and with it the modality.
        if not self.volume.HasMetaDataKey(MODALITY_KEY):
            return False
        normal = np.reshape(self.volume.GetDirection(), (3, 3))[:, int(np.argmin(self.volume.GetSize()))]
        return bool(abs(normal[axis]) < _ALONG_NORMAL)


def _pairs(found: Mapping[Structure, Shape], attached: Attached) -> dict[Structure, tuple[Structure, Structure]]:
    of_node: dict[tuple[str, str], list[Structure]] = {}
    for structure in found:
        if structure in attached:
            graph, node = attached[structure]
            of_node.setdefault((graph.name, node.id), []).append(structure)
    pairs = {}
    for structure in found:
        if structure not in attached:
            continue
        graph, node = attached[structure]
        counterpart = graph.counterpart(node.id)
        others = [] if counterpart is None else of_node.get((graph.name, counterpart.id), [])
        # Of several structures at a node nobody knows which is the other's counterpart.
        if len(others) == len(of_node[graph.name, node.id]) == 1:
            pairs[structure] = (structure, others[0]) if node.laterality == "left" else (others[0], structure)
    return pairs


def _size(image: sitk.Image) -> str:
    return " x ".join(str(n) for n in image.GetSize())
