"""Keyboard shortcuts, there only while the module is entered. Slicer's own keys and the Segment Editor's are left alone."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer


class Shortcuts:
    """Installs and removes shortcuts.

    Args:
        widget: Where they are heard when there is no main window.
        actions: Keys as Qt writes them -> what they do.
    """

    def __init__(self, widget, actions: dict[str, Callable[[], None]]) -> None:
        self._widget, self._actions = widget, actions
        self._installed: list = []

    def install(self) -> None:
        """The module is entered."""
        if self._installed:
            return
        for keys, action in self._actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), slicer.util.mainWindow() or self._widget)
            shortcut.activated.connect(action)
            self._installed.append(shortcut)

    def remove(self) -> None:
        """The module is left."""
        for shortcut in self._installed:
            # Deleted later, but without effect from now on.
            shortcut.enabled = False
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._installed = []
