"""The log that a user can copy and send: versions, settings, stages with their times, what went wrong. No names of patients or files."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from .. import __version__
from ..support.text import printable

_MOST_LINES = 500
# How long the button says that the log was copied.
_COPIED_MS = 1500


class PanelLog:
    """Lines with their time; names that were given to ``hide`` don't appear in them."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lines: list[str] = []
        self._hidden: dict[str, str] = {}

    def hide(self, names: dict[str, str]) -> None:
        """Replace these texts (names of volumes carry names of patients) by others, from now on and when the log is read."""
        # Messages repeat a name as it can be shown.
        self._hidden.update({shown: other for name, other in names.items() for shown in (name, printable(name)) if shown})

    def add(self, line: str) -> None:
        """Add a line, with the time of day."""
        self._lines = [*self._lines, f"{time.strftime('%H:%M:%S')} {printable(line)}"][-_MOST_LINES:]
        self._changed()

    def text(self, worker_log: str) -> str:
        """Everything that is needed to understand a failure."""
        head = [
            f"RAUSlicer {__version__}",
            f"{slicer.app.applicationName} {slicer.app.applicationVersion}",
            f"Python {platform.python_version()}, {platform.platform()}",
        ]
        parts = ["\n".join(head), "\n".join(self._lines)]
        if worker_log:
            parts.append(_("Worker:") + "\n" + worker_log)
        return self._cleaned("\n\n".join(part for part in parts if part))

    def _cleaned(self, text: str) -> str:
        # The longest first: one name may be part of another.
        for name in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(name, self._hidden[name])
        return text.replace(str(Path.home()), "~")


class LogSection:
    """Shows the log when its section is open, and copies it."""

    def __init__(self, ui, worker_log: Callable[[], str]) -> None:
        self._ui, self._worker_log = ui, worker_log
        self.log = PanelLog(self.refresh)
        ui.logSection.contentsCollapsed.connect(self.refresh)
        ui.copyLogButton.clicked.connect(self._copy)
        self._copied = qt.QTimer()
        self._copied.setSingleShot(True)
        self._copied.setInterval(_COPIED_MS)
        self._copied.timeout.connect(self._reset_button)

    def refresh(self, *_arguments) -> None:
        """Show the log as it is now."""
        if not self._ui.logSection.collapsed:
            self._ui.logText.setPlainText(self.log.text(self._worker_log()))
            bar = self._ui.logText.verticalScrollBar()
            bar.setValue(bar.maximum)

    def _copy(self) -> None:
        qt.QApplication.clipboard().setText(self.log.text(self._worker_log()))
        self._ui.copyLogButton.text = _("Copied")
        self._copied.start()

    def cleanup(self) -> None:
        """The module is going away."""
        self._copied.stop()

    def _reset_button(self) -> None:
        self._ui.copyLogButton.text = _("Copy log")
