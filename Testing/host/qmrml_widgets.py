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
        self._attributes: dict[str, dict[str, str | None]] = {}
        self._options = {
            "nodeTypes": [],
            "baseName": "",
            "renameEnabled": False,
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
    renameEnabled = _option("renameEnabled", bool)
    noneDisplay = _option("noneDisplay", str)
    baseName = _option("baseName", str)
    showChildNodeTypes = _option("showChildNodeTypes", bool)
    del _option

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:
        """List only nodes that have this attribute; with a value, only those that have this value."""
        self._attributes.setdefault(node_type, {})[name] = value
        self.refresh()

    def addNode(self, node_type: str = ""):
        """What "Create new" of the application's menu does."""
        kind = node_type or self._options["nodeTypes"][0]
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self._options["baseName"] or kind))
        for name, value in self._attributes.get(kind, {}).items():
            node.SetAttribute(name, value or "")
        node = self._scene.AddNode(node)
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        """What "Delete current" of the application's menu does."""
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def _has_attributes(self, node) -> bool:
        wanted = self._attributes.get(node.GetClassName(), {})
        values = {name: node.GetAttribute(name) for name in wanted}
        return all(values[name] is not None and value in (None, values[name]) for name, value in wanted.items())

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
                shown = self._options["showHidden"] or not node.GetHideFromEditors()
                if exact and shown and node not in found and self._has_attributes(node):
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


class qMRMLSegmentEditorWidget(_SceneWidget, QtWidgets.QFrame):
    """Holds what the application's Segment Editor is told. slicer-core has its logic (painting, undo) but not its widget: tests paint
    through ``vtkSlicerSegmentEditorLogic``, and pictures show this frame in its place."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        QtWidgets.QFrame.__init__(self, parent)
        self.setFrameShape(QtWidgets.QFrame.StyledPanel)
        label = QtWidgets.QLabel("Here the application shows its Segment Editor.", self)
        label.setWordWrap(True)
        label.setAlignment(QtCore.Qt.AlignCenter)
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(label)
        self.setMinimumHeight(90)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.effect = ""
        self.shortcuts_installed = self.views_observed = False

    def setMRMLScene(self, scene) -> None:
        super().setMRMLScene(scene)
        self.logic.SetMRMLScene(scene)

    def setMRMLSegmentEditorNode(self, node) -> None:
        self.logic.SetSegmentEditorNode(node)

    def mrmlSegmentEditorNode(self):
        return self.logic.GetSegmentEditorNode()

    def setSegmentationNode(self, node) -> None:
        self.logic.SetSegmentationNode(node)

    def segmentationNode(self):
        return self.logic.GetSegmentationNode()

    def setSourceVolumeNode(self, node) -> None:
        self.logic.SetSourceVolumeNode(node)

    def sourceVolumeNode(self):
        return self.logic.GetSourceVolumeNode()

    def setCurrentSegmentID(self, id_: str) -> None:
        self.logic.SetCurrentSegmentID(id_)

    def currentSegmentID(self) -> str:
        return self.logic.GetCurrentSegmentID()

    def setActiveEffectByName(self, name: str) -> None:
        self.effect = name

    def setMaximumNumberOfUndoStates(self, number: int) -> None:
        self.logic.SetMaximumNumberOfUndoStates(number)

    def setSegmentationNodeSelectorVisible(self, _visible: bool) -> None:
        """The frame has no selectors."""

    def setSourceVolumeNodeSelectorVisible(self, _visible: bool) -> None:
        """The frame has no selectors."""

    def setSwitchToSegmentationsButtonVisible(self, _visible: bool) -> None:
        """The frame has no buttons."""

    def installKeyboardShortcuts(self) -> None:
        self.shortcuts_installed = True

    def uninstallKeyboardShortcuts(self) -> None:
        self.shortcuts_installed = False

    def setupViewObservations(self) -> None:
        self.views_observed = True

    def removeViewObservations(self) -> None:
        self.views_observed = False


WIDGETS = (qMRMLWidget, qSlicerWidget, qMRMLNodeComboBox, qMRMLSegmentEditorWidget)


def add_to_slicer() -> None:
    for widget in WIDGETS:
        setattr(slicer, widget.__name__, widget)
