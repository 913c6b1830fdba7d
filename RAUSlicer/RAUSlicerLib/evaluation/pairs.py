"""Which targets the benchmark segments, and from which references."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

SEED = 2
REFERENCES_A_TARGET = 3

# Labels that are not scored, by data set: the cortical parcels of brain_t1 are many and alike.
_HIGHEST_LABEL = {"brain_t1": 99}


@dataclass(frozen=True)
class Pair:
    """One run of the benchmark: a target of the split with one training case as its reference."""

    domain: str
    reference: str
    target: str
    folder: Path

    def volume(self, case: str) -> Path:
        return self.folder / f"{case}.nii.gz"

    def segmentation(self, case: str) -> Path:
        return self.folder / f"{case}_seg.nii.gz"


def choose_pairs(data: Path, split: str, domains: list[str] | None, limit: int | None) -> list[Pair]:
    """Pairs in a fixed order: every target with its first reference, then every target with its second, and so on.

    Args:
        data: Folder with ``splits.json`` and a folder a domain.
        split: Whose cases are the targets; references come from ``train``.
        domains: Names of data sets; None takes all that have the split.
        limit: At most so many pairs a domain.

    Raises:
        InputError: there is no such data, domain or split.
    """
    splits = _read_splits(data)
    known = sorted(name for name, cases in splits.items() if cases.get(split) and cases.get("train"))
    for name in domains or known:
        if name not in known:
            raise InputError(
                f"The data set {name!r} has no cases in the split {split!r}.",
                f"Data sets of {str(data)!r} that have: {', '.join(known) or 'none'}.",
                "Choose another data set or split.",
            )
    return [pair for name in domains or known for pair in _pairs_of(data / name, splits[name], split)[:limit]]


def scored_labels(domain: str, labels: list[int]) -> list[int]:
    """Those labels of a domain that the benchmark scores."""
    return [label for label in labels if label <= _HIGHEST_LABEL.get(domain, max(labels))]


def _pairs_of(folder: Path, cases: dict[str, Any], split: str) -> list[Pair]:
    chosen = {}
    for target in cases[split]:
        # Drawn by the target's name, so that a longer split does not change the pairs of a shorter one.
        draw = random.Random(f"{SEED} {folder.name} {target}")
        chosen[target] = draw.sample(cases["train"], min(REFERENCES_A_TARGET, len(cases["train"])))
    rounds = max(len(references) for references in chosen.values())
    return [Pair(folder.name, chosen[target][turn], target, folder) for turn in range(rounds) for target in cases[split]]


def _read_splits(data: Path) -> dict[str, dict[str, Any]]:
    path = data / "splits.json"
    try:
        splits: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"The data folder {str(data)!r} has no readable splits.json.",
            f"It names the cases of each data set and split ({error}).",
            "Give the folder of the data with --data.",
        ) from error
    return splits
