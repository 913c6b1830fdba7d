"""The table of a result's structures."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from . import words
from .structures import swatch

_NAME, _STATUS, _CONFIDENCE, _VOLUME, _REFERENCE, _RATIO = range(6)
_HEADERS = (_("Structure"), _("Status"), _("Confidence"), _("mL"), _("Ref. mL"), _("Ratio"))
_TOOL_TIPS = (
    _("Structure; a click shows it in the views"),
    _("Whether the structure was found in the target volume, and whether somebody has accepted it"),
    _("Expected agreement with a careful hand segmentation"),
    _("Volume in millilitres, as the segment is now"),
    _("Volume of the reference's structure in millilitres"),
    _("Volume divided by the reference's"),
)
_NARROW_HEADERS = {_NAME: _("Structure, mL / ref."), _CONFIDENCE: _("Confidence")}
# Narrower than this (pixels), volumes go below the name and the status below the confidence.
_WIDE = 460
_BAR_WIDTH, _BAR_HEIGHT = 48, 10


class ResultTable:
    """Shows rows (``scene.record.Row``): status in words, confidence as number and bar, volumes beside the reference's.

    Args:
        widget: The QTableWidget.
        selected: Called without arguments when the user selects other rows.
    """

    def __init__(self, widget, selected: Callable[[], None]) -> None:
        self._widget = widget
        self._selected = selected
        self._rows: list = []
        self._order: tuple[int, bool] | None = None
        self._wide: bool | None = None
        widget.setColumnCount(len(_HEADERS))
        widget.setHorizontalHeaderLabels(_HEADERS)
        for column, text in enumerate(_TOOL_TIPS):
            widget.horizontalHeaderItem(column).setToolTip(text)
        widget.verticalHeader().hide()
        header = widget.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        header.setSectionsClickable(True)
        header.setHighlightSections(False)
        header.sectionClicked.connect(self._sort_by)
        header.sectionResized.connect(self._resized)
        widget.itemSelectionChanged.connect(self._selection_changed)

    @property
    def rows(self) -> list:
        """The rows in the order they are shown."""
        return list(self._rows)

    @property
    def selected(self) -> list:
        """The selected rows."""
        indices = sorted({index.row() for index in self._widget.selectionModel().selectedRows()})
        return [self._rows[index] for index in indices if index < len(self._rows)]

    def show(self, rows: list) -> None:
        """Show these rows; what was selected stays selected."""
        if sorted(map(repr, rows)) == sorted(map(repr, self._rows)) and self._wide is not None:
            return
        self._rows = self._sorted(rows)
        self._fill()

    def clear(self) -> None:
        self.show([])

    def select(self, key: str) -> None:
        """Select the row of a structure, as a click does."""
        index = next((index for index, row in enumerate(self._rows) if row.key == key), None)
        if index is not None:
            self._widget.selectRow(index)

    def select_all(self, keys: list[str]) -> None:
        """Select the rows of several structures and scroll to the first; other rows are no longer selected."""
        model, selection = self._widget.model(), self._widget.selectionModel()
        blocked = self._widget.blockSignals(True)
        self._widget.clearSelection()
        indices = [index for index, row in enumerate(self._rows) if row.key in keys]
        for index in indices:
            selection.select(model.index(index, 0), qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows)
        if indices:
            selection.setCurrentIndex(model.index(indices[0], 0), qt.QItemSelectionModel.NoUpdate)
            self._widget.scrollToItem(self._widget.item(indices[0], 0))
        self._widget.blockSignals(blocked)
        self._selection_changed()

    def select_next(self, step: int) -> None:
        """Select the next (1) or the previous (-1) row."""
        if self._rows:
            current = self._widget.currentRow() if self.selected else (-1 if step > 0 else len(self._rows))
            self._widget.selectRow(min(max(current + step, 0), len(self._rows) - 1))

    def _fill(self) -> None:
        kept = {row.key for row in self.selected}
        blocked = self._widget.blockSignals(True)
        self._wide = self._widget.width >= _WIDE
        for column in (_STATUS, _VOLUME, _REFERENCE, _RATIO):
            self._widget.setColumnHidden(column, not self._wide)
        for column, text in _NARROW_HEADERS.items():
            self._widget.horizontalHeaderItem(column).setText(_HEADERS[column] if self._wide else text)
        self._widget.setRowCount(0)
        self._widget.setRowCount(len(self._rows))
        for index, row in enumerate(self._rows):
            self._fill_row(index, row)
        self._widget.clearSelection()
        model, selection = self._widget.model(), self._widget.selectionModel()
        for index, row in enumerate(self._rows):
            if row.key in kept:
                selection.select(model.index(index, 0), qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows)
        self._widget.blockSignals(blocked)
        # The heights depend on the width that the name gets, which Qt settles later.
        qt.QTimer.singleShot(0, self._widget.resizeRowsToContents)

    def _fill_row(self, index: int, row) -> None:
        status, ratio = words.status(row), words.ratio(row.ratio)
        volume = words.volume(row.volume_ml) if row.present else "–"
        reference = words.volume(row.reference_volume_ml)
        below = _("{volume} / {reference} ({ratio})").format(volume=volume, reference=reference, ratio=ratio)
        texts = {
            _NAME: row.name if self._wide else f"{row.name}\n{below}",
            _STATUS: status,
            _CONFIDENCE: "",
            _VOLUME: volume,
            _REFERENCE: reference,
            _RATIO: ratio,
        }
        tool_tips = {_NAME: row.name if self._wide else f"{row.name}\n{words.ratio_tool_tip(row.ratio)}", _CONFIDENCE: status}
        for column, text in texts.items():
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tool_tips.get(column, words.ratio_tool_tip(row.ratio) if column == _RATIO else text))
            if column >= _VOLUME:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            self._widget.setItem(index, column, item)
        self._widget.item(index, _NAME).setIcon(swatch(row.color))
        self._widget.setCellWidget(index, _CONFIDENCE, _confidence(row, None if self._wide else status))

    def _sorted(self, rows: list) -> list:
        if self._order is None:
            return list(rows)
        column, descending = self._order
        keys: dict[int, Callable] = {
            _NAME: lambda row: row.name.casefold(),
            _STATUS: lambda row: (row.accepted, words.status(row)),
            _CONFIDENCE: lambda row: row.confidence,
            _VOLUME: lambda row: row.volume_ml,
            _REFERENCE: lambda row: row.reference_volume_ml,
            _RATIO: lambda row: row.ratio or 0.0,
        }
        return sorted(rows, key=keys[column], reverse=descending)

    def _sort_by(self, column: int) -> None:
        descending = self._order == (column, False)
        self._order = (column, descending)
        header = self._widget.horizontalHeader()
        header.setSortIndicatorShown(True)
        header.setSortIndicator(column, qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder)
        self._rows = self._sorted(self._rows)
        self._fill()

    def _resized(self, *_arguments) -> None:
        qt.QTimer.singleShot(0, self._widget.resizeRowsToContents)
        if self._wide is not None and self._wide != (self._widget.width >= _WIDE):
            # After Qt is done with its own layout; filling from within it would start it anew.
            self._wide = None
            qt.QTimer.singleShot(0, self._fill)

    def _selection_changed(self) -> None:
        self._selected()


def _confidence(row, status: str | None):
    """Number and bar, and below them the status where it has no column of its own."""
    cell = qt.QWidget()
    cell.setAttribute(qt.Qt.WA_TransparentForMouseEvents)
    layout = qt.QVBoxLayout(cell)
    layout.setContentsMargins(2, 2, 2, 2)
    layout.setSpacing(1)
    if row.present:
        line = qt.QHBoxLayout()
        line.setSpacing(4)
        # The number stands beside the bar: macOS draws none on it, and on the bar it would have two backgrounds.
        number = qt.QLabel(words.percent(row.confidence))
        number.setAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        number.setMinimumWidth(number.fontMetrics().boundingRect(words.percent(1.0)).width())
        line.addWidget(number)
        line.addWidget(_bar(row))
        layout.addLayout(line)
    text = status if status is not None else "" if row.present else "–"
    if text:
        label = qt.QLabel(text)
        label.setAlignment(qt.Qt.AlignCenter)
        layout.addWidget(label)
    return cell


def _bar(row):
    bar = qt.QProgressBar()
    bar.setRange(0, 100)
    bar.setValue(round(100 * row.confidence))
    bar.setTextVisible(False)
    # Its own idea of a width would take half of a narrow table.
    bar.setFixedWidth(_BAR_WIDTH)
    bar.setFixedHeight(_BAR_HEIGHT)
    bar.setFocusPolicy(qt.Qt.NoFocus)
    bar.setAccessibleName(_("Confidence of {structure}").format(structure=row.name))
    return bar
