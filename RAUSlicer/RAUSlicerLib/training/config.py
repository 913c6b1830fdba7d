"""What is trained on what, and where it goes: the YAML file of `rauslicer train`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .datasets import SHIPPED, Datasets, load, parse
from .forms import filled, read_yaml, require_known, unusable
from .loop import Settings
from .settings import CalibrationTraining, MatchingTraining, RauTraining, RefinerTraining, RegionTraining, Schedule

_DATASET_KEYS = ("label_sets", "invented")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A configuration with its data sets.

    ``data`` is the folder that those of the sets are in. ``start`` is a model that training goes on from, ``""`` for random weights.
    ``output`` gets a folder for each stage, and the model. ``scores`` and ``licence`` go into the model's cards; with ``bits`` its weights
    are rounded to so many.
    """

    data: Path
    output: Path
    datasets: Datasets
    source: Path
    start: str = ""
    device: str = "auto"
    threads: int = 2
    seed: int = 0
    licence: str = ""
    scores: str = ""
    bits: int | None = None
    matching: MatchingTraining = field(default_factory=MatchingTraining)
    refiner: RefinerTraining = field(default_factory=RefinerTraining)
    rau: RauTraining = field(default_factory=RauTraining)
    regions: RegionTraining = field(default_factory=RegionTraining)
    calibration: CalibrationTraining = field(default_factory=CalibrationTraining)

    def settings(self, folder: str, schedule: Schedule, start: str | None = None) -> Settings:
        """How a stage with a schedule trains into a folder of the output."""
        how: dict[str, Any] = {one.name: getattr(schedule, one.name) for one in fields(Schedule)}
        how |= {"output": self.output / folder, "start": self.start if start is None else start}
        return Settings(**how, device=self.device, threads=self.threads, seed=self.seed)

    @property
    def model(self) -> Path:
        """The folder of the model that is exported."""
        return self.output / "model"

    def state(self, folder: str) -> Path | None:
        """What a stage has left so far; None if it has not begun."""
        file = self.output / folder / "state.pt"
        return file if file.is_file() else None

    def described(self, stage: str) -> dict[str, object]:
        """How a stage was trained, for a model's card."""
        return asdict(getattr(self, stage))


def read_config(path: Path, output: Path | None = None) -> TrainConfig:
    """The configuration in a file; ``output`` counts more than what it says. Paths in it are relative to the current folder.

    Raises:
        InputError: it can't be read, lacks something, or says something unknown.
        ResourceError: the package PyYAML is missing.
    """
    values = read_yaml(path)
    known = [one.name for one in fields(TrainConfig) if one.name != "source"]
    require_known(values, [*known, *_DATASET_KEYS], path, "")
    given = values.get("datasets")
    if "data" not in values and not isinstance(given, dict):
        raise unusable(path, "It lacks 'data', the folder of the data sets.")
    data = Path(str(values.get("data", ".")))
    if isinstance(given, dict):
        described = {key: values[key] for key in ("datasets", *_DATASET_KEYS) if key in values}
        datasets = parse(described, path, data)
    else:
        if any(key in values for key in _DATASET_KEYS):
            raise unusable(path, "'label_sets' and 'invented' belong to 'datasets', which stand in another file.")
        datasets = load(Path(str(given)) if given else SHIPPED, data)
    rest = {key: value for key, value in values.items() if key not in ("datasets", "data", *_DATASET_KEYS)}
    if output is not None:
        rest["output"] = output
    return filled(TrainConfig, rest, path, data=data, datasets=datasets, source=path)
