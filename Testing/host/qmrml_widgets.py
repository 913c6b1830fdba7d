"""The qMRML widgets that the panel uses, on the real scene."""

from __future__ import annotations

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from .pythonqt import connect, disconnect

_SCENE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndImportEvent", "EndCloseEvent", "EndBatchProcessEvent")


class _SceneWidget:
    """Mixin: observes a scene and calls refresh() when its nodes change."""

    connect, disconnect = connect, disconnect
    _scene = None
    _tags: tuple = ()

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if self._scene is scene:
            return
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._scene = scene
        self._tags = ()
        if scene is not None:
            self._tags = tuple((scene, scene.AddObserver(getattr(scene, event), self._scene_changed)) for event in _SCENE_EVENTS)
            self.refresh()
        self.mrmlSceneChanged.emit(scene)

    def _scene_changed(self, *_arguments) -> None:
        if shiboken6.isValid(self):
            self.refresh()

    def refresh(self) -> None:
        """The scene's nodes have changed."""


class qMRMLWidget(_SceneWidget, QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        QtWidgets.QWidget.__init__(self, parent)


class qSlicerWidget(qMRMLWidget):
    pass


class qMRMLNodeComboBox(_SceneWidget, QtWidgets.QWidget):
    """Lists the scene's nodes of some types and holds the chosen one."""

    mrmlSceneChanged = QtCore.Signal(object)
    currentNodeChanged = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox()
        # Long names of DICOM series must not widen the panel.
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        layout.addWidget(self._box)
        self.setFocusProxy(self._box)
        self._options = {
            "nodeTypes": [],
            "showHidden": False,
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "noneDisplay": "None",
            "showChildNodeTypes": True,
        }
        self._nodes: list = []
        self._current = None
        self._filling = False
        self._box.currentIndexChanged.connect(self._chosen)

    def _option(name, kind):
        def read(self):
            return self._options[name]

        def write(self, value) -> None:
            self._options[name] = value
            self.refresh()

        return QtCore.Property(kind, read, write)

    nodeTypes = _option("nodeTypes", "QStringList")
    showHidden = _option("showHidden", bool)
    noneEnabled = _option("noneEnabled", bool)
    addEnabled = _option("addEnabled", bool)
    removeEnabled = _option("removeEnabled", bool)
    noneDisplay = _option("noneDisplay", str)
    showChildNodeTypes = _option("showChildNodeTypes", bool)
    del _option

    def refresh(self) -> None:
        nodes = self._matching()
        self._nodes = ([None] if self._options["noneEnabled"] else []) + nodes
        previous = self._current if self._current in nodes else None
        chosen = previous or (None if self._options["noneEnabled"] or not nodes else nodes[0])
        self._filling = True
        self._box.clear()
        self._box.addItems([self._options["noneDisplay"] if node is None else node.GetName() for node in self._nodes])
        self._box.setCurrentIndex(self._nodes.index(chosen) if chosen in self._nodes else -1)
        self._filling = False
        self._become(chosen)

    def _matching(self) -> list:
        if self._scene is None:
            return []
        found: list = []
        for kind in self._options["nodeTypes"]:
            for index in range(self._scene.GetNumberOfNodesByClass(kind)):
                node = self._scene.GetNthNodeByClass(index, kind)
                exact = self._options["showChildNodeTypes"] or node.GetClassName() == kind
                if exact and node not in found and (self._options["showHidden"] or not node.GetHideFromEditors()):
                    found.append(node)
        return found

    def _become(self, node) -> None:
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)

    def _chosen(self, index: int) -> None:
        if not self._filling and index >= 0:
            self._become(self._nodes[index])

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node) -> None:
        node = node if node in self._nodes else None
        self._filling = True
        self._box.setCurrentIndex(self._nodes.index(node) if node in self._nodes else -1)
        self._filling = False
        self._become(node)

    def nodeCount(self) -> int:
        return len(self._nodes)


WIDGETS = (qMRMLWidget, qSlicerWidget, qMRMLNodeComboBox)


def add_to_slicer() -> None:
    for widget in WIDGETS:
        setattr(slicer, widget.__name__, widget)
