"""Clicks as a user makes them: on what is enabled, and on the place where it lies."""

import qt


def click(widget):
    """Click a widget."""
    assert widget.enabled, f"{widget.objectName} is disabled"
    qt.QTest.mouseClick(widget, qt.Qt.LeftButton)


def click_row(panel, name):
    """Click a structure's row in the table of results."""
    table = panel.ui.resultsTable
    row = [item.name for item in panel._results.table.rows].index(name)
    qt.QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, table.visualItemRect(table.item(row, 0)).center())
