"""Which files are read together with one that a user names: data of a detached header, the other half of a pair, tables of names."""

from __future__ import annotations

import os
from pathlib import Path

from .header_fields import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, Unsound, metaimage_header, nrrd_header

NAMES_FILE = "labels.json"
# Of nnU-Net and the Medical Segmentation Decathlon: beside predictions, and above the folders of training cases.
DATASET_FILE = "dataset.json"
# Color tables of 3D Slicer and FreeSurfer, label descriptions of ITK-SNAP, look-up tables of BIDS.
_TABLES = (".ctbl", ".label", ".lut", "lut.txt", "labels.txt", "labels.tsv", "_dseg.tsv", "labels.ctbl")
_MOST_TABLES = 50

_NIFTI = (".nii.gz", ".nii")
_PAIRS = (".hdr", ".hdr.gz", ".img", ".img.gz")


def companions(path: Path) -> list[Path]:
    """The files beside ``path`` that are read with it, whether or not they are there. Of a folder none: all in it belongs to it.

    A header that can't be understood is not read, and nothing with it.
    """
    name = path.name.lower()
    pair = next((ending for ending in reversed(_PAIRS) if name.endswith(ending)), None)
    if pair is not None:
        stem = path.name[: -len(pair)]
        return [path.with_name(stem + ending) for ending in _PAIRS if ending != pair]
    headers = ((METAIMAGE_SUFFIXES, metaimage_header), (NRRD_SUFFIXES, nrrd_header))
    read = next((read for suffixes, read in headers if name.endswith(suffixes)), None)
    try:
        files = read(path).files if read is not None and path.is_file() else None
    except (OSError, Unsound):
        return []
    return [path.parent / file for file in files or []]


def nifti_twins(path: Path) -> list[Path]:
    """The names under which ITK, and with it 3D Slicer, looks for the voxels of another NIfTI file: "scan.nii" for "scan.nii.gz"."""
    ending = next((ending for ending in _NIFTI if path.name.lower().endswith(ending)), None)
    if ending is None:
        return []
    stem = path.name[: -len(ending)]
    return [path.with_name(stem + same) for other in _NIFTI if other != ending for same in (other, other.upper())]


def names_files(path: Path) -> list[Path]:
    """Where names of the labels in a file are looked for, documents whether or not they are there. None for a folder."""
    return [] if path.is_dir() else [*names_documents(path.absolute().parent), *names_tables(path.absolute())]


def names_documents(folder: Path) -> list[Path]:
    """Documents that name the labels of the files in a folder, whether or not they are there; the first counts most."""
    return [folder / NAMES_FILE, folder / DATASET_FILE, folder.parent / DATASET_FILE]


def names_tables(path: Path) -> list[Path]:
    """Tables of colors and names in a label map's folder; those of the label map's own name first."""
    stem = path.name.partition(".")[0].lower()
    try:
        found = [file for file in path.parent.iterdir() if file.name.lower().endswith(_TABLES) and os.path.isfile(file)]
    except OSError:
        return []
    return sorted(found, key=lambda file: (not file.name.lower().startswith(stem), file.name))[:_MOST_TABLES]
