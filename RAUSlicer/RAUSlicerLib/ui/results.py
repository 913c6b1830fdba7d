"""The table of a result's structures."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from ..support.text import printable
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
# Fewer rows are seen at one glance.
_FEWEST_GROUPED = 12
_BAR_WIDTH, _BAR_HEIGHT = 48, 10


class ResultTable:
    """Shows rows (``scene.record.Row``): status in words, confidence as number and bar, volumes beside the reference's.

    Many rows stand under headings of the anatomy graphs, which a click folds and unfolds. A click on a column's header sorts all rows by it
    without headings, a second one turns the order round, a third one brings the headings back.

    Args:
        widget: The QTableWidget.
        selected: Called without arguments when the user selects other rows.
    """

    def __init__(self, widget, selected: Callable[[], None]) -> None:
        self._widget = widget
        self._selected = selected
        self._rows: list = []
        # What each line of the widget shows: a row, or the title of a group.
        self._lines: list = []
        self._folded: set[str] = set()
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
        widget.itemSelectionChanged.connect(selected)
        widget.cellClicked.connect(self._clicked)

    @property
    def rows(self) -> list:
        """The rows in the order they are shown."""
        return list(self._rows)

    @property
    def selected(self) -> list:
        """The selected rows."""
        indices = sorted({index.row() for index in self._widget.selectionModel().selectedRows()})
        return [self._lines[index] for index in indices if index < len(self._lines) and not isinstance(self._lines[index], str)]

    def show(self, rows: list) -> None:
        """Show these rows; what was selected stays selected."""
        if sorted(map(repr, rows)) == sorted(map(repr, self._rows)) and self._wide is not None:
            return
        self._rows = rows
        self._fill()

    def clear(self) -> None:
        self.show([])

    def select(self, key: str) -> None:
        """Select the row of a structure, as a click does."""
        for index in self._lines_of([key])[:1]:
            self._unfold(index)
            self._widget.selectRow(index)

    def select_all(self, keys: list[str]) -> None:
        """Select the rows of several structures and scroll to the first; other rows are no longer selected."""
        model, selection = self._widget.model(), self._widget.selectionModel()
        blocked = self._widget.blockSignals(True)
        self._widget.clearSelection()
        indices = self._lines_of(keys)
        for index in indices:
            self._unfold(index)
            selection.select(model.index(index, 0), qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows)
        if indices:
            selection.setCurrentIndex(model.index(indices[0], 0), qt.QItemSelectionModel.NoUpdate)
            self._widget.scrollToItem(self._widget.item(indices[0], 0))
        self._widget.blockSignals(blocked)
        self._selected()

    def select_next(self, step: int) -> None:
        """Select the next (1) or the previous (-1) row."""
        shown = [index for index, line in enumerate(self._lines) if not isinstance(line, str) and not self._widget.isRowHidden(index)]
        if not shown:
            return
        current = self._widget.currentRow() if self.selected else (-1 if step > 0 else len(self._lines))
        beyond = [index for index in shown if (index > current if step > 0 else index < current)]
        self._widget.selectRow((beyond or [shown[-1] if step > 0 else shown[0]])[0 if step > 0 else -1])

    def _fill(self) -> None:
        kept = {row.key for row in self.selected}
        blocked = self._widget.blockSignals(True)
        self._wide = self._widget.width >= _WIDE
        for column in (_STATUS, _VOLUME, _REFERENCE, _RATIO):
            self._widget.setColumnHidden(column, not self._wide)
        for column, text in _NARROW_HEADERS.items():
            self._widget.horizontalHeaderItem(column).setText(_HEADERS[column] if self._wide else text)
        self._widget.clearSpans()
        self._widget.setRowCount(0)
        self._lines = self._arranged()
        self._rows = [line for line in self._lines if not isinstance(line, str)]
        self._widget.setRowCount(len(self._lines))
        for index, line in enumerate(self._lines):
            if isinstance(line, str):
                self._fill_heading(index, line)
            else:
                self._fill_row(index, line)
        self._fold()
        self._widget.clearSelection()
        model, selection = self._widget.model(), self._widget.selectionModel()
        for index in self._lines_of(kept):
            if not self._widget.isRowHidden(index):
                selection.select(model.index(index, 0), qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows)
        self._widget.blockSignals(blocked)
        # The heights depend on the width that the name gets, which Qt settles later.
        qt.QTimer.singleShot(0, self._widget.resizeRowsToContents)

    def _arranged(self) -> list:
        """The rows in their order, under headings where they stand in that of anatomy."""
        if self._order is not None or len(self._rows) < _FEWEST_GROUPED:
            return self._sorted(self._rows)
        # Imported with the first long result, because the anatomy's codes and images would make loading the module slow.
        from ..anatomy.grouping import sections
        from ..imaging.segmentation import Structure

        of_structure = {Structure(number, row.name): row for number, row in enumerate(self._rows, start=1)}
        groups = sections(tuple(of_structure))
        if len(groups) < 2:
            return list(self._rows)
        return [line for title, structures in groups for line in (title, *(of_structure[one] for one in structures))]

    def _fill_heading(self, index: int, title: str) -> None:
        item = qt.QTableWidgetItem("")
        item.setFlags(qt.Qt.ItemIsEnabled)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setToolTip(_("{group}; a click folds or unfolds it").format(group=title))
        self._widget.setItem(index, _NAME, item)
        self._widget.setSpan(index, _NAME, 1, len(_HEADERS))

    def _fold(self) -> None:
        """Hide the rows of folded groups, and say at each heading how many rows it has."""
        heading, count = None, 0
        for index in [*range(len(self._lines)), None]:
            line = None if index is None else self._lines[index]
            if index is None or isinstance(line, str):
                if heading is not None:
                    title = self._lines[heading]
                    sign = "▸" if title in self._folded else "▾"
                    self._widget.item(heading, _NAME).setText(f"{sign} {title} ({count})")
                heading, count = index, 0
            else:
                count += 1
                self._widget.setRowHidden(index, heading is not None and self._lines[heading] in self._folded)

    def _clicked(self, index: int, _column: int) -> None:
        line = self._lines[index] if index < len(self._lines) else None
        if isinstance(line, str):
            self._folded ^= {line}
            self._fold()

    def _unfold(self, index: int) -> None:
        """Show a line whose group is folded."""
        if self._widget.isRowHidden(index):
            self._folded.discard(next(line for line in reversed(self._lines[:index]) if isinstance(line, str)))
            self._fold()

    def _lines_of(self, keys) -> list[int]:
        return [index for index, line in enumerate(self._lines) if not isinstance(line, str) and line.key in keys]

    def _fill_row(self, index: int, row) -> None:
        status, ratio = words.status(row), words.ratio(row.ratio)
        volume = words.volume(row.volume_ml) if row.present else "–"
        reference = words.volume(row.reference_volume_ml)
        name = printable(row.name)
        below = _("{volume} / {reference} ({ratio})").format(volume=volume, reference=reference, ratio=ratio)
        texts = {
            _NAME: name if self._wide else f"{name}\n{below}",
            _STATUS: status,
            _CONFIDENCE: "",
            _VOLUME: volume,
            _REFERENCE: reference,
            _RATIO: ratio,
        }
        tool_tips = {_NAME: name if self._wide else f"{name}\n{words.ratio_tool_tip(row.ratio)}", _CONFIDENCE: status}
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
        self._order = None if self._order == (column, True) else (column, descending)
        header = self._widget.horizontalHeader()
        header.setSortIndicatorShown(self._order is not None)
        header.setSortIndicator(column, qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder)
        self._fill()

    def _resized(self, *_arguments) -> None:
        qt.QTimer.singleShot(0, self._widget.resizeRowsToContents)
        if self._wide is not None and self._wide != (self._widget.width >= _WIDE):
            # After Qt is done with its own layout; filling from within it would start it anew.
            self._wide = None
            qt.QTimer.singleShot(0, self._fill)


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
