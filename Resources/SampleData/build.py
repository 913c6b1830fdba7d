"""Builds the sample data of this folder from two public packages.

Usage, in an environment that has RAUSlicer installed:

    apt-get download mricron-data && dpkg -x mricron-data_*.deb mricron
    pip download --no-deps nilearn==0.14.1 && python -m zipfile -e nilearn-0.14.1-*.whl nilearn
    python Resources/SampleData/build.py --mricron mricron --nilearn nilearn

The sources are checked against their SHA-256 sums, so that everybody's build gives the same voxels.
"""

from __future__ import annotations

import argparse
import colorsys
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RAUSlicerLib.imaging import slicer_seg_nrrd
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure

HERE = Path(__file__).parent

SHA256 = {
    "ch2bet.nii.gz": "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1",
    "aal.nii.gz": "b512dcd3f36b77f56be7a9a038134096e66314b7e8c31d25875b96bcf6991454",
    "aal.nii.txt": "1788d6556a9ec056de9867b2382cf1ce1b51b87ae4cfd9cd25de48ae4dde709e",
    "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
}

# Start and end hue of a lobe's regions: neighbours differ, lobes stay recognisable.
GROUP_HUES = {
    "frontal": (0.50, 0.66),
    "parietal": (0.25, 0.42),
    "temporal": (0.08, 0.16),
    "occipital": (0.95, 1.03),
    "limbic": (0.74, 0.86),
    "subcortical": (0.04, 0.10),
    "cerebellum": (0.42, 0.50),
}

# Empty voxels around the brain, so that models see where it ends.
MARGIN = 5


@dataclass(frozen=True)
class Region:
    """A row of structures.csv: AAL's abbreviation without its side, our name, the lobe, the SNOMED CT code where one is exact."""

    name: str
    group: str
    snomed: str


def main() -> None:
    """Check the sources, crop them to the brain and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mricron", type=Path, required=True, help="folder that mricron-data was unpacked into")
    parser.add_argument("--nilearn", type=Path, required=True, help="folder that the nilearn wheel was unpacked into")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: this one)")
    arguments = parser.parse_args()

    templates = arguments.mricron / "usr" / "share" / "mricron" / "templates"
    nilearn_data = arguments.nilearn / "nilearn" / "datasets" / "data"
    reference = sitk.ReadImage(str(checked(templates / "ch2bet.nii.gz")))
    labelmap = sitk.ReadImage(str(checked(templates / "aal.nii.gz")))
    target = sitk.ReadImage(str(checked(nilearn_data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")))
    structures = read_structures(checked(templates / "aal.nii.txt"), HERE / "structures.csv")
    check_sides(labelmap, structures)

    start, size = bounding_box((reference > 0) | (labelmap > 0))
    sitk.WriteImage(sitk.RegionOfInterest(reference, size, start), str(arguments.output / "reference.nii.gz"), useCompression=True)
    segmentation = Segmentation(sitk.RegionOfInterest(labelmap, size, start), structures)
    slicer_seg_nrrd.write(segmentation, arguments.output / "reference.seg.nrrd")
    start, size = bounding_box(target > 0)
    sitk.WriteImage(sitk.RegionOfInterest(target, size, start), str(arguments.output / "target.nii.gz"), useCompression=True)


def checked(path: Path) -> Path:
    """The path, once the file is known to be the one that this script was written for."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[path.name]:
        raise SystemExit(f"{path} is another version: SHA-256 {found}, expected {SHA256[path.name]}.")
    return path


def read_structures(names: Path, table: Path) -> tuple[Structure, ...]:
    """AAL's label list (value, abbreviation, code a line) with the readable names of structures.csv."""
    with table.open(encoding="utf-8", newline="") as file:
        regions = {row["aal"]: Region(row["name"], row["group"], row["snomed"]) for row in csv.DictReader(file)}
    colors = group_colors(regions)
    structures = []
    for line in names.read_text(encoding="ascii").splitlines():
        if not line.strip():
            continue
        value, abbreviation, _code = line.split()
        stem, side = side_of(abbreviation)
        region = regions[stem]
        name = f"{side} {region.name}" if side else region.name[0].upper() + region.name[1:]
        structures.append(Structure(int(value), name, shade(colors[stem], side), terminology(region, side), id=abbreviation))
    return tuple(structures)


def side_of(abbreviation: str) -> tuple[str, str]:
    """``Precentral_L`` -> ``("Precentral", "Left")``; the vermis has no side."""
    for suffix, side in (("_L", "Left"), ("_R", "Right")):
        if abbreviation.endswith(suffix):
            return abbreviation.removesuffix(suffix), side
    return abbreviation, ""


def group_colors(regions: dict[str, Region]) -> dict[str, tuple[float, float, float]]:
    """A hue within the lobe's range for every region, alternating between light and saturated."""
    colors = {}
    for group, (first, last) in GROUP_HUES.items():
        stems = [stem for stem, region in regions.items() if region.group == group]
        for index, stem in enumerate(stems):
            # Steps of a prime share of the range set regions that follow each other in AAL, mostly neighbours, far apart in hue.
            position = (index * 5 % len(stems)) / max(len(stems) - 1, 1)
            hue = (first + (last - first) * position) % 1.0
            colors[stem] = colorsys.hsv_to_rgb(hue, (0.80, 0.55, 0.68)[index % 3], (0.92, 0.98, 0.78)[index % 3])
    return colors


def shade(color: tuple[float, float, float], side: str) -> tuple[float, float, float]:
    """The right side a little lighter than the left; multiples of 1/255 survive formats with 8 bits a channel."""
    red, green, blue = (round(255 * (value + 0.18 * (1 - value) if side == "Right" else value)) / 255 for value in color)
    return red, green, blue


def terminology(region: Region, side: str) -> str | None:
    """Slicer's serialized terminology entry; None without an exact SNOMED CT code, since a coarser one would say something false."""
    if not region.snomed:
        return None
    modifier = {"Left": "SCT^7771000^Left", "Right": "SCT^24028007^Right"}[side]
    meaning = region.name[0].upper() + region.name[1:]
    return (
        "Segmentation category and type - DICOM master list"
        f"~SCT^123037004^Anatomical Structure~SCT^{region.snomed}^{meaning}~{modifier}"
        "~Anatomic codes - DICOM master list~^^~^^"
    )


def check_sides(labelmap: sitk.Image, structures: tuple[Structure, ...]) -> None:
    """Stop unless every left structure lies at positive x in LPS and every right one at negative x."""
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(labelmap)
    for structure in structures:
        x = shapes.GetCentroid(structure.label)[0]
        expected = {"Left": 1, "Right": -1}.get(structure.name.split()[0], np.sign(x))
        if np.sign(x) != expected:
            raise SystemExit(f"{structure.name} lies on the wrong side: x = {x:.1f} mm in LPS.")


def bounding_box(mask: sitk.Image) -> tuple[list[int], list[int]]:
    """Start and size (x, y, z) of the mask's bounding box with the margin, inside the image."""
    occupied = np.argwhere(sitk.GetArrayViewFromImage(mask))
    low = np.maximum(occupied.min(axis=0) - MARGIN, 0)[::-1]
    high = np.minimum(occupied.max(axis=0) + MARGIN + 1, mask.GetSize()[::-1])[::-1]
    return low.tolist(), (high - low).tolist()


if __name__ == "__main__":
    main()
