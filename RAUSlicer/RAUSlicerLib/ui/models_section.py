"""The models of this computer: what is installed, how large, under which licence, whether it is sound; add, download, remove.

Adding and downloading run in a process of the worker's Python: they read gigabytes, and need packages that Slicer's own process must not
load.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ..support.text import printable
from . import settings

_POLL_MS = 300
# What is asked to stop tidies up first; what has not by then is ended.
_SECONDS_TO_STOP = 5.0
_PERCENT = re.compile(r"(\d+) % of (\d+) MB")
# The first line of a download is for those who sit at a terminal.
_FOR_TERMINALS = "Downloading "


class ModelsSection:
    """A table with its buttons, below the other rows of a form.

    Args:
        layout: The form's layout.
        changed: Called when a model was added or removed.
    """

    def __init__(self, layout, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._process = None
        self._readers: list[threading.Thread] = []
        self._said: dict[str, deque[str]] = {}
        self._cancelled_at: float | None = None
        self._downloading = ""
        self._models: list = []
        self.table = qt.QTableWidget()
        self.table.setColumnCount(4)
        self.table.setHorizontalHeaderLabels([_("Model"), _("Size"), _("Licence"), _("Files")])
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setHighlightSections(False)
        # In a narrow panel the licence is cut off, and its tool tip has all of it.
        for column in range(4):
            how = qt.QHeaderView.Stretch if column == 2 else qt.QHeaderView.ResizeToContents
            self.table.horizontalHeader().setSectionResizeMode(column, how)
        self.table.setWordWrap(False)
        self.table.setAccessibleName(_("Installed models"))
        self.table.setFixedHeight(130)
        row = qt.QWidget()
        buttons = qt.QHBoxLayout(row)
        buttons.setContentsMargins(0, 0, 0, 0)
        add = _("Bring in a model's folder, a vision-language model or a SAM2.1 checkpoint.")
        self.add_button = _button(_("Add…"), _("Add a model"), add, self._add)
        download = _("Fetch a public model from the Hugging Face hub.")
        self.download_button = _button(_("Download…"), _("Download a model"), download, self._download)
        self.remove_button = _button(_("Remove"), _("Remove the model"), _("Delete the selected model from this computer."), self._remove)
        for button in (self.add_button, self.download_button, self.remove_button):
            buttons.addWidget(button)
        self.progress = qt.QProgressBar()
        self.progress.setRange(0, 100)
        self.progress.setAccessibleName(_("Progress of the download"))
        self.progress.setVisible(False)
        self.cancel_button = _button(_("Cancel"), _("Cancel"), _("Stop. A download can be resumed later."), self.cancel)
        self.cancel_button.setVisible(False)
        # Where the one to cancel was: a fourth beside the others would make the panel wider.
        resume = _("Go on with the selected download where it stopped.")
        self.resume_button = _button(_("Resume download"), _("Resume the download"), resume, self._resume)
        self.resume_button.setVisible(False)
        self.message = qt.QLabel()
        self.message.setTextFormat(qt.Qt.PlainText)
        self.message.setWordWrap(True)
        # In one widget: a form's rows with a table and a text that wraps came to lie over each other.
        whole = qt.QWidget()
        column_of = qt.QVBoxLayout(whole)
        column_of.setContentsMargins(0, 0, 0, 0)
        for widget in (self.table, row, self.message, self.progress, self.cancel_button, self.resume_button):
            column_of.addWidget(widget)
        self.message.setVisible(False)
        layout.addRow(whole)
        self._timer = qt.QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)
        self.table.itemSelectionChanged.connect(self._show_buttons)
        self.refresh()

    def refresh(self) -> None:
        """Read the folders again."""
        self._models = _installed()
        self.table.setRowCount(len(self._models))
        for number, model in enumerate(self._models):
            licences = ", ".join(sorted(_licences(model))) or _("unknown")
            for column, text in enumerate((model.name, _size(model.size), licences, _STATES[model.state]())):
                item = qt.QTableWidgetItem(printable(text))
                item.setToolTip(printable(str(model.path) if column == 0 else text))
                self.table.setItem(number, column, item)
        self._show_buttons()

    def _selected(self):
        row = self.table.currentRow() if callable(self.table.currentRow) else self.table.currentRow
        return self._models[row] if 0 <= row < len(self._models) and self.table.selectedItems() else None

    def _show_buttons(self) -> None:
        busy, model = self._process is not None, self._selected()
        self.add_button.setEnabled(not busy)
        self.download_button.setEnabled(not busy)
        self.cancel_button.setVisible(busy)
        self.resume_button.setVisible(not busy and model is not None and model.state == "unfinished")
        self.remove_button.setEnabled(not busy and model is not None and not model.embedded)

    def _add(self, *_arguments) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.table, _("Folder of a model"))
        if folder:
            self.run("add", folder)

    def _download(self, *_arguments) -> None:
        asked = _("Repository on the Hugging Face hub, for example Qwen/Qwen3-VL-4B-Instruct or facebook/sam2.1-hiera-large:")
        answer = qt.QInputDialog.getText(self.table, _("Download a model"), asked)
        # PythonQt returns the text, PySide a pair of text and whether it was accepted.
        text = answer if isinstance(answer, str) else answer[0] if answer[1] else ""
        if text.strip():
            self.run("download", text.strip())

    def _resume(self, *_arguments) -> None:
        model = self._selected()
        if model is not None:
            self.run("download", model.name)

    def _remove(self, *_arguments) -> None:
        model = self._selected()
        if model is None:
            return
        question = _("Delete the model {name} ({size}) from this computer?").format(name=model.name, size=_size(model.size))
        if slicer.util.confirmYesNoDisplay(question):
            self.run("remove", model.name)

    def run(self, *arguments: str) -> None:
        """Let ``rauslicer models`` do something, in the background."""
        from ..service.process import start

        python, environment = settings.worker_python()
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        try:
            self._process = start([python, "-m", "RAUSlicerLib.cli", "models", *arguments], environment)
        except OSError as error:
            self._say(_("It can't be started: {error}").format(error=error))
            return
        self._said = {name: deque(maxlen=200) for name in ("stdout", "stderr")}
        self._readers = [threading.Thread(target=_read, args=(getattr(self._process, name), kept)) for name, kept in self._said.items()]
        for reader in self._readers:
            reader.daemon = True
            reader.start()
        self._cancelled_at = None
        self.cancel_button.setEnabled(True)
        self._downloading = arguments[1] if arguments[0] == "download" else ""
        words = _("Downloading {what}.") if self._downloading else _("Working: {what}. This may take minutes.")
        self._say(words.format(what=self._downloading or " ".join(arguments)))
        self._timer.start()
        self._show_buttons()

    def _say(self, text: str) -> None:
        self.message.setText(printable(text, keep="\n"))
        self.message.setVisible(bool(text))

    def cancel(self, *_arguments) -> None:
        """Stop what is running; what was downloaded stays, to be gone on with."""
        if self._process is None or self._cancelled_at is not None:
            return
        self._cancelled_at = time.monotonic()
        self.cancel_button.setEnabled(False)
        self._say(_("Stopping…"))
        if sys.platform == "win32":
            self._end()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)

    def _poll(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            if self._cancelled_at is not None and time.monotonic() - self._cancelled_at > _SECONDS_TO_STOP:
                self._end()
            self._show_progress()
            return
        self._timer.stop()
        for reader in self._readers:
            reader.join(2)
        done, cancelled = self._process.returncode == 0, self._cancelled_at is not None
        self._process = None
        self.progress.setVisible(False)
        lines = [line.strip() for line in self._said["stdout" if done else "stderr"] if not _PERCENT.match(line)]
        self.refresh()
        self._changed()
        begun = None if done else self._select_unfinished()
        if not cancelled or done:
            self._say("\n".join([line for line in lines if not line.startswith(_FOR_TERMINALS)][-3:]))
        elif begun is None:
            self._say(_("Cancelled."))
        else:
            self._say(_("Cancelled. What has arrived is kept, and can be gone on with."))

    def _select_unfinished(self):
        """The download that was broken off, selected so that its button to go on is seen; None where nothing of it is here."""
        for number, model in enumerate(self._models):
            if model.state == "unfinished" and model.name == self._downloading:
                self.table.selectRow(number)
                return model
        return None

    def _show_progress(self) -> None:
        found = [match for line in list(self._said["stdout"]) if (match := _PERCENT.match(line))]
        if found:
            self.progress.setValue(int(found[-1][1]))
            self.progress.setFormat(_("%p % of {size}").format(size=_size(int(found[-1][2]) * 10**6)))
            self.progress.setVisible(True)

    def _end(self) -> None:
        from ..service.process import end_tree

        end_tree(self._process)

    def close(self) -> None:
        """End what is running; a download goes on from there when it is asked for again."""
        self._timer.stop()
        if self._process is not None:
            self._end()
            self._process = None


def _read(stream, kept: deque) -> None:
    with stream:
        for line in stream:
            kept.append(line.decode("utf-8", "replace").rstrip())


def _button(text: str, name: str, tip: str, clicked: Callable[..., None]):
    button = qt.QPushButton(text)
    button.setAccessibleName(name)
    button.setToolTip(tip)
    button.clicked.connect(clicked)
    return button


_STATES = {
    "sound": lambda: _("sound"),
    "not checked": lambda: _("not checked"),
    "damaged": lambda: _("damaged"),
    "unfinished": lambda: _("unfinished"),
}


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _installed() -> list:
    from ..models.store import list_models, list_unfinished

    home = settings.load().models_folder
    return [*list_models(home), *list_unfinished(home)]


def _licences(model) -> set[str]:
    from ..errors import ModelError
    from ..full_size.download import SUGGESTED
    from ..models.manifest import read_manifest

    # An unfinished download has no card yet.
    out = {SUGGESTED[model.name]} if model.name in SUGGESTED else set()
    for part in model.parts:
        try:
            out.add(read_manifest(model.part(part)).licence)
        except ModelError:
            out.add("?")
    return out
