"""What is kept of every run of the benchmark, and the file it is kept in, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import OutputError
from ..support import strict_json
from ..support.outputs import foreign, make_folder, unwritable, write_text
from .pairs import Trial

LOG = "runs.jsonl"
# What every line of it begins with.
_START = '{"domain": "'

T = TypeVar("T")


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


def read_lines(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """What a file of one JSON object a line holds; a last line that an interruption cut off is taken out of it. It is made if need be.

    Raises:
        OutputError: it is not what a benchmark wrote, and is left as it is; or the operating system refuses.
    """
    try:
        path.touch()
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        kept = [read(strict_json.loads(line)) for line in whole.splitlines()]
        rest = text[len(whole) :]
        if not (_START.startswith(rest) or rest.startswith(_START)):
            raise ValueError("its last line is none of a benchmark's")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise foreign(path, "benchmark", "with --output") from error
    except OSError as error:
        raise unwritable(path, "file", error) from error
    if rest:
        # What follows must not be glued to it.
        write_text(path, "file", whole)
    return kept


def add_line(path: Path, values: dict[str, Any]) -> None:
    """Add a JSON object to such a file.

    Raises:
        OutputError: the disk is full, or the operating system refuses otherwise.
    """
    line = (strict_json.dumps(values) + "\n").encode()
    try:
        with path.open("ab") as file:
            before = file.tell()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if path.stat().st_size != before + len(line):
            raise OSError(errno.EIO, "not all of it has arrived; the disk may be full")
    except OSError as error:
        raise unwritable(path, "file", error) from error


def require_own(folder: Path, log: str, patterns: Sequence[str]) -> None:
    """Make sure that the tables in a folder are a benchmark's before they are replaced: then its log lies beside them.

    Raises:
        OutputError: somebody else has such a file there.
    """
    there = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if there and not (folder / log).is_file():
        raise OutputError(
            f"The file {str(there[0])!r} is there already, and {log!r} of the benchmark that wrote it is not.",
            "A benchmark replaces only files of its own.",
            "Choose another folder with --output.",
        )


class RecordedRuns:
    """Runs in a file of one JSON object a line, written as they come."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            OutputError: the folder can't be created, or its file is no benchmark's.
        """
        make_folder(folder)
        self._path = folder / LOG
        self._runs = {run.key: run for run in read_lines(self._path, Run.from_dict)}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._runs

    def __getitem__(self, key: tuple[str, ...]) -> Run:
        return self._runs[key]

    def add(self, run: Run) -> None:
        """Keep a run; an earlier one of the same key is replaced."""
        self._runs[run.key] = run
        add_line(self._path, asdict(run))

    def forget(self, methods: Collection[str]) -> None:
        """Drop the runs of some methods, so that they are run again."""
        self._runs = {key: run for key, run in self._runs.items() if run.method not in methods}
        write_text(self._path, "file", "".join(strict_json.dumps(asdict(run)) + "\n" for run in self._runs.values()))
