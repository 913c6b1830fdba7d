"""A list of sentences under their titles; each knows the structures it rests on."""

from __future__ import annotations

from collections.abc import Callable, Collection

import qt

from ..support.text import printable
from . import words

# A sentence on more structures than this says next to nothing of a single one.
_MOST = 12


class SentenceList:
    """Shows sentences (``interpretation.evidence.Sentence``).

    Args:
        widget: The QListWidget.
        chosen: Called with a sentence's structures when the user clicks it or goes to it with the keyboard.
    """

    def __init__(self, widget, chosen: Callable[[tuple[str, ...]], None]) -> None:
        self._widget, self._chosen = widget, chosen
        # None stands for a title.
        self._sentences: list = []
        widget.setWordWrap(True)
        widget.setResizeMode(qt.QListView.Adjust)
        widget.setSpacing(1)
        widget.itemClicked.connect(lambda _item: self._choose())
        widget.currentRowChanged.connect(lambda _row: self._choose())

    @property
    def shown(self) -> list:
        """The sentences that are not filtered away, in order."""
        return [one for index, one in enumerate(self._sentences) if one is not None and not self._widget.item(index).isHidden()]

    @property
    def count(self) -> int:
        """How many sentences there are."""
        return sum(one is not None for one in self._sentences)

    def show(self, groups: list[tuple[str, list]], note: str = "") -> None:
        """Show groups of sentences, each under its title; an empty title takes no line. A note may stand below."""
        blocked = self._widget.blockSignals(True)
        self._widget.clear()
        self._sentences = []
        for title, sentences in groups:
            if title:
                self._add_title(title, bold=True)
            for sentence in sentences:
                item = qt.QListWidgetItem(printable(sentence.text))
                item.setToolTip(printable(words.evidence(sentence), keep="\n"))
                self._widget.addItem(item)
                self._sentences.append(sentence)
        if note:
            self._add_title(note, bold=False)
        self._widget.setCurrentRow(-1)
        self._widget.blockSignals(blocked)

    def clear(self) -> None:
        """Show nothing."""
        self.show([])

    def filter(self, names: Collection[str] | None) -> None:
        """Show only sentences that rest on one of these structures, and on few others; all sentences for None."""
        visible = False
        # From the end: whether a title is shown, the sentences below it decide.
        for index in range(len(self._sentences) - 1, -1, -1):
            sentence = self._sentences[index]
            if sentence is None:
                self._widget.item(index).setHidden(not visible)
                visible = False
            else:
                fits = names is None or _is_about(sentence.structures, names)
                self._widget.item(index).setHidden(not fits)
                visible = visible or fits

    def _add_title(self, title: str, bold: bool) -> None:
        item = qt.QListWidgetItem(printable(title))
        font = item.font()
        font.setBold(bold)
        font.setItalic(not bold)
        item.setFont(font)
        item.setFlags(qt.Qt.ItemIsEnabled)
        self._widget.addItem(item)
        self._sentences.append(None)

    def _choose(self) -> None:
        row = self._widget.currentRow
        row = row() if callable(row) else row
        if 0 <= row < len(self._sentences) and self._sentences[row] is not None:
            self._chosen(self._sentences[row].structures)


def _is_about(structures: tuple[str, ...], names: Collection[str]) -> bool:
    return len(structures) <= max(_MOST, len(names)) and any(name in names for name in structures)
