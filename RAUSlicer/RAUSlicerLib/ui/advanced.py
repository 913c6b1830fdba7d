"""The Advanced section: model and device of this scene, limits and folders of this computer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import qt
from slicer.i18n import tr as _

from . import settings
from .models_section import ModelsSection

_EMBEDDED = "embedded"


class AdvancedSection:
    """Shows and changes what the usual case leaves alone.

    Args:
        ui: The panel's widgets.
        model_chosen: Called with a model's name or folder when the user chooses one.
        worker_changed: Called when a setting was changed that a worker takes up only when it starts.
    """

    def __init__(self, ui, model_chosen: Callable[[str], None], worker_changed: Callable[[], None]) -> None:
        self._ui, self._model_chosen, self._worker_changed = ui, model_chosen, worker_changed
        self._names: list[str] = []
        self.models = ModelsSection(ui.advancedSection.layout(), self._models_changed)
        self.refresh_settings()
        ui.modelBox.currentIndexChanged.connect(self._choose_model)
        ui.threadsBox.valueChanged.connect(self._save)
        ui.memoryBox.valueChanged.connect(self._save)
        ui.modelsFolderEdit.editingFinished.connect(self._save)
        ui.pythonEdit.editingFinished.connect(self._save)
        ui.modelsFolderButton.clicked.connect(self._browse_models)
        ui.pythonButton.clicked.connect(self._browse_python)

    def refresh_settings(self) -> None:
        """Show the settings of this computer."""
        chosen = settings.load()
        values = (
            (self._ui.threadsBox, "value", chosen.threads),
            (self._ui.memoryBox, "value", chosen.memory_mb // 1000),
            (self._ui.modelsFolderEdit, "text", chosen.models_folder),
            (self._ui.pythonEdit, "text", chosen.python),
        )
        for widget, name, value in values:
            blocked = widget.blockSignals(True)
            setattr(widget, name, value)
            widget.blockSignals(blocked)

    def show_model(self, name: str) -> None:
        """List the embedded model and those of the models folder, and show which one is chosen."""
        folder = settings.load().models_folder
        names = [_EMBEDDED, *_models_in(folder)]
        if name not in names:
            names.append(name)
        blocked = self._ui.modelBox.blockSignals(True)
        if names != self._names:
            self._names = names
            self._ui.modelBox.clear()
            self._ui.modelBox.addItems([_("Embedded") if item == _EMBEDDED else Path(item).name for item in names])
        self._ui.modelBox.setCurrentIndex(names.index(name))
        self._ui.modelBox.toolTip = _("The model that comes with the extension, or one from the models folder.") + f"\n{name}"
        self._ui.modelBox.blockSignals(blocked)

    def _models_changed(self) -> None:
        index = self._ui.modelBox.currentIndex
        index = index() if callable(index) else index
        if 0 <= index < len(self._names):
            self.show_model(self._names[index])

    def _choose_model(self, index: int) -> None:
        if 0 <= index < len(self._names):
            self._model_chosen(self._names[index])

    def _save(self, *_arguments) -> None:
        before = settings.load()
        chosen = replace(
            before,
            threads=self._ui.threadsBox.value,
            memory_mb=1000 * self._ui.memoryBox.value,
            models_folder=self._ui.modelsFolderEdit.text.strip(),
            python=self._ui.pythonEdit.text.strip(),
        )
        if chosen == before:
            return
        settings.save(chosen)
        if (chosen.python, chosen.models_folder) != (before.python, before.models_folder):
            self._worker_changed()

    def _browse_models(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(self._ui.advancedSection, _("Folder of models"), self._ui.modelsFolderEdit.text)
        if chosen:
            self._ui.modelsFolderEdit.text = chosen
            self._save()

    def _browse_python(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(self._ui.advancedSection, _("Python of the worker"), self._ui.pythonEdit.text)
        # PythonQt returns the path, PySide a pair of path and filter.
        path = chosen if isinstance(chosen, str) else chosen[0]
        if path:
            self._ui.pythonEdit.text = path
            self._save()


def _models_in(folder: str) -> list[str]:
    """Names of the models in the user's folder; an unreadable folder has none, and the run says so when one is asked for."""
    from ..models.store import ModelFolder, user_folder

    root = Path(folder) if folder else user_folder()
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    return [path.name for path in folders if not path.name.startswith(".") and ModelFolder(path.name, path).runs]
