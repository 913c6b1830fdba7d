"""Matches training cases to each other and keeps what the mask refiner will see of them.

Each file holds one pair: both volumes on the target's fine grid, the carried structures and the truth. What is there is not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..device import choose_device, keep_memory, release_memory
from ..errors import InputError, ResourceError
from ..imaging.frame import canonical, resample
from ..imaging.label_values import numbered
from ..imaging.segmentation import Reference, Structure
from ..loading import load_model
from ..matching.label_posteriors import LabelEvidence
from ..matching.matcher import Matcher
from ..progress import CancelToken, ignore
from ..refinement.refiner import Cells, Corner, MatchedPlanes, Window, overlay
from .cases import annotated
from .config import TrainConfig
from .datasets import Datasets
from .matching import trained_network

# Structures with fewer voxels teach nothing.
_FEWEST = 50
_ARRAYS = ("target", "reference", "warped")


@dataclass(frozen=True)
class Prior:
    """A matched pair on the target's fine grid: what the network sees of it, in bytes, and the ``truth`` (z, y, x) in the numbers of
    ``planes``. Structures are called by their numbers in the data set ``domain``.
    """

    domain: str
    planes: MatchedPlanes
    truth: np.ndarray

    def save(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        seen = self.planes
        assert seen.labels is not None
        arrays = {name: getattr(seen, name) for name in _ARRAYS} | {"truth": self.truth, "domain": np.array(self.domain)}
        arrays["labels"] = np.array([structure.label for structure in seen.attended], np.int32)
        for number, ((values, where), (looks, start)) in enumerate(
            zip(seen.attended.values(), seen.globally_attended.values(), strict=True)
        ):
            arrays |= {f"attended_{number}": values, f"starts_{number}": np.array([_corner(where), start]), f"looks_{number}": looks}
        for name, cells in (("cell", seen.cells), ("known", seen.working)):
            arrays |= {f"{name}_first": cells.first, f"{name}_step": cells.step}
        arrays |= {f"known_{name}": getattr(seen.labels, name).numpy() for name in ("index", "share", "ratio")}
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as kept:
            structures = [Structure(int(label), f"label {label}") for label in kept["labels"]]
            attended, looks = {}, {}
            for number, structure in enumerate(structures):
                own, corner = (_whole(start) for start in kept[f"starts_{number}"])
                values = kept[f"attended_{number}"]
                attended[structure] = values, _window(own, values.shape)
                looks[structure] = kept[f"looks_{number}"], corner
            planes = MatchedPlanes(
                **{name: kept[name] for name in _ARRAYS},
                attended=attended,
                globally_attended=looks,
                cells=Cells(kept["cell_first"], kept["cell_step"]),
                labels=LabelEvidence(*(torch.from_numpy(kept[f"known_{name}"]) for name in ("index", "share", "ratio"))),
                working=Cells(kept["known_first"], kept["known_step"]),
            )
            return cls(str(kept["domain"]), planes, kept["truth"])


def _corner(window: Window) -> Corner:
    return _whole(side.start for side in window)


def _whole(numbers: Iterable[int]) -> Corner:
    z, y, x = (int(one) for one in numbers)
    return z, y, x


def _window(start: Corner, shape: tuple[int, ...]) -> Window:
    z, y, x = (slice(first, first + extent) for first, extent in zip(start, shape, strict=True))
    return z, y, x


def pairs(datasets: Datasets, names: Mapping[str, Any], split: str, references: int, seed: int = 5) -> Iterator[tuple[str, str, str]]:
    """(set, reference, target): each target of a split with some training cases of other people; sets take turns."""
    rng = np.random.default_rng(seed)
    queues = []
    for name in names:
        about, queue = datasets[name], []
        for target in about.cases(split):
            others = [case for case in about.cases("train") if about.person(case) != about.person(target)]
            queue.append([(name, str(case), target) for case in rng.permutation(others)[:references]])
        # The first reference of every target comes before the second one of any: an early stop leaves all targets.
        queues.append([chosen[number] for number in range(references) for chosen in queue if number < len(chosen)])
    for number in range(max(map(len, queues), default=0)):
        yield from (queue[number] for queue in queues if number < len(queue))


def make(matcher: Matcher, domain: str, reference: Reference, target: Reference) -> Prior:
    """Match and lay over.

    Raises:
        ResourceError: the matching network knows no labels.
    """
    match = matcher.match(reference, target.volume, ignore, CancelToken())
    assert match is not None
    over = overlay(match, target.volume)
    if over.labels is None:
        raise ResourceError(
            "The model's matching network knows no labels.",
            "The mask refiner is trained on what they say of the target.",
            "Train a matching network with `rauslicer train matching` first, or start from the embedded model.",
        )
    truth = sitk.GetArrayFromImage(resample(canonical(target.segmentation.labelmap), over.grid, nearest=True))
    planes = MatchedPlanes(
        target=_bytes(over.target),
        reference=_bytes(over.reference),
        warped=over.warped.astype(np.uint8),
        attended={one: (_bytes(values), where) for one, (values, where) in over.attended.items()},
        globally_attended={one: (_bytes(values), start) for one, (values, start) in over.globally_attended.items()},
        cells=over.cells,
        labels=over.labels,
        working=over.working,
    )
    return Prior(domain, planes, numbered(truth, [structure.label for structure in over.attended]).astype(np.uint8))


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def make_priors(config: TrainConfig) -> list[Path]:
    """Make the files that are missing, matched by the network that was trained so far or else by that of the model to start from.

    Returns:
        All files of that network.

    Raises:
        InputError: there is neither.
    """
    trained = trained_network(config)
    if trained is None and not config.start:
        raise InputError(
            "There is no matching network to make the refiner's training pairs with.",
            f"There is no state in {str(config.output / 'matching')!r}, and the configuration names no model to start from.",
            "Run `rauslicer train matching` first, or write 'start: embedded' into the configuration.",
        )
    network, steps = trained or (load_model(config.start).matching, 0)
    folder = config.output / "priors" / (f"matching-{steps}" if trained else "start")
    folder.mkdir(parents=True, exist_ok=True)
    keep_memory()
    matcher, files = Matcher(network, choose_device(config.device)), []
    chosen = config.datasets.shares("refiner")
    for domain, *both in pairs(config.datasets, chosen, "train", config.refiner.references):
        files.append(folder / f"{domain}-{'-'.join(both)}.npz".replace("/", "_"))
        if not files[-1].exists():
            cases = (annotated(config.datasets[domain], case, fewest=_FEWEST, parcels=True) for case in both)
            make(matcher, domain, *cases).save(files[-1])
            release_memory()
    return files
