"""Which targets are segmented, from which references and in which state: the fixed lists of the benchmark."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..imaging.variants import NATURAL, VARIANTS
from ..support import strict_json

SEED = 2
REFERENCES_A_TARGET = 3
# Labels that are not scored, by data set: the cortical parcels of brain_t1 are many and alike.
_HIGHEST_LABEL = {"brain_t1": 99}


@dataclass(frozen=True)
class Case:
    """A labelled volume of a data set's folder."""

    folder: Path
    name: str

    @property
    def domain(self) -> str:
        return self.folder.name

    @property
    def volume(self) -> Path:
        return self.folder / f"{self.name}.nii.gz"

    @property
    def segmentation(self) -> Path:
        return self.folder / f"{self.name}_seg.nii.gz"

    def structure_names(self) -> dict[int, str]:
        """Names by label value, of all structures of the data set."""
        return read_structure_names(self.folder / "labels.json")


def read_structure_names(path: Path) -> dict[int, str]:
    """Names by label value, from a data set's ``labels.json``.

    Raises:
        InputError: it can't be read, or is not of that form.
    """
    try:
        return {int(label): str(name) for label, name in strict_json.load(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"The names of structures in {str(path)!r} can't be read.",
            f"The file says for each label value how its structure is called ({error}).",
            'Write it like {"1": "liver", "2": "spleen"}.',
        ) from error


@dataclass(frozen=True)
class Trial:
    """A target with its references; ``variant`` says what is done to the target first, one of ``VARIANTS``."""

    target: Case
    references: tuple[Case, ...]
    variant: str = NATURAL

    @property
    def domain(self) -> str:
        return self.target.domain

    @property
    def wrong_part(self) -> bool:
        """Whether the reference shows another part of the body, so that none of its structures is in the target."""
        return self.references[0].domain != self.domain

    @property
    def reference_names(self) -> tuple[str, ...]:
        """Names of the references as they are recorded: with their data set where it isn't the target's."""
        return tuple(case.name if case.domain == self.domain else f"{case.domain}/{case.name}" for case in self.references)


def choose_trials(
    data: Path,
    split: str,
    domains: Sequence[str] | None,
    limit: int | None,
    variants: Sequence[str] = (NATURAL,),
    counts: Sequence[int] = (1,),
) -> list[Trial]:
    """Trials in a fixed order, so that an interrupted run has seen every target: every target with its first reference, the variants of
    the same pairs, then every target with its second reference and so on, and at last those with several references.

    Args:
        data: Folder with ``splits.json`` and a folder a domain.
        split: Whose cases are the targets; references come from ``train``.
        domains: Names of data sets; None takes all that have the split.
        limit: At most so many pairs a domain.
        variants: Of ``VARIANTS``. Others than the natural frame are run with each target's first reference.
        counts: How many references a trial has, 1 to ``REFERENCES_A_TARGET``; more than one only in the natural frame.

    Raises:
        InputError: there is no such data, domain, split or variant, or there are not so many references.
    """
    for name in variants:
        if name not in VARIANTS:
            raise InputError(f"There is no variant named {name!r}.", f"Known ones: {', '.join(VARIANTS)}.", "Choose among these.")
    for count in counts:
        if not 1 <= count <= REFERENCES_A_TARGET:
            raise InputError(
                f"{count} references a target can't be used.",
                f"The fixed list has {REFERENCES_A_TARGET} references for each target.",
                f"Choose numbers from 1 to {REFERENCES_A_TARGET}.",
            )
    drawn = {folder: _drawn(folder, cases, split) for folder, cases in _folders(data, split, domains).items()}
    trials = []
    for turn in range(REFERENCES_A_TARGET if 1 in counts else 0):
        for variant in variants:
            if turn and variant != NATURAL:
                continue
            for of_domain in drawn.values():
                pairs = [Trial(target, (mine[turn],), variant) for target, mine in of_domain.items() if turn < len(mine)]
                before = sum(min(turn, len(mine)) for mine in of_domain.values())
                trials += pairs if limit is None else pairs[: max(limit - before, 0)]
    for count in sorted(set(counts) - {1}):
        for of_domain in drawn.values():
            several = [Trial(target, tuple(mine[:count])) for target, mine in of_domain.items() if len(mine) >= count]
            trials += several[:limit]
    return trials


def wrong_part_trials(data: Path, split: str, domains: Sequence[str] | None, limit: int | None) -> list[Trial]:
    """Targets of each domain with a train case of every other domain as their reference.

    At most ``limit`` targets for each pair of domains, two if it is None: all structures of such a run count.

    Raises:
        InputError: there is no such data, domain or split.
    """
    folders = _folders(data, split, domains)
    sources = _folders(data, split, None)
    trials = []
    for folder, cases in folders.items():
        for other, others in sources.items():
            if other != folder:
                for target in cases[split][: limit or 2]:
                    draw = random.Random(f"{SEED} {folder.name} {target} {other.name}")
                    trials.append(Trial(Case(folder, target), (Case(other, draw.choice(others["train"])),)))
    return trials


def scored_labels(domain: str, labels: Sequence[int]) -> list[int]:
    """Those labels of a domain that the benchmark scores."""
    return [label for label in labels if label <= _HIGHEST_LABEL.get(domain, label)]


def _folders(data: Path, split: str, domains: Sequence[str] | None) -> dict[Path, dict[str, Any]]:
    splits = _read_splits(data)
    known = sorted(name for name, cases in splits.items() if cases.get(split) and cases.get("train"))
    for name in domains or known:
        if name not in known:
            raise InputError(
                f"The data set {name!r} has no cases in the split {split!r}.",
                f"Data sets of {str(data)!r} that have: {', '.join(known) or 'none'}.",
                "Choose another data set or split.",
            )
    if not known:
        raise InputError(
            f"No data set has cases in the split {split!r}.",
            f"{str(data / 'splits.json')!r} names the cases of each data set and split.",
            "Choose another split.",
        )
    return {data / name: splits[name] for name in domains or known}


def _drawn(folder: Path, cases: dict[str, Any], split: str) -> dict[Case, list[Case]]:
    """The references of every target, the same every time."""
    drawn = {}
    for target in cases[split]:
        # Drawn by the target's name, so that a longer split does not change the pairs of a shorter one.
        draw = random.Random(f"{SEED} {folder.name} {target}")
        names = draw.sample(cases["train"], min(REFERENCES_A_TARGET, len(cases["train"])))
        drawn[Case(folder, target)] = [Case(folder, name) for name in names]
    return drawn


def _read_splits(data: Path) -> dict[str, dict[str, Any]]:
    path = data / "splits.json"
    try:
        splits: dict[str, dict[str, Any]] = strict_json.load(path)
        if not (isinstance(splits, dict) and all(_is_of_form(cases) for cases in splits.values())):
            raise ValueError("it is not of the form {data set: {split: [case]}}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"The data folder {str(data)!r} has no readable splits.json.",
            f"It names the cases of each data set and split ({error}).",
            "Give the folder of the data with --data.",
        ) from error
    return splits


def _is_of_form(cases: Any) -> bool:
    """Whether a data set has lists of names under its splits; "rescan" maps cases to their subjects."""
    return isinstance(cases, dict) and all(
        split == "rescan" or (isinstance(names, list) and all(isinstance(name, str) for name in names)) for split, names in cases.items()
    )
