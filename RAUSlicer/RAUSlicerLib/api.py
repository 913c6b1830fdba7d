"""RAUSlicer in three lines of Python: paths, images or arrays in, a result that can be saved out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .imaging.files import read_segmentation, read_volume, write_segmentation
from .imaging.labelmap import segmentation_of
from .imaging.segmentation import Segmentation
from .inputs import check_inputs
from .pipeline import transfer as _transfer
from .progress import CancelToken, ProgressCallback
from .results import Transfer
from .support.notices import noticed

Volume: TypeAlias = str | os.PathLike[str] | sitk.Image | np.ndarray
LabelMap: TypeAlias = str | os.PathLike[str] | sitk.Image | np.ndarray | Segmentation


@dataclass(frozen=True)
class Result:
    """What was found in a target.

    ``transfer`` has all that is known of the run, ``target`` is the volume, ``source`` its file if it has one.
    """

    transfer: Transfer
    target: sitk.Image
    source: Path | None = None

    @property
    def segmentation(self) -> Segmentation:
        """The structures on the target's own grid."""
        return self.transfer.segmentation

    @property
    def labels(self) -> np.ndarray:
        """The first layer's label values, shape (z, y, x) of the target; overlapping structures lie in further layers."""
        return sitk.GetArrayFromImage(self.segmentation.labelmap)

    @property
    def confidences(self) -> dict[str, float]:
        """The expected Dice of each structure, 0 to 1, by its name."""
        return self.transfer.confidences

    @property
    def statuses(self) -> dict[str, str]:
        """Whether it is "found", "low confidence" or "not found", for each structure by its name."""
        return {name: str(status) for name, status in self.transfer.statuses.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user."""
        return self.transfer.warnings

    def mask(self, name: str) -> np.ndarray:
        """A structure's voxels, booleans of the shape (z, y, x) of the target; names that several share have numbers in ``confidences``.

        Raises:
            InputError: no structure has that name.
        """
        named = dict(zip(self.transfer.names, (one.structure for one in self.transfer.results), strict=True))
        structure = named[name] if name in named else self.segmentation.select([name])[0]
        return self.segmentation.array(structure)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> list[str]:
        """Write the segmentation: ``.seg.nrrd`` keeps everything, ``.nii.gz`` and others keep label values, ``.dcm`` is DICOM SEG.

        Args:
            path: Its ending is the format.
            force: Whether an existing file may be replaced.

        Returns:
            Sentences on what the file can't hold as it is.

        Raises:
            OutputError: it can't be written there, or can't hold the result.
        """
        return write_segmentation(self.segmentation, Path(path), self.target, volume_path=self.source, force=force)


def transfer(
    reference: Volume | Sequence[Volume],
    segmentation: LabelMap | Sequence[LabelMap],
    target: Volume,
    *,
    structures: Sequence[str] | None = None,
    names: Mapping[int, str] | None = None,
    spacing: Sequence[float] | None = None,
    model: str = "embedded",
    device: str = "auto",
    localizer: str = "vlm",
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Result:
    """Transfer the structures of one or several annotated cases to a new one.

    ::

        result = rauslicer.transfer("ref.nii.gz", "ref.seg.nrrd", "target.nii.gz")
        result.save("target.seg.nrrd")

    Args:
        reference: The annotated volume, or several: paths, images, or arrays of the shape (z, y, x).
        segmentation: Its structures, or one segmentation for each reference: a path, a label image, an array of label values, or a
            ``Segmentation``.
        target: The new volume.
        structures: Names to transfer; None takes all of the first reference.
        names: Of the label values of images and arrays; without, they are called "label 1" and so on.
        spacing: Voxel sizes (x, y, z) in mm of arrays, which have no place of their own; their axes are taken as left, posterior, superior.
        model: Name or folder of a model.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        localizer: ``vlm`` or ``registration``.
        progress: Is called with every step.
        cancel: What is finished when it is set is in the result.

    Raises:
        InputError: an input can't be used.
        ModelError: the model is missing or damaged.
        ResourceError: the device is not available, or memory runs out.
    """
    volumes, labelled = _listed(reference), _listed(segmentation)
    if len(volumes) != len(labelled):
        raise InputError(
            f"There are {len(volumes)} references and {len(labelled)} segmentations.",
            "Each reference needs its own segmentation.",
            "Give as many of one as of the other, in the same order.",
        )
    with noticed() as sentences:
        pairs = []
        for given, own in zip(volumes, labelled, strict=True):
            volume = _volume(given, spacing, "reference")
            pairs.append((volume, _segmentation(own, volume, names)))
        new = _volume(target, spacing, "target")
    inputs = check_inputs(pairs, new)
    done = _transfer(
        list(inputs.references),
        inputs.target,
        structures,
        localizer=localizer,
        model=model,
        device=device,
        progress=progress,
        cancel=cancel,
    )
    warnings = tuple(dict.fromkeys([*sentences, *inputs.warnings, *done.warnings]))
    source = Path(target) if isinstance(target, str | os.PathLike) else None
    return Result(replace(done, warnings=warnings), inputs.target, source)


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _volume(given: Volume, spacing: Sequence[float] | None, what: str) -> sitk.Image:
    if isinstance(given, str | os.PathLike):
        return read_volume(Path(given))
    return _image(given, spacing, what)


def _segmentation(given: LabelMap, volume: sitk.Image, names: Mapping[int, str] | None) -> Segmentation:
    if isinstance(given, Segmentation):
        return given
    if isinstance(given, str | os.PathLike):
        return read_segmentation(Path(given), volume)
    labels = _image(given, volume.GetSpacing(), "segmentation")
    if not isinstance(given, sitk.Image):
        if labels.GetSize() != volume.GetSize():
            raise InputError(
                f"The segmentation has {labels.GetSize()} voxels, its volume {volume.GetSize()}.",
                "Voxels of an array belong to those of its volume one by one.",
                "Give an array of the volume's shape, or an image that says where it lies.",
            )
        labels.CopyInformation(volume)
    return segmentation_of(labels, Path("segmentation"), names or {})


def _image(given: sitk.Image | np.ndarray, spacing: Sequence[float] | None, what: str) -> sitk.Image:
    if isinstance(given, sitk.Image):
        return given
    values = np.asarray(given)
    if values.ndim not in (2, 3):
        raise InputError(
            f"The {what} is an array of {values.ndim} dimensions.",
            "Volumes have the shape (z, y, x), pictures (y, x).",
            "Choose one volume.",
        )
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind not in "iuf":
        raise InputError(f"The {what} is an array of {values.dtype}.", "Volumes hold numbers.", "Give an array of integers or floats.")
    sizes = [1.0, 1.0, 1.0] if spacing is None else np.atleast_1d(np.asarray(spacing, float)).tolist()
    if len(sizes) != 3 or not all(0 < size < np.inf for size in sizes):
        raise InputError(
            f"The spacing {spacing!r} is no voxel size.", "Three lengths (x, y, z) in mm are needed.", "Give for example (0.8, 0.8, 2.5)."
        )
    image = cast(sitk.Image, sitk.GetImageFromArray(values if values.ndim == 3 else values[None]))
    image.SetSpacing(sizes)
    return image
