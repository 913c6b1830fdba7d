"""What is kept of every run of the benchmark, and the file it is kept in, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .pairs import Trial

LOG = "runs.jsonl"


@dataclass(frozen=True)
class StructureScore:
    """One structure of one run.

    ``is_present`` is None where the expert marked too little of it to say. ``dice``, ``hd95_mm``, ``mask_box_iou`` and ``box_iou`` are
    None where there is nothing, or too little, to compare with; ``box_iou`` (of a box that the method gives beside its mask) also where
    it gives none. ``presence`` and ``confidence`` are the method's own, 0 to 1, ``status`` is its word for them. ``mirror_dice`` is the
    Dice with the structure of the other side, for lateralised ones.
    """

    label: int
    name: str
    is_present: bool | None
    said_present: bool
    dice: float | None
    hd95_mm: float | None
    mask_box_iou: float | None
    box_iou: float | None = None
    presence: float | None = None
    confidence: float | None = None
    status: str | None = None
    mirror_dice: float | None = None


@dataclass(frozen=True)
class Run:
    """One method on one trial.

    ``seconds`` are the method's alone, ``load_seconds`` what opening its model took where this run had to, ``peak_mb`` the most memory that
    its process held meanwhile. ``model`` tells weights apart. ``error`` says why it failed.
    """

    domain: str
    method: str
    references: tuple[str, ...]
    target: str
    variant: str
    model: str
    seconds: float | None
    load_seconds: float | None
    peak_mb: float | None
    structures: tuple[StructureScore, ...]
    error: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Tells runs apart: the same key is the same experiment."""
        return (self.method, self.model, self.domain, self.target, self.variant, *self.references)

    @property
    def pair(self) -> tuple[str, ...]:
        """What was segmented, whatever the method and the variant."""
        return (self.domain, self.target, *self.references)

    @property
    def wrong_part(self) -> bool:
        """Whether the reference shows another part of the body."""
        return any("/" in name for name in self.references)

    @classmethod
    def from_dict(cls, values: dict) -> Run:
        structures = tuple(StructureScore(**score) for score in values["structures"])
        return cls(**{**values, "references": tuple(values["references"]), "structures": structures})


def key_of(trial: Trial, method: str, model: str) -> tuple[str, ...]:
    """The key that a method's run on a trial will have."""
    return (method, model, trial.domain, trial.target.name, trial.variant, *trial.reference_names)


def make_folder(folder: Path) -> None:
    """Create a folder for results.

    Raises:
        OutputError: it can't be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {str(folder)!r} can't be created.", f"The system says: {error.strerror or error}.", "Choose another folder."
        ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of one JSON object a line; a last line that an interruption cut off is taken out of the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        # What follows must not be glued to it.
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class RunLog:
    """Runs in a file of one JSON object a line, written as they come."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            OutputError: the folder can't be created.
        """
        make_folder(folder)
        self._path = folder / LOG
        self._runs = {run.key: run for run in map(Run.from_dict, read_lines(self._path))}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._runs

    def __getitem__(self, key: tuple[str, ...]) -> Run:
        return self._runs[key]

    def add(self, run: Run) -> None:
        """Keep a run; an earlier one of the same key is replaced."""
        self._runs[run.key] = run
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")

    def forget(self, methods: Collection[str]) -> None:
        """Drop the runs of some methods, so that they are run again."""
        self._runs = {key: run for key, run in self._runs.items() if run.method not in methods}
        self._path.write_text("".join(json.dumps(asdict(run)) + "\n" for run in self._runs.values()), encoding="utf-8")
