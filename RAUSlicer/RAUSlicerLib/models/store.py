"""Finds, lists, verifies, adds and removes models: the embedded one and those in the user's folder."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, ModelError, OutputError
from ..support.resources import resource_path
from .folders import STAGING, user_folder
from .manifest import Manifest, is_checkpoint, state, verify_checkpoint

EMBEDDED = "embedded"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ModelFolder:
    """A model: a folder with one checkpoint folder a part, for example ``matching``, ``vlm`` and ``sam2``."""

    name: str
    path: Path
    embedded: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(sorted(folder.name for folder in self.path.iterdir() if folder.is_dir() and is_checkpoint(folder)))

    @property
    def runs(self) -> bool:
        """Whether it can be chosen for a run; others (a backbone, a public SAM2) are what such models are built on."""
        return {"vlm", "sam2"} <= set(self.parts)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for part in self.parts for path in (self.path / part).iterdir())

    @property
    def state(self) -> str:
        """``sound``, ``not checked`` or ``damaged``: the worst of its parts."""
        states = {self.part_state(part) for part in self.parts}
        return next((worst for worst in ("damaged", "not checked") if worst in states), "sound")

    def part_state(self, name: str) -> str:
        """The same of one part."""
        return state(self.part(name))

    def part(self, name: str) -> Path:
        """The checkpoint folder of one part. Raises ModelError: the model has no such part."""
        folder = self.path / name
        if not folder.is_dir():
            raise ModelError(
                f"The model {self.name!r} has no part {name!r}.",
                f"Its folder {str(self.path)!r} holds: {', '.join(self.parts) or 'no checkpoint at all'}.",
                "Choose another model, or install this one again.",
            )
        return folder

    def verify(self) -> dict[str, Manifest]:
        """Compare every file of every part with its checksum. Raises ModelError: a part is damaged, or there is none."""
        if not self.parts:
            raise ModelError(
                f"The model {self.name!r} is empty.",
                f"Its folder {str(self.path)!r} holds no checkpoint folder.",
                "Give a folder whose subfolders are checkpoints (config.json, model.safetensors, README.md, checksums.json).",
            )
        return {name: verify_checkpoint(self.part(name)) for name in self.parts}


def list_models(home: str | Path = "") -> list[ModelFolder]:
    """The embedded models, then the user's (or those in the folder ``home``), by name."""
    shipped = [ModelFolder(folder.name, folder, embedded=True) for folder in _model_folders(resource_path("Models"))]
    return shipped + [ModelFolder(folder.name, folder) for folder in _model_folders(Path(home) if home else user_folder())]


@dataclass(frozen=True)
class Unfinished:
    """A download that was broken off: its repository on the hub, where it lies, and how much of it is here."""

    name: str
    path: Path
    embedded: bool = False
    parts: tuple[str, ...] = ()
    state: str = "unfinished"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def list_unfinished(home: str | Path = "") -> list[Unfinished]:
    """Downloads that were broken off; the same download goes on with them."""
    folder = Path(home) if home else user_folder()
    found = sorted(folder.glob(f"{STAGING}*")) if folder.is_dir() else []
    return [Unfinished(path.name.removeprefix(STAGING).replace("--", "/", 1), path) for path in found]


def resolve(name: str) -> ModelFolder:
    """The model of that name, or the one in the folder that ``name`` is the path of. Raises ModelError: there is no such model."""
    models = {model.name: model for model in reversed(list_models())}
    if name in models:
        return models[name]
    path = Path(name).expanduser()
    if len(path.parts) > 1 and path.is_dir():
        return ModelFolder(path.name, path)
    raise ModelError(
        f"There is no model named {name!r}.",
        f"Known models: {', '.join(sorted(models)) or 'none'} (added ones lie in {str(user_folder())!r}).",
        "Choose one of these, give the path of a model folder, or add one with `rauslicer models add FOLDER`.",
    )


def model_folders(name: str) -> list[Path]:
    """Where the model of a name lies, and all others that it may be built on; nothing else is ever written there."""
    folders = [model.path for model in list_models()]
    chosen = Path(name).expanduser()
    return [*folders, chosen] if len(chosen.parts) > 1 and chosen.is_dir() else folders


def check_name(name: str) -> str:
    """The name, if a new model can have it.

    Raises:
        InputError: it is no plain file name.
        ModelError: it is taken.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can't be a model's name.",
            "Names are folder names: letters, digits, '.', '_' and '-', at most 64 of them.",
            "Choose a name with --name.",
        )
    if any(model.name == name for model in list_models()) or os.path.lexists(user_folder() / name):
        raise ModelError(
            f"A model or folder named {name!r} is there already.",
            "It is not overwritten.",
            f"Remove it first with `rauslicer models remove {name}`, or choose another name with --name.",
        )
    return name


def remove(name: str) -> ModelFolder | Unfinished:
    """Delete a model, or what was downloaded of one (by its repository), from the user's folder; the embedded ones stay.

    Raises:
        ModelError: there is no such model, or it is an embedded one.
        OutputError: it can't be deleted.
    """
    known: list[ModelFolder | Unfinished] = [*list_models(), *list_unfinished()]
    model = next((model for model in known if model.name == name), None)
    if model is None or model.embedded:
        raise ModelError(
            f"The model {name!r} can't be removed.",
            "There is no model of that name." if model is None else "It is part of RAUSlicer.",
            "`rauslicer models list` shows the models you have added.",
        )
    try:
        shutil.rmtree(model.path)
    except OSError as error:
        raise OutputError(
            f"The model folder {str(model.path)!r} can't be deleted.",
            f"The system says: {error.strerror or error}.",
            "Check the permissions of the folder.",
        ) from error
    return model


def _model_folders(home: Path) -> list[Path]:
    if not home.is_dir():
        return []
    found = [folder for folder in home.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(folder for folder in found if any(is_checkpoint(part) for part in folder.iterdir() if part.is_dir()))
