"""Measures the correction loop: a simulated user paints the truth on the worst slice of a structure, again and again.

    python Testing/Benchmarks/correction.py --data ../shared/data --output Testing/Benchmarks/correction

After each edit four things are compared on the same painted slices: the second pass, the first result with the painted slices put in and
nothing else changed, and painting from scratch with shape-based interpolation between the painted slices, once on the same slices and once
on as many slices spread evenly over the structure, as somebody who starts from nothing would choose them. Writes ``OUTPUT.json`` and
``OUTPUT.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from RAUSlicerLib.correction.edits import Correction
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.pipeline import Pipeline

# Fewer voxels are no structure to paint on.
SMALLEST = 200
HIGHEST_LABEL = {"brain_t1": 99}
WAYS = ("second pass", "painted slices only", "scratch, same slices", "scratch, spread slices")


def dice(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def read_case(folder: Path, case: str) -> Reference:
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    labels = sitk.ReadImage(str(folder / f"{case}_seg.nii.gz"))
    highest = HIGHEST_LABEL.get(folder.name, 1 << 30)
    present = [int(value) for value in np.unique(sitk.GetArrayViewFromImage(labels)) if 0 < value <= highest]
    structures = tuple(Structure(value, names[str(value)]) for value in present)
    return Reference(sitk.ReadImage(str(folder / f"{case}.nii.gz")), Segmentation(labels, structures))


def worst_slice(found: np.ndarray, truth: np.ndarray, axis: int, painted: Sequence[int]) -> int:
    """The slice along an array axis with the most wrong voxels, among those not painted yet."""
    wrong = (found ^ truth).sum(axis=tuple(other for other in range(3) if other != axis))
    wrong[list(painted)] = -1
    return int(np.argmax(wrong))


def put_in(found: np.ndarray, truth: np.ndarray, axis: int, painted: Sequence[int]) -> np.ndarray:
    out = found.copy()
    np.moveaxis(out, axis, 0)[list(painted)] = np.moveaxis(truth, axis, 0)[list(painted)]
    return out


def interpolated(truth: np.ndarray, axis: int, painted: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """The painted slices with shape-based interpolation between neighbours, nothing beyond them. Source: Raya and Udupa, 1990."""
    stack, out = np.moveaxis(truth, axis, 0), np.zeros_like(np.moveaxis(truth, axis, 0))
    flat = [step for other, step in enumerate(spacing) if other != axis]

    def distance(mask: np.ndarray) -> np.ndarray:
        if not mask.any():
            return np.full(mask.shape, -1e3)
        return np.where(mask, ndimage.distance_transform_edt(mask, flat), -ndimage.distance_transform_edt(~mask, flat))

    order = sorted(painted)
    for low, high in itertools.pairwise(order):
        first, last = distance(stack[low]), distance(stack[high])
        for level in range(low + 1, high):
            share = (level - low) / (high - low)
            out[level] = (1 - share) * first + share * last > 0
    out[order] = stack[order]
    return np.moveaxis(out, 0, axis)


def spread(truth: np.ndarray, axis: int, count: int) -> list[int]:
    """So many slices evenly over a structure; one alone is the largest."""
    area = truth.sum(axis=tuple(other for other in range(3) if other != axis))
    levels = np.flatnonzero(area)
    if count == 1:
        return [int(np.argmax(area))]
    return sorted({round(level) for level in np.linspace(levels[0], levels[-1], count)})


def correct_one(pipeline: Pipeline, target: Reference, structure: Structure, before: np.ndarray, axis: int, edits: int) -> dict[str, Any]:
    """Dice after 0 to ``edits`` painted slices, each way, and seconds of each second pass; ``axis`` is the image's own."""
    truth = np.asarray(target.segmentation.array(structure))
    across, spacing = 2 - axis, target.volume.GetSpacing()[::-1]
    found, painted = before, []
    record: dict[str, Any] = {"structure": structure.name, "axis": axis, "before": dice(before, truth), "slices": painted}
    record.update({key: [] for key in (*WAYS, "seconds", "processor seconds")})
    for _ in range(edits):
        painted.append(worst_slice(found, truth, across, painted))
        mask = sitk.GetImageFromArray(put_in(found, truth, across, painted).astype(np.uint8))
        mask.CopyInformation(target.volume)
        start, spent = time.perf_counter(), time.process_time()
        result = pipeline.correct(Correction(structure.name, mask, tuple((axis, level) for level in painted)))
        record["seconds"].append(time.perf_counter() - start)
        record["processor seconds"].append(time.process_time() - spent)
        found = np.array(result.segmentation.array(result.segmentation.structures[0]))
        record["second pass"].append(dice(found, truth))
        record["painted slices only"].append(dice(put_in(before, truth, across, painted), truth))
        record["scratch, same slices"].append(dice(interpolated(truth, across, painted, spacing), truth))
        record["scratch, spread slices"].append(dice(interpolated(truth, across, spread(truth, across, len(painted)), spacing), truth))
    return record


def measure(pipeline: Pipeline, data: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    splits = json.loads((data / "splits.json").read_text(encoding="utf-8"))
    records = []
    for domain in arguments.domains.split(","):
        for name in splits[domain]["val"][: arguments.limit]:
            draw = random.Random(f"correction {domain} {name}")
            reference, target = read_case(data / domain, draw.choice(splits[domain]["train"])), read_case(data / domain, name)
            known = {structure.name for structure in target.segmentation.structures}
            large = [s for s in reference.segmentation.structures if s.name in known and truth_size(target, s) >= SMALLEST]
            chosen = draw.sample(large, min(arguments.structures, len(large)))
            first = pipeline.transfer(reference, target.volume, [s.name for s in chosen], keep_mb=1e6)
            for structure in chosen:
                own = next(s for s in target.segmentation.structures if s.name == structure.name)
                before = np.array(first.segmentation.array(structure))
                for axis in map(int, arguments.axes.split(",")):
                    record = correct_one(pipeline, target, own, before, axis, arguments.edits)
                    records.append({"domain": domain, "target": name, **record})
                    print(json.dumps(records[-1]), flush=True)
    return records


def truth_size(target: Reference, structure: Structure) -> int:
    own = next(s for s in target.segmentation.structures if s.name == structure.name)
    return int(target.segmentation.array(own).sum())


def table(records: list[dict[str, Any]], edits: int) -> list[str]:
    lines = [
        "| data set | structures | axis | slices painted | before | " + " | ".join(WAYS) + " | gain a slice | seconds | processor seconds |"
    ]
    lines.append("|---" * (len(WAYS) + 8) + "|")
    for domain, axis in dict.fromkeys((record["domain"], record["axis"]) for record in records):
        mine = [record for record in records if (record["domain"], record["axis"]) == (domain, axis)]
        before = float(np.mean([record["before"] for record in mine]))
        for count in range(1, edits + 1):
            timed = [[record[key][count - 1] for record in mine] for key in ("seconds", "processor seconds")]
            means = [float(np.mean([record[way][count - 1] for record in mine])) for way in WAYS]
            cells = [domain, str(len(mine)), "ijk"[axis], str(count), f"{before:.3f}", *(f"{mean:.3f}" for mean in means)]
            cells += [f"{(means[0] - before) / count:+.3f}", *(f"{np.median(values):.1f} (at most {max(values):.1f})" for values in timed)]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--domains", default="heart_mr,abdomen_ct,brain_t1")
    parser.add_argument("--limit", type=int, default=2, help="targets a data set")
    parser.add_argument("--structures", type=int, default=3, help="structures a target, drawn at random")
    parser.add_argument("--edits", type=int, default=3)
    parser.add_argument("--axes", default="2", help="the image's own axes along which slices are painted, for example 0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(""))
    parser.add_argument("--note", default="", help="a sentence about the conditions, for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    records = measure(Pipeline(arguments.model, "cpu"), arguments.data, arguments)
    busy = f"{os.getloadavg()[0]:.1f} processes competed for {os.cpu_count()} cores at the end" if hasattr(os, "getloadavg") else ""
    conditions = f"{platform.machine()}, {arguments.threads} threads, no GPU; {busy}. {arguments.note}".strip()
    document = {"model": arguments.model, "conditions": conditions, "records": records}
    arguments.output.with_suffix(".json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    lines = ["# Correction loop", "", f"Model {arguments.model!r}. {conditions}", "", "Mean 3D Dice.", ""]
    arguments.output.with_suffix(".md").write_text("\n".join([*lines, *table(records, arguments.edits), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
