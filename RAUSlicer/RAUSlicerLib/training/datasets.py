"""Data sets that networks are trained on: folders, splits, names, shares, licences, and what is special about each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..support import strict_json
from .forms import Share, Weight, filled, mapping, read_yaml, require_known, unusable

SHIPPED = Path(__file__).with_name("datasets.yaml")
STAGES = ("matching", "refiner", "rau", "calibration")
# Labels are kept in a byte, of which the last value means that nothing is known.
IGNORE = 255


@dataclass(frozen=True)
class Dataset:
    """One folder of labelled cases; the fields are explained in `datasets.yaml`."""

    name: str
    folder: Path
    image: str = "{case}.nii.gz"
    segmentation: str = "{case}_seg.nii.gz"
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    people: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    labels: str | None = None
    share: Mapping[str, Weight] = field(default_factory=dict)
    patch: tuple[int, int, int] = (64, 64, 64)
    ignore: tuple[int, ...] = ()
    held_out: tuple[str, ...] = ()
    parcels: tuple[int, ...] = ()
    foreign: tuple[int, ...] = ()
    unmarked: bool = False
    open_ended: tuple[int, ...] = ()
    background: str = ""
    numbering: str = ""
    partner: str = ""
    thick: bool = False
    what: str = ""
    licence: str = ""

    def cases(self, split: str) -> tuple[str, ...]:
        """The cases of a split, ``train`` or ``val``, less those that are held out."""
        return tuple(case for case in (self.train if split == "train" else self.val) if case not in self.held_out)

    def image_of(self, case: str) -> Path:
        return self.folder / self.image.format(case=case)

    def segmentation_of(self, case: str) -> Path:
        return self.folder / self.segmentation.format(case=case)

    def person(self, case: str) -> str:
        """The person behind a case: frames of a patient and rescans are the same person."""
        return self.people.get(case, case.split("_frame")[0])

    def is_parcel(self, label: int) -> bool:
        """Whether a label is one of many that are alike."""
        return label in span(self.parcels)


def span(ends: tuple[int, ...]) -> range:
    """All labels from the first to the last; none without any."""
    return range(ends[0], ends[1] + 1) if ends else range(0)


@dataclass(frozen=True)
class Datasets:
    """All data sets, the label sets that they share, the share and patch of invented pairs, and the licence of weights made of them."""

    sets: Mapping[str, Dataset]
    label_sets: Mapping[str, int]
    invented_share: float = 0.0
    invented_patch: tuple[int, int, int] = (64, 64, 80)
    licence: str = ""

    def __getitem__(self, name: str) -> Dataset:
        return self.sets[name]

    def shares(self, stage: str) -> dict[str, float]:
        """The sets that a stage is trained on, with their shares of its steps, as they are in the file."""
        return {name: one.share[stage] for name, one in self.sets.items() if one.share.get(stage, 0) > 0}

    def columns(self, label_set: str) -> slice:
        """Which outputs of the classifier over all label sets belong to one."""
        names = list(self.label_sets)
        first = sum(self.label_sets[other] for other in names[: names.index(label_set)])
        return slice(first, first + self.label_sets[label_set])

    def continuing(self, labels: tuple[int, ...]) -> Datasets:
        """The same behind the label sets of a network that is trained on, unless the file begins with these: it keeps what it knew."""
        if tuple(self.label_sets.values())[: len(labels)] == labels:
            return self
        return replace(self, label_sets={f"start_{number}": count for number, count in enumerate(labels)} | dict(self.label_sets))


@dataclass(frozen=True)
class _Invented:
    share: Share = 0.0
    patch: tuple[int, int, int] = (64, 64, 80)


def shipped(data: Path) -> Datasets:
    """The data sets that the embedded networks are trained on, in a data folder."""
    return load(SHIPPED, data)


def load(path: Path, data: Path, also: Iterable[str] = ()) -> Datasets:
    """Read a file like `datasets.yaml`; folders in it are relative to ``data``, whose folders ``also`` are sets too.

    Raises:
        InputError: see `parse`.
    """
    return parse(read_yaml(path), path, data, also)


def parse(values: dict[str, Any], path: Path, data: Path, also: Iterable[str] = ()) -> Datasets:
    """The same of what a file says, or a part of one.

    Raises:
        InputError: an unknown key or label set, a patch that the networks can't take, or splits or names that can't be read.
    """
    require_known(values, ("label_sets", "licence", "datasets", "invented"), path, "")
    entries = {name: {} for name in also} | mapping(values.get("datasets") or {}, path, "datasets.")
    if not entries:
        raise unusable(path, "It names no data set under 'datasets'.")
    splits = _splits(data)
    sets = {name: _dataset(str(name), entry, path, data, splits.get(str(name), {})) for name, entry in entries.items()}
    label_sets = {str(name): int(count) for name, count in mapping(values.get("label_sets"), path, "label_sets.").items()}
    for name, one in sets.items():
        if "labels" not in mapping(entries[name], path, f"datasets.{name}."):
            # Labels that nobody shares mean something within their set.
            label_sets.setdefault(name, max(one.names, default=1) + 1)
            sets[name] = one = replace(one, labels=name)
        elif one.labels == "none":
            sets[name] = one = replace(one, labels=None)
        if one.labels is not None and one.labels not in label_sets:
            raise unusable(path, f"Data set {name!r}: there is no label set {one.labels!r}.")
        if one.partner and one.partner not in sets:
            raise unusable(path, f"Data set {name!r}: there is no data set {one.partner!r}.")
    invented = filled(_Invented, values.get("invented"), path, "invented.")
    for name, patch in [(name, one.patch) for name, one in sets.items()] + [("invented", invented.patch)]:
        # torch's bf16 convolution on CPUs (2.14) has a wrong weight gradient where an axis comes down to two voxels at the deepest stride.
        if any(extent % 16 or extent < 48 for extent in patch):
            raise unusable(path, f"Data set {name!r}: the sides of the patch {patch} must be multiples of 16, at least 48.")
    return Datasets(sets, label_sets, invented.share, invented.patch, str(values.get("licence") or ""))


def _dataset(name: str, entry: object, path: Path, data: Path, split: Mapping[str, Any]) -> Dataset:
    where = f"datasets.{name}."
    entry = dict(mapping(entry, path, where))
    if not re.fullmatch(r"[\w-]+", name):
        raise unusable(path, f"The data set {name!r} must be called by letters, digits, '_' and '-' alone.")
    share = entry.get("share", 1.0)
    entry["share"] = share = share if isinstance(share, dict) else dict.fromkeys(STAGES, share)
    require_known(share, STAGES, path, f"{where}share.")
    entry["folder"] = data / str(entry.get("folder", name))
    if "segmentation" not in entry and "image" in entry:
        raise unusable(path, f"'{where}image' says how images are called, and '{where}segmentation' is missing.")
    one = filled(Dataset, entry, path, where, name=name)
    for pattern in (one.image, one.segmentation):
        if "{case}" not in pattern:
            raise unusable(path, f"Data set {name!r}: {pattern!r} must hold {{case}}, where the name of a case stands.")
    if not one.train and not one.val:
        one = replace(one, train=tuple(split.get("train", ())) if split else _found(one), val=tuple(split.get("val", ())))
    if not one.people:
        one = replace(one, people=dict(split.get("rescan", {})))
    return one if one.names else replace(one, names=_names(one.folder / "labels.json"))


def _found(one: Dataset) -> tuple[str, ...]:
    """The names of all cases in a folder: where nobody has split them all are trained on."""
    before, after = one.segmentation.split("{case}")
    files = sorted(path.relative_to(one.folder).as_posix() for path in one.folder.glob(f"{before}*{after}"))
    return tuple(file[len(before) : len(file) - len(after)] for file in files)


def _splits(data: Path) -> dict[str, dict[str, Any]]:
    path = data / "splits.json"
    if not path.is_file():
        return {}
    try:
        splits = strict_json.load(path)
        if not isinstance(splits, dict) or not all(isinstance(one, dict) for one in splits.values()):
            raise ValueError("it is not of the form {data set: {split: [case]}}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"The splits in {str(path)!r} can't be read.",
            f"They name the train and val cases of each data set ({error}).",
            'Write them like {"knees": {"train": ["a", "b"], "val": ["c"]}}, or name the cases in the configuration.',
        ) from error
    return splits


def _names(path: Path) -> dict[int, str]:
    from ..evaluation.pairs import read_structure_names

    return read_structure_names(path) if path.is_file() else {}
