"""Which data sets the embedded networks are trained on, and what is special about each: `datasets.yaml` as values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).with_name("datasets.yaml")


@dataclass(frozen=True)
class Dataset:
    """One folder of labelled cases; the fields are explained in `datasets.yaml`."""

    name: str
    patch: tuple[int, int, int]
    share: float = 0.0
    labels: str | None = None
    ignore: tuple[int, ...] = ()
    held_out: tuple[str, ...] = ()
    unmarked: bool = False
    open_ended: tuple[int, ...] = ()
    background: str | None = None
    what: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Datasets:
    """All data sets, the label sets that they share, and the share and patch of invented pairs."""

    label_sets: dict[str, int]
    datasets: dict[str, Dataset]
    invented_share: float
    invented_patch: tuple[int, int, int]

    def __getitem__(self, name: str) -> Dataset:
        return self.datasets[name]

    def columns(self, name: str) -> slice:
        """Which outputs of the classifier over all label sets belong to one set."""
        names = list(self.label_sets)
        first = sum(self.label_sets[other] for other in names[: names.index(name)])
        return slice(first, first + self.label_sets[name])


def parse(values: dict[str, Any]) -> Datasets:
    """Read the contents of a file like `datasets.yaml`.

    Raises:
        ValueError: an unknown key or label set, or a patch that the networks can't take.
    """
    known = set(Dataset.__dataclass_fields__) - {"name"}
    sets = {}
    for name, entry in values["datasets"].items():
        unknown = set(entry) - known
        if unknown:
            raise ValueError(f"Data set {name!r}: unknown keys {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}.")
        if entry.get("labels") is not None and entry["labels"] not in values["label_sets"]:
            raise ValueError(f"Data set {name!r}: there is no label set {entry['labels']!r}.")
        lists = {key: tuple(entry[key]) for key in ("patch", "ignore", "held_out", "open_ended") if key in entry}
        sets[name] = Dataset(name=name, **{**entry, **lists})
    invented = values.get("invented", {"share": 0.0, "patch": [64, 64, 64]})
    for name, patch in [(name, entry.patch) for name, entry in sets.items()] + [("invented", tuple(invented["patch"]))]:
        # torch's bf16 convolution on CPUs (2.14) has a wrong weight gradient where an axis comes down to two voxels at the deepest stride.
        if len(patch) != 3 or any(extent % 16 or extent < 48 for extent in patch):
            raise ValueError(f"Data set {name!r}: the patch {patch} must have three sides that are multiples of 16, at least 48.")
    return Datasets(dict(values["label_sets"]), sets, float(invented["share"]), tuple(invented["patch"]))


@cache
def shipped() -> Datasets:
    """The data sets that the embedded networks are trained on."""
    return load(SHIPPED)


def load(path: Path) -> Datasets:
    """Read a file like `datasets.yaml`."""
    return parse(yaml.safe_load(path.read_text()))
