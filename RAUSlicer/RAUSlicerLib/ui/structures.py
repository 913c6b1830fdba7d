"""The checklist of the reference's structures."""

from __future__ import annotations

from collections.abc import Callable

import qt

_ID_ROLE = 32  # Qt::UserRole
_SWATCH = 14  # pixels


class StructureList:
    """Shows a segmentation's segments with their colours; ticked ones are transferred.

    Args:
        widget: The QListWidget that shows them.
        changed: Called with the ids of the unticked segments when the user ticks or unticks.
    """

    def __init__(self, widget, changed: Callable[[list[str]], None]) -> None:
        self._widget = widget
        self._changed = changed
        self._shown: list[tuple] = []
        self._widget.itemChanged.connect(self._item_changed)

    def show(self, segmentation_node, excluded: list[str]) -> None:
        """Show a node's segments, hidden ones too; None empties the list."""
        rows = _rows(segmentation_node, set(excluded))
        if rows == self._shown:
            return
        blocked = self._widget.blockSignals(True)
        self._widget.clear()
        for id_, name, color, ticked in rows:
            item = qt.QListWidgetItem(_swatch(color), name)
            item.setData(_ID_ROLE, id_)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            item.setToolTip(name)
            self._widget.addItem(item)
        self._widget.blockSignals(blocked)
        self._shown = rows

    def names(self, excluded: list[str]) -> list[str] | None:
        """Names of the ticked structures; None where all are ticked."""
        if not any(id_ in excluded for id_, _name, _color, _ticked in self._shown):
            return None
        return [name for id_, name, _color, _ticked in self._shown if id_ not in excluded]

    @property
    def count(self) -> int:
        return len(self._shown)

    @property
    def ids(self) -> list[str]:
        return [row[0] for row in self._shown]

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


def _swatch(color: tuple[float, float, float]):
    pixmap = qt.QPixmap(_SWATCH, _SWATCH)
    pixmap.fill(qt.QColor(*(round(255 * channel) for channel in color)))
    return qt.QIcon(pixmap)
