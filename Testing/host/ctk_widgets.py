"""The ctk widgets that the panel uses, with the same properties and signals."""

from __future__ import annotations

import types

from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import connect, disconnect

_HEADER = 26  # height of the button that folds the section, pixels


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A section with a button as its head that shows and hides what is below."""

    contentsCollapsed = QtCore.Signal(bool)
    clicked = QtCore.Signal(bool)

    connect, disconnect = connect, disconnect

    def __init__(self, *arguments) -> None:
        parent = arguments[-1] if arguments and isinstance(arguments[-1], QtWidgets.QWidget) else None
        super().__init__(parent)
        self._text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        self._collapsed = False
        self.setContentsMargins(9, _HEADER + 2, 9, 6)
        self.setFocusPolicy(QtCore.Qt.TabFocus)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Maximum)

    def _set_text(self, value: str) -> None:
        self._text = value
        self.update()

    def _set_collapsed(self, value: bool) -> None:
        if bool(value) == self._collapsed:
            return
        self._collapsed = bool(value)
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(not self._collapsed)
        self.setMaximumHeight(_HEADER if self._collapsed else 16777215)
        self.contentsCollapsed.emit(self._collapsed)
        self.update()

    text = QtCore.Property(str, lambda self: self._text, _set_text)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, _set_collapsed)

    def childEvent(self, event) -> None:
        # A .ui file says "collapsed" before its children are there.
        super().childEvent(event)
        if self._collapsed and event.added() and event.child().isWidgetType():
            event.child().setVisible(False)

    def mousePressEvent(self, event) -> None:
        if event.position().y() < _HEADER:
            self._set_collapsed(not self._collapsed)
            self.clicked.emit(not self._collapsed)

    def keyPressEvent(self, event) -> None:
        if event.key() == QtCore.Qt.Key_Space:
            self._set_collapsed(not self._collapsed)
        else:
            super().keyPressEvent(event)

    def paintEvent(self, _event) -> None:
        painter = QtGui.QPainter(self)
        button = QtWidgets.QStyleOptionButton()
        button.initFrom(self)
        button.rect = QtCore.QRect(0, 0, self.width, _HEADER - 2)
        self.style().drawControl(QtWidgets.QStyle.CE_PushButton, button, painter, self)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(8, 7, 10, 10)
        shape = QtWidgets.QStyle.PE_IndicatorArrowRight if self._collapsed else QtWidgets.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(shape, arrow, painter, self)
        painter.drawText(QtCore.QRect(26, 0, self.width - 30, _HEADER - 2), QtCore.Qt.AlignVCenter, self._text)
        painter.end()


WIDGETS = (ctkCollapsibleButton,)


def make_ctk() -> types.ModuleType:
    """Build the module ``ctk``; asking it for a widget the host lacks says where to add it."""
    ctk = types.ModuleType("ctk")
    for widget in WIDGETS:
        setattr(ctk, widget.__name__, widget)

    def refuse(name: str):
        raise AttributeError(f"The host has no ctk.{name}: add it to Testing/host/ctk_widgets.py.")

    ctk.__getattr__ = refuse
    return ctk
