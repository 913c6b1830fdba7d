"""Puts the application and Qt together and loads a scripted module as Slicer does."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from . import application, ctk_widgets, pythonqt, qmrml_widgets, sample_data
from .application import HostedModule

_alive: list = []


class _ModuleSignals(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)


def install() -> None:
    """Start the host: afterwards ``qt``, ``ctk``, ``slicer.app`` and ``slicer.mrmlScene`` are there. Idempotent."""
    app = application.start()
    if "qt" in sys.modules:
        return
    qt_app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SlicerHost"])
    qt_app.setOrganizationName("SlicerHost")
    qt_app.setApplicationName("SlicerHost")
    qt_app.setStyle("Fusion")
    # Tests must not read or write the settings of the person who runs them.
    QtCore.QSettings.setPath(QtCore.QSettings.NativeFormat, QtCore.QSettings.UserScope, app.temporaryPath)
    _alive.append(qt_app)
    qt = pythonqt.make_qt()
    sys.modules["qt"] = qt
    sys.modules["ctk"] = ctk_widgets.make_ctk()
    qmrml_widgets.add_to_slicer()
    sample_data.install()
    from .ui_loader import QUiLoader

    qt.QUiLoader = QUiLoader
    signals = _ModuleSignals()
    manager = app.moduleManager()
    manager.connect = lambda _signal, function: signals.moduleAboutToBeUnloaded.connect(function)
    manager.disconnect = lambda _signal, function: signals.moduleAboutToBeUnloaded.disconnect(function)
    app.settings = app.userSettings = app.revisionUserSettings = QtCore.QSettings
    app.palette = qt_app.palette
    slicer.util.mainWindow = lambda: None


def load_module(path: Path) -> tuple[types.ModuleType, HostedModule]:
    """Import a scripted module's file and register it; its panel is made by ``widgetRepresentation()``."""
    name = path.stem
    parent = types.SimpleNamespace(path=str(path), title="", categories=[], dependencies=[], contributors=[], helpText="")
    hosted = HostedModule(name, path=str(path))
    slicer.app.moduleManager().add(hosted)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    getattr(module, name)(parent)
    hosted.title, hosted.parent = parent.title, parent

    def make_panel():
        qt = sys.modules["qt"]
        panel = slicer.qSlicerWidget()
        panel.setLayout(qt.QVBoxLayout())
        panel.setMRMLScene(slicer.mrmlScene)
        widget = getattr(module, name + "Widget")(panel)
        setattr(slicer.modules, name + "Widget", widget)
        widget.setup()
        panel.self = lambda: widget
        return panel

    hosted.widget_factory = make_panel
    return module, hosted


def close_panel(hosted: HostedModule) -> None:
    """What the application does when the module is unloaded: leave, clean up, delete the widgets."""
    panel = hosted.widgetRepresentation()
    widget = panel.self()
    widget.exit()
    widget.cleanup()
    hosted.forget_widget()
    panel.hide()
    slicer.app.processEvents()
    if shiboken6.isValid(panel):
        shiboken6.delete(panel)


def settle(milliseconds: int = 0) -> None:
    """Let Qt deliver what is pending, and wait that long while it does."""
    if milliseconds:
        loop = QtCore.QEventLoop()
        QtCore.QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()
    for _ in range(3):
        slicer.app.processEvents()


def repository() -> Path:
    return Path(os.path.abspath(__file__)).parents[2]
