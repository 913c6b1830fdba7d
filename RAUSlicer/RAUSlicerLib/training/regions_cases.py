"""Radiographs with drawn findings and projections of labelled CTs, as cases that the region model is trained and judged on.

Held out are a third of the radiographs' patients, by a rule and not by their pictures, and the CTs of the val split.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..anatomy.graph import AnatomyGraph
from ..anatomy.terms import load_graph
from ..errors import InputError
from ..imaging.image_file import read_image
from ..interpretation.region.drr import Projection, project
from ..interpretation.region.pictures import Letterbox
from ..support import strict_json

# Pixels along a side of a stored case; augmented pictures are cut from it.
SIDE = 160
CHEST, ABDOMEN = "chest_xray", "abdomen"
# Bits of the radiographs' masks, and the node that each is taken for. "Airways" there are the trachea with its main bronchi.
_BITS = {1: ("right_lung", "Right Lung"), 2: ("left_lung", "Left Lung"), 4: ("mediastinum", "Cardiomediastinum"), 8: ("trachea", "Airways")}
_GROUND_GLASS, _CONSOLIDATION = 16, 32
_DEVICES = {"Central Venous Line", "Endotracheal Tube", "Monitoring Probes", "Nosogastric Tube", "Tubings"}
_ZONES = ("upper_zone", "mid_zone", "lower_zone")
# Degrees of turn and tilt of the projections of a case; the first is the plain frontal one.
VIEWS = {
    "train": ((0.0, 0.0), (-9.0, 2.0), (9.0, -2.0), (-5.0, -4.0), (5.0, 4.0), (-2.5, 5.0), (2.5, -5.0), (7.0, 3.0)),
    "val": ((0.0, 0.0), (-7.0, 3.0), (7.0, -3.0)),
}


@dataclass(frozen=True)
class RegionCase:
    """A picture with what is known of its regions.

    ``image`` (S, S) in 0 to 1, letterboxed; ``regions`` names the nodes (``graph/id``) that ``planes`` (R, S, S), bool, are of. ``facts``
    maps (node, finding) to whether it is so, ``image_facts`` the same of the whole picture; what is not in them is not known.
    """

    name: str
    patient: str
    graph: str
    image: Tensor
    regions: tuple[str, ...]
    planes: Tensor
    facts: Mapping[tuple[str, str], bool]
    image_facts: Mapping[str, bool]


def is_held_out(patient: str, patients: Sequence[str]) -> bool:
    """Whether a patient of the radiographs is kept for judging: every third in order of their numbers, from the second on."""
    return sorted(set(patients), key=int).index(patient) % 3 == 1


def load_radiographs(data: Path, split: str) -> list[RegionCase]:
    """The radiographs of a split, ``train`` or ``val``."""
    folder = data / "cxr_findings"
    entries = strict_json.load(folder / "index.json")
    out = []
    patients = [entry["patient"] for entry in entries]
    for entry in entries:
        if is_held_out(entry["patient"], patients) != (split == "val"):
            continue
        picture, mask = (sitk.GetArrayFromImage(read_image(folder / f"{entry['case']}{end}.png")) for end in ("", "_seg"))
        # Some pictures share a file name, and only the last one written is there: the drawn boxes tell whose it is.
        if _is_of(entry, mask):
            out.append(_radiograph(entry, picture, mask))
    return out


def _is_of(entry: Mapping, mask: np.ndarray, tolerance: float = 2.0) -> bool:
    for bit, (_, label) in _BITS.items():
        found = np.argwhere(mask & bit)
        drawn = [item["xywh"] for item in entry["objects"] if item["label"] == label]
        if len(found) and len(drawn) == 1:
            (top, left), (bottom, right) = found.min(0), found.max(0) + 1
            if np.abs(np.array([left, top, right - left, bottom - top]) - drawn[0]).max() > tolerance:
                return False
    return True


def _radiograph(entry: Mapping, picture: np.ndarray, mask: np.ndarray) -> RegionCase:
    masks = {node: (mask & bit) > 0 for bit, (node, _) in _BITS.items() if (mask & bit).any()}
    for side in ("right", "left"):
        if f"{side}_lung" in masks:
            masks.update(zip((f"{side}_{zone}" for zone in _ZONES), thirds(masks[f"{side}_lung"]), strict=True))
    if {"right_lung", "left_lung"} <= masks.keys():
        masks["lungs"] = masks["right_lung"] | masks["left_lung"]
    ground_glass, consolidation = (mask & _GROUND_GLASS) > 0, (mask & _CONSOLIDATION) > 0
    drawn = {"ground_glass": ground_glass, "consolidation": consolidation, "opacity": ground_glass | consolidation}
    facts: dict[tuple[str, str], bool] = {}
    for node, region in masks.items():
        if "lung" not in node and "zone" not in node:
            continue
        for finding, where in drawn.items():
            share = float((where & region).sum() / region.sum())
            # In between, a stroke of the pen decides.
            if share >= 0.10 or share <= 0.01:
                facts[f"{CHEST}/{node}", finding] = share >= 0.10
            if finding == "opacity" and "lung" in node and (share >= 0.5 or share <= 0.3):
                facts[f"{CHEST}/{node}", "widespread"] = share >= 0.5
    of_image = {finding: bool(where.any()) for finding, where in drawn.items()}
    of_image["device"] = any(item["label"] in _DEVICES for item in entry["objects"])
    box = Letterbox(picture.shape[0], picture.shape[1], SIDE)
    planes = torch.stack([box.put(region) > 0.5 for region in masks.values()])
    regions = tuple(f"{CHEST}/{node}" for node in masks)
    return RegionCase(entry["case"], entry["patient"], CHEST, box.put(picture / 255.0), regions, planes, facts, of_image)


def thirds(lung: np.ndarray) -> list[np.ndarray]:
    """Upper, mid and lower zone of a lung's mask (rows, columns): thirds of its height."""
    rows = np.flatnonzero(lung.any(1))
    edges = np.linspace(rows[0], rows[-1] + 1, 4)
    which = np.arange(lung.shape[0])[:, None]
    return [lung & (which >= low) & (which < high) for low, high in itertools.pairwise(edges)]


def load_projections(data: Path, split: str, cache: Path) -> list[RegionCase]:
    """Projections of the CTs of a split under several angles; made once and kept in ``cache``.

    Large and small are relative to the width of the body, by thirds of the *train* split.
    """
    splits = strict_json.load(data / "splits.json")["abdomen_ct"]
    labels = {int(value): name for value, name in strict_json.load(data / "abdomen_ct" / "labels.json").items()}
    nodes = {value: node for value, name in labels.items() if (node := node_named(load_graph(ABDOMEN), name)) is not None}
    sizes = {name: _sizes(_view(data, name, 0, VIEWS["train"][0], cache)) for name in splits["train"]}
    out = []
    for name in splits[split]:
        own = sizes[name] if name in sizes else _sizes(_view(data, name, 0, VIEWS[split][0], cache))
        facts: dict[tuple[str, str], bool] = {}
        for value, node in nodes.items():
            others = [size[value] for size in sizes.values() if value in size]
            if value in own and len(others) >= 6:
                low, high = np.quantile(others, [1 / 3, 2 / 3])
                facts[f"{ABDOMEN}/{node}", "large"] = bool(own[value] > high)
                facts[f"{ABDOMEN}/{node}", "small"] = bool(own[value] < low)
        for number, angles in enumerate(VIEWS[split]):
            view = _view(data, name, number, angles, cache)
            rows, columns = view.image.shape
            box = Letterbox(rows, columns, SIDE)
            masks = {f"{ABDOMEN}/{node}": box.put(view.masks[value]) > 0.5 for value, node in nodes.items() if value in view.masks}
            planes = torch.stack(list(masks.values()))
            out.append(RegionCase(f"{name}-{number}", name, ABDOMEN, box.put(view.image), tuple(masks), planes, facts, {}))
    return out


def node_named(graph: AnatomyGraph, name: str) -> str | None:
    """The id of the node of that name or synonym, whatever the case of its letters."""
    wanted = name.casefold()
    return next((n.id for n in graph.nodes.values() if wanted in {x.casefold() for x in (n.name, *n.synonyms)}), None)


def _sizes(view: Projection) -> dict[int, float]:
    """Area of each shadow as a share of the squared width of the body."""
    widths = (view.image > 0.06).sum(1)
    width = float(np.median(widths[widths > 0])) if (widths > 0).any() else 1.0
    return {value: float(mask.sum()) / width**2 for value, mask in view.masks.items()}


def _view(data: Path, name: str, number: int, angles: tuple[float, float], cache: Path) -> Projection:
    file = cache / f"{name}-{number}-{angles[0]:g}-{angles[1]:g}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        folder = data / "abdomen_ct"
        volume, labels = (read_image(folder / f"{name}{end}.nii.gz") for end in ("", "_seg"))
        view = project(volume, labels, turn=angles[0], tilt=angles[1])
        # Brightness as a share of the brightest; half a pixel value of rounding is nothing beside the augmentation.
        image = np.round(np.clip(view.image / np.percentile(view.image, 99.9), 0, 1) * 255).astype(np.uint8)
        values = np.array(sorted(view.masks), np.uint8)
        planes = np.packbits(np.stack([view.masks[int(value)] for value in values]), axis=-1)
        np.savez_compressed(file, image=image, values=values, planes=planes, spacing=view.spacing)
    with np.load(file) as kept:
        image = kept["image"].astype(np.float32) / 255
        planes = np.unpackbits(kept["planes"], axis=-1, count=image.shape[1]).astype(bool)
        return Projection(image, {int(v): p for v, p in zip(kept["values"], planes, strict=True)}, float(kept["spacing"]))


def model_nodes() -> tuple[tuple[str, str], ...]:
    """The nodes that the model has queries for, with their parents: the whole chest, and of the abdomen what the CTs have labels for.

    Raises:
        InputError: a labelled region is in neither graph.
    """
    chest, abdomen = load_graph(CHEST), load_graph(ABDOMEN)
    missing = [node for node, _ in _BITS.values() if node not in chest.nodes]
    if missing:
        raise InputError(f"The chest graph has no node {missing[0]!r}.", "Radiographs are labelled with it.", "Update the mapping here.")
    wanted: set[str] = set()
    for name in ABDOMEN_LABELS:
        id_ = node_named(abdomen, name)
        if id_ is not None:
            wanted |= {id_, *(above.id for above in abdomen.ancestors(id_))}
    out = []
    for graph, kept in ((chest, set(chest.nodes)), (abdomen, wanted)):
        for node in graph.depth_first():
            if node.id in kept:
                out.append((f"{graph.name}/{node.id}", f"{graph.name}/{node.parent}" if node.parent else ""))
    return tuple(out)


ABDOMEN_LABELS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "inferior vena cava"),
    *("portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland"),
)
