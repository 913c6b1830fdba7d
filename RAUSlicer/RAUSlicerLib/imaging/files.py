"""The one door for files: volumes and segmentations in, segmentations out, in every format the project knows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, KeptElsewhereError, OutputError, RAUSlicerError
from ..support.outputs import require_free, require_writable, writing
from ..support.scratch import ScratchFolder
from ..support.text import is_text
from . import slicer_seg_nrrd
from .dicom import is_dicom, read_dicom_file, read_dicom_folder
from .dicom_seg import prove_dicom_seg, source_series, write_dicom_seg
from .dicom_seg_reader import is_dicom_seg, read_dicom_seg
from .dicom_source import Source, VolumeSource
from .grids import same_grid, with_grid_of
from .image_file import PICTURE_SUFFIXES, VOLUME_SUFFIXES, as_volume, has_suffix, quiet, read_image, require_exists, require_no_pair
from .labelmap import merge_layers, segmentation_of
from .places import only_places
from .radiograph import read_mask, read_picture
from .segmentation import Segmentation, Structure

LABELMAP_OUTPUTS = (".nii.gz", ".nii", ".nrrd", ".mha")
OUTPUT_SUFFIXES = (".seg.nrrd", *LABELMAP_OUTPUTS, ".dcm")


def read_volume(path: str | Path) -> sitk.Image:
    """Read a volume: NIfTI, NRRD, MetaImage, a folder of DICOM slices, a DICOM file, or a radiograph in PNG or JPEG.

    Returns a 3D scalar image in patient space (LPS, mm); a 2D image has one slice. Of the metadata only a DICOM modality is kept, and a
    second place that its header gives it: see ``places``.

    Raises:
        InputError: the path is missing, unreadable, damaged, truncated, or not one scalar volume.
    """
    path = require_exists(Path(path), "volume")
    if path.is_dir():
        return read_dicom_folder(path)
    if has_suffix(path, PICTURE_SUFFIXES):
        return read_picture(path)
    if has_suffix(path, VOLUME_SUFFIXES):
        image = read_image(path)
        if slicer_seg_nrrd.has_segments(image):
            raise InputError(
                f"The file {str(path)!r} is a segmentation, not an image.",
                "An image with intensities is needed here.",
                "Give the image that was segmented; the segmentation goes where a segmentation is asked for.",
            )
        volume = as_volume(image, path)
        return only_places(volume)
    if is_dicom(path):
        return read_dicom_file(path)
    require_no_pair(path)
    raise InputError(
        f"The file {str(path)!r} is in no format that can be read.",
        f"Images may be a DICOM file or folder, or end in {', '.join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))}.",
        "Load it in 3D Slicer and save it as .nrrd or .nii.gz.",
    )


def read_segmentation(path: str | Path, volume: sitk.Image | None = None) -> Segmentation:
    """Read a segmentation: .seg.nrrd, a label map in NIfTI, NRRD or MetaImage, DICOM SEG, or a PNG mask of a radiograph.

    Args:
        path: The file. A table of names in or beside a label map names its structures: see ``label_names``.
        volume: The image that was segmented. A PNG mask takes its geometry from it; the other formats bring their own, but frames
            of a DICOM SEG are taken for its slices where they lie on them.

    Raises:
        InputError: the path is missing, unreadable, damaged, truncated, or holds no labels.
    """
    path = require_exists(Path(path), "segmentation")
    if path.is_dir():
        raise InputError(
            f"The segmentation {str(path)!r} is a folder.",
            "A segmentation is one file; a folder may hold one mask a structure, as TotalSegmentator writes it by default.",
            "Give a .seg.nrrd, a label map or a DICOM segmentation file; TotalSegmentator writes one label map with the option --ml.",
        )
    if has_suffix(path, (".png",)):
        return segmentation_of(read_mask(path, volume), path)
    if has_suffix(path, VOLUME_SUFFIXES):
        image = read_image(path)
        if slicer_seg_nrrd.has_segments(image):
            return slicer_seg_nrrd.parse(image, path)
        return segmentation_of(as_volume(image, path), path)
    if not has_suffix(path, PICTURE_SUFFIXES) and is_dicom(path):
        if is_dicom_seg(path):
            return read_dicom_seg(path, volume)
        raise InputError(
            f"The DICOM file {str(path)!r} is not a segmentation.",
            "Of DICOM, only Segmentation objects (SEG) hold label maps; structure sets (RTSTRUCT) hold contours.",
            "Load it in 3D Slicer and save the segmentation as .seg.nrrd.",
        )
    require_no_pair(path)
    raise InputError(
        f"The segmentation {str(path)!r} is in no format that can be read.",
        f"Segmentations may be DICOM SEG, or end in {', '.join(('.seg.nrrd', *VOLUME_SUFFIXES, '.png'))}.",
        "Load it in 3D Slicer and save it as .seg.nrrd.",
    )


def check_output(path: str | Path, force: bool = False, *, volume_path: Source = None, inputs: Sequence[Path] = ()) -> None:
    """Make sure that a result can be written, before hours of work are spent on it.

    Args:
        path: Where the segmentation is to be written; its ending is the format.
        force: Whether an existing file may be replaced.
        volume_path: The target's file or folder; needed for DICOM SEG, and never overwritten.
        inputs: What else is read and must not be overwritten.

    Raises:
        InputError: a target that can't be read, where a DICOM SEG is to belong to it.
        OutputError: unknown ending, existing file without ``force``, missing or unwritable folder, DICOM SEG of a target that is no DICOM.
    """
    path = Path(path)
    if not has_suffix(path, OUTPUT_SUFFIXES):
        raise OutputError(
            f"The output {str(path)!r} is in no format that can be written.",
            f"Segmentations are written to names that end in {', '.join(OUTPUT_SUFFIXES)}.",
            "Choose .seg.nrrd, which keeps names, colors and overlapping structures.",
        )
    source = VolumeSource.of(volume_path)
    require_free(path, "output", force=force, inputs=[*inputs, *source.paths])
    require_writable(path, "output")
    if has_suffix(path, (".dcm",)):
        source_series(source, path)


def prove_output(
    path: str | Path, reference: Segmentation, structures: Sequence[Structure], volume: sitk.Image, *, volume_path: Source = None
) -> list[str]:
    """Make sure that structures can be written in the target, before hours of work are spent on finding them.

    Args:
        path: As for ``check_output``, which looks at the name alone.
        reference: Holds the structures; where they overlap in it, they will in the target.
        structures: Those of the result.
        volume: The target.
        volume_path: Where ``volume`` was read from; needed for DICOM SEG.

    Returns sentences for the user on what the file can't hold as it is.

    Raises:
        OutputError: structures overlap in a label map, the format can't hold the geometry, no DICOM SEG can be made, the disk is full.
    """
    path = Path(path)
    if has_suffix(path, (".dcm",)):
        return prove_dicom_seg(structures, path, volume, VolumeSource.of(volume_path))
    if not has_suffix(path, (".seg.nrrd",)) and reference.overlays:
        merge_layers(_only(reference, structures), path)
    _prove_grid(path, volume)
    return []


def _prove_grid(path: Path, volume: sitk.Image) -> None:
    """Raise OutputError unless an empty segmentation of a volume comes back from a file of this format as it was."""
    empty = with_grid_of(sitk.Image(volume.GetSize(), sitk.sitkUInt8), volume)
    try:
        # The image library can't be given a name that is no text.
        parent = path.absolute().parent
        with ScratchFolder(parent if is_text(str(parent)) else Path(tempfile.gettempdir())) as folder:
            suffix = next(suffix for suffix in OUTPUT_SUFFIXES if has_suffix(path, (suffix,)))
            with quiet():
                _write(Segmentation(empty, ()), folder / f"empty{suffix}", path, volume, VolumeSource.of(None))
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"The segmentation can't be written to {str(path)!r}.",
            "An empty one could not be written there; the disk may be full or the volume too large for this format.",
            "Free some space, choose another folder, or a name that ends in .seg.nrrd.",
        ) from error


def write_result(
    segmentation: Segmentation, path: str | Path, volume: sitk.Image, *, volume_path: Source = None, force: bool = False
) -> list[str]:
    """Write the segmentation that a run has found: see ``write_segmentation``. If that fails, it is kept as .seg.nrrd beside the file.

    Raises:
        KeptElsewhereError: if it was left elsewhere; the message says where.
        OutputError: as there.
    """
    path = Path(path)
    try:
        return write_segmentation(segmentation, path, volume, volume_path=volume_path, force=force)
    except Exception as error:
        # Whatever it was: the work of hours is not lost to it.
        kept = _keep(segmentation, path)
        if kept is None:
            raise
        problem, explanation = f"The segmentation could not be written to {str(path)!r}.", f"An error came up: {type(error).__name__}."
        if isinstance(error, RAUSlicerError):
            problem, explanation = error.problem, error.explanation
        raise KeptElsewhereError(
            kept,
            f"{problem} It was written to {str(kept)!r} instead.",
            explanation,
            "Nothing was lost: load that file, for example in 3D Slicer, and save it in the format you want.",
        ) from error


def write_segmentation(
    segmentation: Segmentation, path: str | Path, volume: sitk.Image, *, volume_path: Source = None, force: bool = False
) -> list[str]:
    """Write a segmentation on the grid of the volume it belongs to; the file appears complete or not at all.

    Args:
        segmentation: On the grid of ``volume``.
        path: ``.seg.nrrd`` keeps everything; ``.nii.gz``, ``.nii``, ``.nrrd`` and ``.mha`` keep label values; ``.dcm`` is DICOM SEG.
        volume: The segmented image, whose origin, spacing and direction are written as they are.
        volume_path: Where ``volume`` was read from: the source images that a DICOM SEG must name.
        force: Whether an existing file may be replaced.

    Returns sentences for the user on what the file can't hold as it is.

    Raises:
        OutputError: see ``check_output``; overlapping structures in a label map; a segmentation on another grid; a full disk.
    """
    path, source = Path(path), VolumeSource.of(volume_path)
    # A DICOM source is read here: below, what the operating system refuses is blamed on the output.
    check_output(path, force, volume_path=source)
    if not all(same_grid(layer, volume) for layer in segmentation.layers):
        raise OutputError(
            f"The segmentation can't be written to {str(path)!r}: it is not on the grid of its volume.",
            f"It has {segmentation.labelmap.GetSize()} voxels, the volume {volume.GetSize()}, or they lie elsewhere.",
            "Resample the segmentation to the volume first.",
        )
    segmentation = segmentation.map_layers(with_grid_of(layer, volume) for layer in segmentation.layers)
    try:
        with writing(path, "output", next(suffix for suffix in OUTPUT_SUFFIXES if has_suffix(path, (suffix,)))) as part:
            with quiet():
                notes = _write(segmentation, part, path, volume, source)
            # Somebody may have put a file there in the meantime.
            require_free(path, "output", force=force, inputs=source.paths)
    except RuntimeError as error:
        raise OutputError(
            f"The segmentation can't be written to {str(path)!r}.",
            "The image library could not write it; the disk may be full.",
            "Free some space or choose another folder.",
        ) from error
    return notes


def _write(segmentation: Segmentation, part: Path, path: Path, volume: sitk.Image, source: VolumeSource) -> list[str]:
    if has_suffix(part, (".seg.nrrd",)):
        _require_same(slicer_seg_nrrd.write(segmentation, part), part, path)
    elif has_suffix(part, (".dcm",)):
        return write_dicom_seg(segmentation, part, volume, source, named=path)
    else:
        labelmap = merge_layers(segmentation, path)
        sitk.WriteImage(labelmap, str(part), useCompression=True)
        _require_same(labelmap, part, path)
    return []


def _require_same(written: sitk.Image, part: Path, path: Path) -> None:
    """Raise OutputError unless a file holds the image that was written: ITK does not say that the disk was full when it writes NIfTI."""
    try:
        read = read_image(part)
        whole = np.array_equal(sitk.GetArrayViewFromImage(read), sitk.GetArrayViewFromImage(written))
        in_place = same_grid(read, written)
    except InputError:
        whole = in_place = False
    if whole and not in_place:
        raise OutputError(
            f"The segmentation can't be written to {str(path)!r}: this format would put its voxels elsewhere.",
            "The target's axes are not quite at right angles or its numbers need more digits than the format keeps.",
            "Choose an output name that ends in .seg.nrrd or .nrrd, which keep any geometry as it is.",
        )
    if not whole:
        raise OutputError(
            f"The segmentation can't be written to {str(path)!r}.",
            "What was written reads back as something else; the disk may be full or damaged.",
            "Free some space or choose another folder.",
        )


def _keep(segmentation: Segmentation, path: Path) -> Path | None:
    """Writes a .seg.nrrd under a name that is free, beside ``path`` or where the system keeps temporary files; None where neither works."""
    suffix = next((suffix for suffix in OUTPUT_SUFFIXES if has_suffix(path, (suffix,))), path.suffix)
    stem = path.name[: len(path.name) - len(suffix)] or "result"
    for folder in (path.parent, Path(tempfile.gettempdir())):
        for name in (stem, *(f"{stem} ({number})" for number in range(2, 100))):
            kept = folder / f"{name}.seg.nrrd"
            if kept != path and not kept.exists():
                try:
                    write_segmentation(segmentation, kept, segmentation.labelmap)
                except Exception:
                    # The first error is the one to tell, and there is another place to try.
                    break
                return kept
    return None


def _only(segmentation: Segmentation, structures: Sequence[Structure]) -> Segmentation:
    """The segmentation without the voxels of other structures."""
    layers = list(segmentation.layers)
    for other in set(segmentation.structures) - set(structures):
        layers[other.layer] = sitk.ChangeLabel(layers[other.layer], {other.label: 0})
    return replace(segmentation.map_layers(layers), structures=tuple(structures))
