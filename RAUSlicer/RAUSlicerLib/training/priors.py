"""Stage 2, first half: matches training cases to each other and keeps what the mask refiner will see of them.

    python -m RAUSlicerLib.training.priors --data ../shared/data --model embedded --output work/priors --references 2

Each file holds one pair: both volumes on the target's fine grid, the carried structures and the truth. What is there is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..device import choose_device, keep_memory, release_memory
from ..errors import ResourceError
from ..imaging.frame import canonical, resample
from ..imaging.image_file import read_image
from ..imaging.label_values import numbered
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..loading import load_model
from ..matching.label_posteriors import LabelEvidence
from ..matching.matcher import Matcher
from ..progress import CancelToken, ignore
from ..refinement.refiner import Overlay, overlay
from ..support import strict_json
from .cases import subject_of
from .datasets import shipped
from .loop import add_without

_FEWEST = 50


@dataclass(frozen=True)
class Prior:
    """A matched pair on the target's fine grid; arrays (z, y, x).

    ``labels`` are the data set's numbers of the structures 1, 2, ...; ``target``, ``reference``, ``first`` and ``second`` are uint8, 255
    is 1: intensities, and the largest and second largest probability that any structure has at a voxel. ``owner``, ``warped`` and
    ``truth`` are numbers of structures, from 1 on. ``attended`` holds each structure's probabilities (uint8) and where in the grid they
    begin, ``globally_attended`` those by global attention, on coarse cells: a cell's centre lies at ``cell_first + cell_step * index``
    (z, y, x) of the grid. ``known_index``, ``known_share`` and ``known_ratio`` are those of `LabelEvidence`, on a grid whose voxels lie at
    ``known_first + known_step * index``.
    """

    domain: str
    labels: np.ndarray
    target: np.ndarray
    reference: np.ndarray
    first: np.ndarray
    second: np.ndarray
    owner: np.ndarray
    warped: np.ndarray
    truth: np.ndarray
    attended: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]
    globally_attended: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]
    cell_first: np.ndarray
    cell_step: np.ndarray
    known_index: np.ndarray
    known_share: np.ndarray
    known_ratio: np.ndarray
    known_first: np.ndarray
    known_step: np.ndarray

    @property
    def known(self) -> LabelEvidence:
        """What the training labels say of it."""
        return LabelEvidence(*(torch.from_numpy(values) for values in (self.known_index, self.known_share, self.known_ratio)))

    def save(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _PLANES}
        arrays |= _packed("attended", self.attended) | _packed("globally_attended", self.globally_attended)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, domain=np.array(self.domain), **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as kept:
            planes = {name: kept[name] for name in _PLANES}
            attended, globally_attended = (_unpacked(name, kept) for name in ("attended", "globally_attended"))
            return cls(domain=str(kept["domain"]), attended=attended, globally_attended=globally_attended, **planes)


_PLANES = (
    *("labels", "target", "reference", "first", "second", "owner", "warped", "truth", "cell_first", "cell_step"),
    *("known_index", "known_share", "known_ratio", "known_first", "known_step"),
)


def _packed(name: str, boxes: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]) -> dict[str, np.ndarray]:
    return {
        f"{name}_starts": np.array([start for _, start in boxes], np.int32),
        f"{name}_shapes": np.array([values.shape for values, _ in boxes], np.int32),
        f"{name}_values": np.concatenate([values.ravel() for values, _ in boxes]),
    }


def _unpacked(name: str, kept: Mapping[str, np.ndarray]) -> tuple[tuple[np.ndarray, tuple[int, int, int]], ...]:
    values, at, out = kept[f"{name}_values"], 0, []
    for start, shape in zip(kept[f"{name}_starts"], kept[f"{name}_shapes"], strict=True):
        count = int(np.prod(shape))
        out.append((values[at : at + count].reshape(shape), (int(start[0]), int(start[1]), int(start[2]))))
        at += count
    return tuple(out)


def pairs(data: Path, split: str, references: int, domains: tuple[str, ...], seed: int = 5) -> Iterator[tuple[str, str, str]]:
    """(domain, reference, target): each target of a split with some training cases of other people; domains take turns."""
    splits = strict_json.load(data / "splits.json")
    rng = np.random.default_rng(seed)
    queues = []
    for domain in domains:
        queue = []
        for target in splits[domain][split]:
            others = [case for case in splits[domain]["train"] if subject_of(domain, case, splits) != subject_of(domain, target, splits)]
            queue.append([(domain, str(case), target) for case in rng.permutation(others)[:references]])
        # The first reference of every target comes before the second one of any: an early stop leaves all targets.
        queues.append([chosen[number] for number in range(references) for chosen in queue if number < len(chosen)])
    for number in range(max(map(len, queues))):
        yield from (queue[number] for queue in queues if number < len(queue))


def whole(data: Path, domain: str, case: str, without: Collection[int] = ()) -> Reference:
    """A case with all its labels that mark a structure, less those of ``brain_t1`` that it is to be ``without``."""
    labels = read_image(data / domain / f"{case}_seg.nii.gz")
    values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    ignored = (*(shipped()[domain].ignore if domain in shipped().datasets else ()), *(without if domain == "brain_t1" else ()))
    kept = [int(v) for v, n in zip(values, counts, strict=True) if v > 0 and n >= _FEWEST and v not in ignored]
    structures = tuple(Structure(value, f"label {value}") for value in kept)
    return Reference(read_image(data / domain / f"{case}.nii.gz"), Segmentation(labels, structures))


def make(matcher: Matcher, domain: str, reference: Reference, target: Reference) -> Prior:
    """Match and lay over."""
    match = matcher.match(reference, target.volume, ignore, CancelToken())
    assert match is not None
    over = overlay(match, target.volume)
    first, second, owner = over.rivals
    labels = sitk.GetArrayFromImage(resample(canonical(target.segmentation.labelmap), over.grid, nearest=True))
    numbers = numbered(labels, [structure.label for structure in over.attended]).astype(np.uint8)
    attended = tuple((_bytes(values), _corner(over, structure)) for structure, (values, _) in over.attended.items())
    planes = (
        _bytes(over.target),
        _bytes(over.reference),
        _bytes(first),
        _bytes(second),
        owner.astype(np.uint8),
        over.warped.astype(np.uint8),
    )
    globally_attended = tuple((_bytes(values), start) for values, start in over.globally_attended.values())
    own = np.array([structure.label for structure in over.attended], np.int32)
    cells = over.cells.first, over.cells.step
    if over.labels is None:
        raise ResourceError(
            "The model's matching network knows no labels.",
            "The mask refiner is trained on what they say of the target.",
            "Export the matching network anew with `RAUSlicerLib.training.export`, which keeps them.",
        )
    known = over.labels.index.numpy(), over.labels.share.numpy(), over.labels.ratio.numpy(), over.working.first, over.working.step
    return Prior(domain, own, *planes, numbers, attended, globally_attended, *cells, *known)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _corner(over: Overlay, structure: Structure) -> tuple[int, int, int]:
    z, y, x = (side.start for side in over.attended[structure][1])
    return z, y, x


def run(options: argparse.Namespace) -> None:
    """Make what is missing."""
    options.output.mkdir(parents=True, exist_ok=True)
    keep_memory()
    matcher = Matcher(load_model(options.model).matching, choose_device("auto"))
    for domain, reference, target in pairs(options.data, options.split, options.references, tuple(options.domains.split(","))):
        path = options.output / f"{domain}-{reference}-{target}.npz"
        if not path.exists():
            cases = (whole(options.data, domain, case, options.without) for case in (reference, target))
            make(matcher, domain, *cases).save(path)
            release_memory()


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--output", type=Path, default=Path("work/priors"))
    parser.add_argument("--split", default="train")
    parser.add_argument("--references", type=int, default=2, help="for each target")
    parser.add_argument("--domains", default="brain_t1,abdomen_ct,heart_mr")
    add_without(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
