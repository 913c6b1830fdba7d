"""The application without its windows: scene, application logic, module logics, and what slicer.util asks of slicer.app."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

import slicer
import slicer.util
import vtk

from . import terminologies
from .files import FileManager

_IN_SUBJECT_HIERARCHY = ("vtkMRMLDisplayableNode", "vtkMRMLTextNode", "vtkMRMLTableNode", "vtkMRMLSequenceNode")


class HostedModule:
    """One entry of slicer.modules: a logic, and a widget that is made when it is first asked for."""

    def __init__(self, name: str, logic=None, path: str = "") -> None:
        self.name = self.title = name
        self.path = path
        self.parent = None
        self.widget_factory = None
        self._logic = logic
        self._widget = None

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        if self._widget is None and self.widget_factory is not None:
            self._widget = self.widget_factory()
        return self._widget

    def createNewWidgetRepresentation(self):
        return self.widget_factory() if self.widget_factory is not None else None

    def forget_widget(self) -> None:
        self._widget = None


class ModuleManager:
    """slicer.app.moduleManager()."""

    def __init__(self) -> None:
        self._modules: dict[str, HostedModule] = {}

    def add(self, module: HostedModule) -> None:
        self._modules[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)
        setattr(slicer.moduleNames, module.name, module.name)

    def module(self, name: str) -> HostedModule | None:
        return self._modules.get(name)

    def modulesNames(self) -> list[str]:
        return list(self._modules)


class Application:
    """slicer.app."""

    applicationName = "SlicerHost"
    mainApplicationName = "Slicer"
    applicationVersion = "5.13-core"
    majorVersion = 5
    minorVersion = 13

    def __init__(self, scene, logic) -> None:
        self._scene = scene
        self._logic = logic
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-host-")
        self.slicerHome = os.path.dirname(slicer.__file__)
        self._files = FileManager(scene, logic)
        self._modules = ModuleManager()
        self.layout_manager = None
        self.data_io: tuple = ()
        self._startup: list = []

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def connect(self, signal: str, function) -> None:
        if signal != "startupCompleted()":
            raise RuntimeError(f"The host has no signal {signal!r} of slicer.app: add it to Testing/host/application.py.")
        self._startup.append(function)

    def complete_startup(self) -> None:
        """All modules are loaded."""
        for function in self._startup:
            function()
        self._startup.clear()

    def coreIOManager(self) -> FileManager:
        return self._files

    def ioManager(self) -> FileManager:
        return self._files

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def layoutManager(self):
        return self.layout_manager

    def testingEnabled(self) -> bool:
        return True

    def commandOptions(self):
        return types.SimpleNamespace(noMainWindow=True)

    def processEvents(self) -> None:
        widgets = sys.modules.get("PySide6.QtWidgets")
        if widgets is not None:
            widgets.QApplication.processEvents()

    def startupEnvironment(self):
        return types.SimpleNamespace(keys=os.environ.keys, value=os.environ.get)

    def pauseRender(self) -> None:
        """Views of the host are drawn on request, so there is nothing to pause."""

    def resumeRender(self) -> None:
        """See pauseRender."""

    def close(self) -> None:
        shutil.rmtree(self.temporaryPath, ignore_errors=True)


def start() -> Application:
    """Create the scene, the logics and slicer.app; later calls return the same application."""
    existing = getattr(slicer, "app", None)
    if isinstance(existing, Application):
        return existing
    _log_to_stderr()
    # Slicer's own base classes are not part of slicer-core; these small ones take their place.
    slicer.__path__.append(str(Path(__file__).parent / "slicer_base"))
    for name in ("modules", "moduleNames"):
        module = types.ModuleType(f"slicer.{name}")
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logic = _application_logic(scene)
    slicer.app = Application(scene, logic)
    atexit.register(slicer.app.close)
    _register_logics(slicer.app)
    slicer.app.data_io = _data_io(slicer.app)
    # In the application, plugins of the subject hierarchy make its items.
    scene.AddObserver(scene.NodeAddedEvent, _add_to_subject_hierarchy)
    scene.AddObserver(scene.NodeRemovedEvent, _remove_from_subject_hierarchy)
    return slicer.app


def _log_to_stderr() -> None:
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)


def _application_logic(scene):
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(logic)
    slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(logic)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    return logic


def _register_logics(application: Application) -> None:
    # The terminology folder goes in before the scene, and the segmentations logic comes before any segmentation node.
    terminology_logic = slicer.vtkSlicerTerminologiesModuleLogic()
    terminology_logic.SetModuleShareDirectory(str(terminologies.write(Path(application.temporaryPath))))
    logics = {
        "Colors": slicer.vtkMRMLColorLogic(),
        "Volumes": slicer.vtkSlicerVolumesLogic(),
        "Terminologies": terminology_logic,
        "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
        "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic(),
        "Markups": slicer.vtkSlicerMarkupsLogic(),
        "Models": slicer.vtkSlicerModelsLogic(),
        "Transforms": slicer.vtkSlicerTransformLogic(),
    }
    for name, logic in logics.items():
        logic.SetMRMLScene(application.mrmlScene())
        logic.SetMRMLApplicationLogic(application.applicationLogic())
        application.applicationLogic().SetModuleLogic(name, logic)
        application.moduleManager().add(HostedModule(name, logic))


def _data_io(application: Application) -> tuple:
    # Reading a .mrb asks the scene's DataIOManager for a cache folder. The returned logics must stay alive.
    cache = Path(application.temporaryPath) / "cache"
    cache.mkdir()
    (cache / ".slicer-cache").touch()
    remote, manager = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    for logic in (remote, manager):
        logic.SetMRMLScene(application.mrmlScene())
        logic.SetMRMLApplicationLogic(application.applicationLogic())
    remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    return remote, manager


@vtk.calldata_type(vtk.VTK_OBJECT)
def _add_to_subject_hierarchy(scene, _event, node) -> None:
    if node is None or node.GetHideFromEditors() or not any(node.IsA(name) for name in _IN_SUBJECT_HIERARCHY):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy and not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _remove_from_subject_hierarchy(scene, _event, node) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy and node is not None else 0
    if item:
        hierarchy.RemoveItem(item, False, False)
