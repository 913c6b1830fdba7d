"""The table of a run's results."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from . import words

_COLUMNS = (_("Structure"), _("Status"), _("Conf."), _("mL"))
_TOOL_TIPS = (
    _("Structure"),
    _("Whether the structure was found in the target volume"),
    _("Expected agreement with a careful hand segmentation"),
    _("Volume in millilitres"),
)
_NUMBERS_FROM = 2


class ResultTable:
    """Shows a run's structures: status in words, confidence and volume as numbers."""

    def __init__(self, widget) -> None:
        self._widget = widget
        self._widget.setColumnCount(len(_COLUMNS))
        self._widget.setHorizontalHeaderLabels(_COLUMNS)
        for column, text in enumerate(_TOOL_TIPS):
            self._widget.horizontalHeaderItem(column).setToolTip(text)
        self._widget.verticalHeader().hide()
        # Long names take a second line: what is cut off may be the side.
        self._widget.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header = self._widget.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)

    def show(self, results) -> None:
        """Show a sequence of StructureResult, in its order."""
        self._widget.setRowCount(len(results))
        for row, result in enumerate(results):
            status = str(result.status.value)
            texts = (
                result.structure.name,
                words.status(status),
                words.confidence(result.confidence, status),
                words.volume(result.volume_ml),
            )
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                if column >= _NUMBERS_FROM:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self._widget.setItem(row, column, item)

    def clear(self) -> None:
        self._widget.setRowCount(0)
