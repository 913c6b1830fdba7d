"""Which set of settings the panel shows, while nodes and whole scenes come and go."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from . import pairing
from .parameters import MODULE_ATTRIBUTE, MODULE_NAME, Parameters, loaded_set


class SceneBinding(VTKObservationMixin):
    """Binds the widgets to a parameter node of the scene while the module is entered, and guesses inputs that are not chosen yet.

    Args:
        ui: The panel's widgets.
        parameter_node: Returns the module's parameter node, making it where the scene has none.
        running: Whether a run is under way; its inputs are not guessed anew.
        changed: Called when something that the panel shows may have changed.
        closing: Called when the scene is about to be closed.
        closed: Called when it is closed.
    """

    def __init__(
        self,
        ui,
        parameter_node: Callable,
        running: Callable[[], bool],
        changed: Callable[[], None],
        closing: Callable[[], None],
        closed: Callable[[], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui, self._parameter_node, self._running, self._changed = ui, parameter_node, running, changed
        self._closing, self._closed = closing, closed
        self._parameters: Parameters | None = None
        self._binding = None
        self._entered = False
        # A node that was just added is filled in by its loader only afterwards: look when Qt is idle, once however many were added.
        self._idle = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(0)
        self._idle.timeout.connect(self._guess)
        ui.parameterNodeSelector.addAttribute("vtkMRMLScriptedModuleNode", MODULE_ATTRIBUTE, MODULE_NAME)
        ui.parameterNodeSelector.currentNodeChanged.connect(self._choose_set)
        for event, handler in (
            (slicer.mrmlScene.StartCloseEvent, self._scene_closing),
            (slicer.mrmlScene.EndCloseEvent, self._scene_closed),
            (slicer.mrmlScene.NodeAddedEvent, self._scene_changed),
            (slicer.mrmlScene.NodeRemovedEvent, self._scene_changed),
            (slicer.mrmlScene.EndImportEvent, self._scene_imported),
        ):
            self.addObserver(slicer.mrmlScene, event, handler)

    @property
    def parameters(self) -> Parameters | None:
        """What the user has chosen; None while the module is not entered or the scene is being closed."""
        return self._parameters

    def enter(self) -> None:
        """The user opened the module."""
        self._entered = True
        self._bind()

    def exit(self) -> None:
        """The user opened another module."""
        self._entered = False
        self._release()

    def cleanup(self) -> None:
        """The module is going away."""
        self.exit()
        self._idle.stop()
        self.removeObservers()

    def _bind(self, node=None) -> None:
        if self._parameters is None:
            self._parameters = Parameters(node or self._parameter_node())
            self._binding = self._parameters.connectGui(self._ui)
            self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._modified)
            self._ui.parameterNodeSelector.setCurrentNode(self._parameters.parameterNode)
        pairing.fill_in(self._parameters, slicer.mrmlScene)
        self._changed()

    def _release(self) -> None:
        if self._parameters is not None:
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._modified)
            self._parameters.disconnectGui(self._binding)
            self._parameters = self._binding = None

    def _modified(self, _caller=None, _event=None) -> None:
        self._changed()

    def _choose_set(self, node) -> None:
        """The user chose, added or removed a set of settings."""
        if not self._entered or self._parameters is None or node is self._parameters.parameterNode:
            return
        self._release()
        if node is not None:
            self._bind(node)
        elif not slicer.mrmlScene.IsClosing():
            # The last set was removed; there is always one.
            self._idle.start()

    def _scene_closing(self, _caller=None, _event=None) -> None:
        self._closing()
        self._release()

    def _scene_closed(self, _caller=None, _event=None) -> None:
        self._closed()
        # Where the scene is closed to load another one, its own set of settings comes with the import.
        if self._entered and not slicer.mrmlScene.IsBatchProcessing():
            self._bind()

    def _scene_imported(self, _caller=None, _event=None) -> None:
        if self._entered:
            qt.QTimer.singleShot(0, self._adopt_loaded_set)

    def _adopt_loaded_set(self) -> None:
        """A scene was loaded: its settings take the place of a set that nobody has used."""
        current = self._parameters.parameterNode if self._parameters is not None else None
        loaded = loaded_set(current)
        if self._entered and not self._running() and loaded is not None:
            self._release()
            self._bind(loaded)
            if current is not None:
                slicer.mrmlScene.RemoveNode(current)
        self._guess()

    def _scene_changed(self, _caller=None, _event=None) -> None:
        if self._entered and not slicer.mrmlScene.IsBatchProcessing():
            self._idle.start()

    def _guess(self) -> None:
        if not self._entered:
            return
        if self._parameters is None or not self._running():
            self._bind()
        else:
            self._changed()
