"""The button, what takes its place during a run, and the message box below."""

from __future__ import annotations

import time
from collections.abc import Callable

from slicer.i18n import tr as _

from ..support.text import printable
from . import words
from .remaining import TimeLeft


class RunSection:
    """Shows that a run can start, how far it has come, or what went wrong.

    Args:
        ui: The panel's widgets.
        clock: Seconds of any clock.
    """

    def __init__(self, ui, clock: Callable[[], float] = time.monotonic) -> None:
        self._ui, self._clock = ui, clock
        self._left = TimeLeft()
        self._running: bool | None = None
        self.hide_message()
        self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Put Cancel and the progress in the button's place, or the button back. Does nothing where it is so already."""
        if running == self._running:
            return
        if running:
            self._left.start(self._clock())
            self.progressed("starting", 0.0, None)
        self._running = running
        had_focus = self._ui.transferButton.hasFocus() or self._ui.cancelButton.hasFocus()
        self._ui.transferButton.visible = not running
        self._ui.cancelButton.visible = running
        self._ui.cancelButton.enabled = True
        self._ui.cancelButton.text = _("Cancel")
        self._ui.progressBar.visible = running
        self._ui.progressLabel.visible = running
        if had_focus:
            # Otherwise the keyboard's focus would jump to another section.
            (self._ui.cancelButton if running else self._ui.transferButton).setFocus()

    def show_cancelling(self) -> None:
        """The user has pressed Cancel; the worker finishes what it can't interrupt."""
        self._ui.cancelButton.enabled = False
        self._ui.cancelButton.text = _("Cancelling…")

    def progressed(self, stage: str, fraction: float, structure: str | None) -> None:
        """Show one step."""
        now = self._clock()
        self._left.note(fraction, now)
        self._ui.progressBar.value = round(100 * fraction)
        self._ui.progressLabel.text = words.progress(stage, structure, self._left.text(now))

    def offer(self, text: str, reason: str | None, note: str, tool_tip: str) -> None:
        """Say what the button does, or why it can't; ``note`` is a remark where it can."""
        self._ui.transferButton.enabled = reason is None
        self._ui.transferButton.text = text
        self._ui.transferButton.toolTip = reason or tool_tip
        self._ui.reasonLabel.text = reason or note
        self._ui.reasonLabel.visible = bool(reason or note) and not self._running

    def show_message(self, problem: str, explanation: str = "", solution: str = "") -> None:
        """Show a problem, its explanation and its solution; empty ones take no room."""
        for label, text in (
            (self._ui.problemLabel, problem),
            (self._ui.explanationLabel, explanation),
            (self._ui.solutionLabel, solution),
        ):
            label.text = printable(text, keep="\n")
            label.visible = bool(text)
        self._ui.messageBox.visible = True

    def hide_message(self) -> None:
        """Clear the message box."""
        self._ui.messageBox.visible = False
