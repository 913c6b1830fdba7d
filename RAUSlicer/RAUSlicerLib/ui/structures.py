"""The checklist of the reference's structures."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.util import VTKObservationMixin

from ..support.text import printable

_ID_ROLE = 32  # Qt::UserRole
_SWATCH = 14  # pixels


class StructureList(VTKObservationMixin):
    """Shows a segmentation's segments with their colours; ticked ones are transferred.

    Args:
        widget: The QListWidget that shows them.
        search: The QLineEdit whose text narrows the list.
        changed: Called with the ids of the unticked segments when the user ticks or unticks.
        redrawn: Called when the segmentation itself has changed.
    """

    def __init__(self, widget, search, changed: Callable[[list[str]], None], redrawn: Callable[[], None]) -> None:
        VTKObservationMixin.__init__(self)
        self._widget = widget
        self._search = search
        self._changed, self._redrawn = changed, redrawn
        self._observed = None
        self._shown: list[tuple] = []
        self._widget.itemChanged.connect(self._item_changed)
        self._search.textChanged.connect(self._narrow)

    def show(self, segmentation_node, excluded: list[str]) -> None:
        """Show a node's segments, hidden ones too; None empties the list."""
        rows = _rows(segmentation_node, set(excluded))
        if rows == self._shown:
            return
        blocked = self._widget.blockSignals(True)
        if [row[:3] for row in rows] == [row[:3] for row in self._shown]:
            # Only ticks have changed: a list that is made anew loses its place and the focus.
            for index, row in enumerate(rows):
                self._widget.item(index).setCheckState(qt.Qt.Checked if row[3] else qt.Qt.Unchecked)
        else:
            self._fill(rows)
        self._widget.blockSignals(blocked)
        self._shown = rows
        self._narrow()

    def observe(self, segmentation_node) -> None:
        """Follow the segments of a node; of none for None."""
        if segmentation_node is self._observed:
            return
        self.removeObservers()
        self._observed = segmentation_node
        if segmentation_node is not None:
            for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified"):
                self.addObserver(segmentation_node.GetSegmentation(), getattr(slicer.vtkSegmentation, event), self._segments_changed)

    def names(self, excluded: list[str]) -> list[str] | None:
        """Names of the ticked structures; None where all are ticked."""
        if not any(id_ in excluded for id_, _name, _color, _ticked in self._shown):
            return None
        return [name for id_, name, _color, _ticked in self._shown if id_ not in excluded]

    def excluded_after(self, ticked: bool) -> list[str]:
        """Ids that are unticked once the listed structures are ticked or unticked; those that the search hides stay as they are."""
        listed = {row[0] for row in self._shown if self._matches(row[1])}
        return [id_ for id_, _name, _color, was in self._shown if not (ticked if id_ in listed else was)]

    @property
    def count(self) -> int:
        return len(self._shown)

    @property
    def ids(self) -> list[str]:
        return [row[0] for row in self._shown]

    def _segments_changed(self, _caller=None, _event=None) -> None:
        self._redrawn()

    def _fill(self, rows: list[tuple]) -> None:
        self._widget.clear()
        for id_, name, color, ticked in rows:
            item = qt.QListWidgetItem(swatch(color), printable(name))
            item.setData(_ID_ROLE, id_)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            item.setToolTip(printable(name))
            self._widget.addItem(item)

    def _narrow(self, _text: str = "") -> None:
        for index, row in enumerate(self._shown):
            self._widget.item(index).setHidden(not self._matches(row[1]))

    def _matches(self, name: str) -> bool:
        # Every word must occur, in any order: "left hippo" finds "Hippocampus, left".
        return all(word in name.casefold() for word in self._search.text.casefold().split())

    def _item_changed(self, _item) -> None:
        items = [self._widget.item(index) for index in range(len(self._shown))]
        self._shown = [(*row[:3], item.checkState() == qt.Qt.Checked) for row, item in zip(self._shown, items, strict=True)]
        self._changed([row[0] for row in self._shown if not row[3]])


def _rows(segmentation_node, excluded: set[str]) -> list[tuple]:
    if segmentation_node is None:
        return []
    segmentation = segmentation_node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    segments = [(id_, segmentation.GetSegment(id_)) for id_ in ids]
    return [(id_, segment.GetName(), tuple(segment.GetColor()), id_ not in excluded) for id_, segment in segments]


def swatch(color: tuple[float, float, float]):
    """An icon of a structure's colour with a thin edge, so that it stands out on light and dark."""
    pixmap = qt.QPixmap(_SWATCH, _SWATCH)
    pixmap.fill(qt.QColor(128, 128, 128))
    painter = qt.QPainter(pixmap)
    painter.fillRect(1, 1, _SWATCH - 2, _SWATCH - 2, qt.QColor(*(round(255 * channel) for channel in color)))
    painter.end()
    return qt.QIcon(pixmap)
