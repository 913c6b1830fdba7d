"""The YAML file of `rauslicer train`: what it may say, with defaults from the paper."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import InputError, ResourceError
from ..full_size.slice_reader import Lora
from ..imaging.headers import require_file
from ..support.header_fields import Unsound


class Stage(StrEnum):
    """The recipe's stages, in their order."""

    SFT = "sft"
    SEGMENTATION = "segmentation"
    GRPO = "grpo"


@dataclass(frozen=True)
class StageSettings:
    """One stage: ``steps`` of ``batch`` pairs of slices at the highest learning rate ``rate``; 0 steps leave it out.

    In GRPO ``group`` answers in words are drawn a question, of at most ``tokens`` tokens at ``temperature``, and ``draws`` boxes a
    structure, ``noise`` of a box's sides around the one that is answered.
    """

    steps: int
    rate: float
    batch: int = 1
    group: int = 4
    tokens: int = 256
    temperature: float = 1.0
    draws: int = 8
    noise: float = 0.08


_DEFAULTS = {
    Stage.SFT: StageSettings(2000, 2e-4),
    Stage.SEGMENTATION: StageSettings(1000, 1e-4),
    Stage.GRPO: StageSettings(300, 2e-5),
}


@dataclass(frozen=True)
class RecipeConfig:
    """What is trained on what, and where it goes.

    ``model`` is an installed model, ``embedded`` or one with a large backbone (`rauslicer models compose`), ``data`` a folder with
    ``splits.json`` and one folder a domain, ``domains`` their shares of the steps, ``output`` the folder of states, logs and the trained
    model. With ``questions`` so many are drawn once and kept in memory (a few MB each with the embedded model, tens with SAM2.1); 0 draws
    each step's anew.
    """

    model: str
    data: Path
    output: Path
    domains: dict[str, float]
    lora: Lora = field(default_factory=Lora)
    stages: dict[Stage, StageSettings] = field(default_factory=lambda: dict(_DEFAULTS))
    device: str = "auto"
    precision: str = "auto"
    checkpointing: bool = True
    tensorboard: bool = True
    threads: int = 2
    seed: int = 0
    save_every: int = 100
    val_pairs: int = 50
    questions: int = 0


def read_config(path: Path) -> RecipeConfig:
    """The configuration in a YAML file; paths in it are relative to the current folder.

    Raises:
        InputError: it can't be read, lacks something, or says something unknown.
        ResourceError: the package PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise ResourceError(
            "The package 'PyYAML' is missing.", "The recipe's configuration is YAML.", "Install it: pip install 'rauslicer[train]'."
        ) from error
    try:
        require_file(path)
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Unsound as error:
        raise _bad(path, error.reason) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _bad(path, (str(error) or "It is damaged.").splitlines()[0]) from error
    if not isinstance(document, dict):
        raise _bad(path, "It is no mapping of names to values.")
    return config_of(document, path)


def config_of(document: dict[str, Any], path: Path) -> RecipeConfig:
    """The same of what the file says.

    Raises:
        InputError: see `read_config`.
    """
    values = dict(document)
    _known(values, {one.name for one in fields(RecipeConfig)}, "", path)
    missing = [key for key in ("model", "data", "output", "domains") if key not in values]
    if missing:
        raise _bad(path, f"It lacks {missing[0]!r}.")
    domains = values["domains"]
    if not isinstance(domains, dict) or not domains or not all(_positive(share) for share in domains.values()):
        raise _bad(path, f"'domains' is {domains!r}; it maps folders of the data to their shares, for example {{heart_mr: 1.0}}.")
    total = sum(domains.values())
    values["domains"] = {str(name): share / total for name, share in domains.items()}
    values["data"], values["output"] = Path(str(values["data"])), Path(str(values["output"]))
    given = values.pop("lora", None) or {}
    _known(given, {one.name for one in fields(Lora)}, "lora.", path)
    values["lora"] = Lora.from_dict(given)
    stages = values.pop("stages", None) or {}
    _known(stages, set(Stage), "stages.", path)
    made = {}
    for stage, default in _DEFAULTS.items():
        changes = stages.get(stage) or {}
        _known(changes, {one.name for one in fields(StageSettings)}, f"stages.{stage}.", path)
        wrong = [key for key, value in changes.items() if not (_positive(value) or (key == "steps" and value == 0))]
        if wrong:
            raise _bad(path, f"'stages.{stage}.{wrong[0]}' is {changes[wrong[0]]!r}, which is no positive number.")
        made[stage] = StageSettings(**{**{one.name: getattr(default, one.name) for one in fields(StageSettings)}, **changes})
    for key in ("group", "draws"):
        if getattr(made[Stage.GRPO], key) < 2:
            raise _bad(path, f"'stages.grpo.{key}' must be 2 or more: answers are judged against each other.")
    values["stages"] = made
    return RecipeConfig(**values)


def _positive(value: object) -> bool:
    return type(value) in (int, float) and value > 0  # type: ignore[operator]


def _known(values: object, names: set[Any], prefix: str, path: Path) -> None:
    if not isinstance(values, dict):
        raise _bad(path, f"'{prefix.rstrip('.')}' is {values!r} and no mapping.")
    unknown = [key for key in values if key not in names]
    if unknown:
        raise _bad(path, f"It says '{prefix}{unknown[0]}'; known are {', '.join(sorted(names))}.")


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"The configuration {str(path)!r} can't be used.", why, "docs/full-size-models.md has a whole one to start from.")
