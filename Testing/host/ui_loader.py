"""QUiLoader that knows the stand-in widgets and honours the scene connections of a .ui file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk_widgets, qmrml_widgets
from .pythonqt import subclasses

# PySide6 deletes the C++ object of a widget whose Python object is collected before the parent takes it over.
_alive: list = []
_CUSTOM = (*ctk_widgets.WIDGETS, *qmrml_widgets.WIDGETS)


class QUiLoader(QtUiTools.QUiLoader):
    """Refuses a .ui file that asks for a widget the host lacks."""

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        for widget in _CUSTOM:
            self.registerCustomWidget(widget)

    def createWidget(self, class_name: str, parent=None, name: str = ""):
        if class_name not in subclasses:
            return super().createWidget(class_name, parent, name)
        widget = subclasses[class_name](parent)
        widget.setObjectName(name)
        _alive.append(widget)
        return widget

    def load(self, file, parent=None):
        path = file if isinstance(file, str) else file.fileName()
        root = ElementTree.parse(path).getroot()
        known = {widget.__name__ for widget in _CUSTOM} | set(dir(QtWidgets)) | {"Line"}
        unknown = sorted({widget.get("class") for widget in root.iter("widget")} - known)
        if unknown:
            raise RuntimeError(f"{path}: the host has no {', '.join(unknown)}; add it to Testing/host.")
        connections = _take_scene_connections(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        top = super().load(buffer, parent)
        if top is None:
            raise RuntimeError(f"{path}: {self.errorString()}")
        named = {item.objectName: item for item in [top, *top.findChildren(QtCore.QObject)]}
        for item in connections:
            signal = getattr(named[item["sender"]], item["signal"].split("(")[0])
            signal.connect(getattr(named[item["receiver"]], item["slot"].split("(")[0]))
        _alive.append(top)
        return top


def _take_scene_connections(root) -> list[dict[str, str]]:
    # C++ can't connect signals that carry Python's VTK objects by name, so these are connected in Python.
    taken = []
    for parent in root.iter("connections"):
        for connection in list(parent):
            if "vtk" in connection.findtext("signal"):
                taken.append({child.tag: child.text for child in connection})
                parent.remove(connection)
    return taken
