"""Makes a data folder of made-up scans of the two heads that no training saw, for `rauslicer benchmark --data`.

    python Testing/Benchmarks/made_heads.py --data ../shared/data --output work/heads
    rauslicer benchmark --data work/heads --split val --variants natural --references 1 --methods copy,demons,rauslicer --output OUT

Every scan has a contrast of its own, drawn as in training. Three sets share the same targets:

- head_to_head: a whole head from another one, both made up;
- brain_to_brain: the brain alone, made up, from a real T1 scan without skull;
- brain_to_head: a whole head, made up, from a real T1 scan without skull.

Labels are those that both sources have, in the numbers of brain_t1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from RAUSlicerLib.training.augment import synthesize
from RAUSlicerLib.training.cases import SHARED, load_head
from RAUSlicerLib.training.datasets import shipped

REFERENCES = ("head00", "head03", "head06")
CONTRASTS = 2
LABELS = sorted(SHARED.values())


def save(folder: Path, name: str, values: np.ndarray, labels: np.ndarray, like: sitk.Image) -> None:
    """Write a scan and its labels on a grid."""
    for suffix, array in (("", values), ("_seg", labels)):
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(like)
        sitk.WriteImage(image, str(folder / f"{name}{suffix}.nii.gz"))


def make_head(source: Path, head: str, folder: Path, name: str, *, stripped: bool, seed: int) -> None:
    """A made-up scan of a head, or of the brain in it."""
    case = load_head(source, head, stripped=stripped)
    values = synthesize(case.labels.long(), np.random.default_rng(seed)).numpy()
    labels = case.labels.numpy().copy()
    labels[~np.isin(labels, LABELS)] = 0
    grid = sitk.GetImageFromArray(labels)
    grid.SetSpacing([float(step) for step in case.spacing[::-1]])
    save(folder, name, (values * 1000).astype(np.int16), labels, grid)


def copy_brain(source: Path, case: str, folder: Path) -> None:
    """A real scan, with the labels that both sources have."""
    volume, labels = (sitk.ReadImage(str(source / f"{case}{suffix}.nii.gz")) for suffix in ("", "_seg"))
    kept = sitk.GetArrayFromImage(labels)
    kept[~np.isin(kept, LABELS)] = 0
    save(folder, case, sitk.GetArrayViewFromImage(volume), kept.astype(np.uint8), volume)


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("work/heads"))
    options = parser.parse_args()
    torch.set_num_threads(2)
    heads, brains = options.data / "head_labelmaps", options.data / "brain_t1"
    numbers = json.loads((brains / "labels.json").read_text())
    people = json.loads((options.data / "splits.json").read_text())["brain_t1"]["train"][: len(REFERENCES)]
    splits: dict[str, dict[str, list[str]]] = {}
    for domain, stripped in (("head_to_head", False), ("brain_to_brain", True), ("brain_to_head", False)):
        folder = options.output / domain
        folder.mkdir(parents=True, exist_ok=True)
        targets = [f"{head}_{contrast}" for contrast in range(CONTRASTS) for head in shipped()["head_labelmaps"].held_out]
        for seed, target in enumerate(targets):
            make_head(heads, target.split("_")[0], folder, target, stripped=stripped, seed=seed)
        if domain == "head_to_head":
            for seed, head in enumerate(REFERENCES, start=100):
                make_head(heads, head, folder, head, stripped=False, seed=seed)
        else:
            for case in people:
                copy_brain(brains, case, folder)
        (folder / "labels.json").write_text(json.dumps({str(label): numbers[str(label)] for label in LABELS}))
        splits[domain] = {"train": list(REFERENCES) if domain == "head_to_head" else people, "val": targets}
    (options.output / "splits.json").write_text(json.dumps(splits, indent=1))


if __name__ == "__main__":
    main()
