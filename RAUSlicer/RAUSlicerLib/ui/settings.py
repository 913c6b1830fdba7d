"""Settings of this computer, kept by the application and not in the scene: another computer has other ones."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

import slicer

_GROUP = "RAUSlicer/"


@dataclass(frozen=True)
class ComputerSettings:
    """How the worker runs here.

    ``python`` is another interpreter for the worker, empty for Slicer's own. ``models_folder`` is where further models lie, empty for the
    user's data folder. ``threads`` and ``memory_mb`` are limits, 0 for none.
    """

    python: str = ""
    models_folder: str = ""
    threads: int = 0
    memory_mb: int = 0


def load() -> ComputerSettings:
    """The settings as they are saved; what can't be read counts as not set."""
    settings = slicer.app.settings()
    return ComputerSettings(
        python=str(settings.value(_GROUP + "Python", "") or ""),
        models_folder=str(settings.value(_GROUP + "ModelsFolder", "") or ""),
        threads=_number(settings.value(_GROUP + "Threads", 0)),
        memory_mb=_number(settings.value(_GROUP + "MemoryMB", 0)),
    )


def worker_python() -> tuple[str, dict[str, str]]:
    """The Python that the worker runs in, this application's own or the one in the settings, and its environment."""
    chosen = load()
    # Another Python must not see the library paths that Slicer set for its own.
    environment = dict(slicer.util.startupEnvironment() if chosen.python else os.environ)
    if chosen.models_folder:
        environment["RAUSLICER_MODELS"] = chosen.models_folder
    return chosen.python or shutil.which("PythonSlicer") or sys.executable, environment


def save(chosen: ComputerSettings) -> None:
    """Save the settings for this and later sessions."""
    settings = slicer.app.settings()
    settings.setValue(_GROUP + "Python", chosen.python)
    settings.setValue(_GROUP + "ModelsFolder", chosen.models_folder)
    settings.setValue(_GROUP + "Threads", chosen.threads)
    settings.setValue(_GROUP + "MemoryMB", chosen.memory_mb)


def _number(value) -> int:
    # Settings files keep texts, and people edit them.
    try:
        return max(int(value), 0)
    except (TypeError, ValueError):
        return 0
