"""The module ``qt`` as PythonQt gives it, made from PySide6: properties are attributes, typos are errors."""

from __future__ import annotations

import ctypes
import re
import sys
import types

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtTest, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork, QtTest)
# These names are virtual or static functions besides being properties; a property of that name would break Qt itself.
_NOT_PROPERTIES = {"sizeHint", "minimumSizeHint", "eventDispatcher", "singleShot"}
# PySide6 ignores patches of connect() and of attribute access on its own classes, but not on Python subclasses of them.
_SUBCLASSED = (
    "QFrame QPushButton QCheckBox QRadioButton QToolButton QLineEdit QTextEdit QPlainTextEdit QTextBrowser QComboBox QSpinBox "
    "QDoubleSpinBox QSlider QLabel QGroupBox QTabWidget QTableWidget QListWidget QTreeWidget QProgressBar QDialog QDialogButtonBox QMenu "
    "QStackedWidget QSplitter QScrollArea QAction QTimer QProcess QButtonGroup QShortcut"
).split()

subclasses: dict[str, type] = {}


def make_qt() -> types.ModuleType:
    """Build the module ``qt``. Changes PySide6's classes for the whole process, so this can't be undone."""
    _keep_none_alive()
    _make_properties_attributes()
    QtCore.QObject.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
    QtCore.QObject.className = lambda self: type(self).__name__
    QtWidgets.QDialog.exec_ = lambda self: self.exec()
    QtCore.QObject.delete = lambda self: shiboken6.delete(self)
    for name in _SUBCLASSED:
        base = next(getattr(module, name) for module in _MODULES if hasattr(module, name))
        members = {"connect": connect, "disconnect": disconnect, "__setattr__": _refuse_unknown, "__module__": "qt"}
        subclasses[name] = type(name, (base,), members)
    qt = types.ModuleType("qt")
    for module in _MODULES:
        for name in dir(module):
            if not name.startswith("_"):
                setattr(qt, name, getattr(module, name))
    for name, cls in subclasses.items():
        setattr(qt, name, cls)
    return qt


def _keep_none_alive() -> None:
    # PySide6 6.12 takes None for immortal, which it is from Python 3.12 on. On 3.11 each of its setters eats one reference (measured: 200
    # calls, 200 references), and after some ten thousand calls the interpreter dies.
    if sys.version_info < (3, 12) and sys.implementation.name == "cpython":
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def connect(self, signal: str, *receiver):
    """``widget.connect("clicked(bool)", function)``; ``"clicked()"`` passes no arguments on."""
    name, arguments = re.match(r"(\w+)(?:\((.*)\))?$", signal).groups()
    function = receiver[-1]
    if arguments == "":
        return getattr(self, name).connect(lambda *_arguments: function())
    return getattr(self, name).connect(function)


def disconnect(self, signal: str, *receiver):
    bound = getattr(self, re.match(r"\w+", signal).group())
    return bound.disconnect(receiver[-1]) if receiver else bound.disconnect()


def _refuse_unknown(self, name: str, value) -> None:
    # PythonQt has no place to keep an unknown attribute on a plain Qt object: w.tooltip = "..." raises there, so it must here.
    if type(self).__module__ == "qt" and not hasattr(type(self), name):
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
    descriptor = next((cls.__dict__[name] for cls in type(self).__mro__ if name in cls.__dict__), None)
    if hasattr(type(descriptor), "__set__"):
        descriptor.__set__(self, value)
    else:
        self.__dict__[name] = value


def _make_properties_attributes() -> None:
    for module in _MODULES[:4]:
        for name in dir(module):
            cls = getattr(module, name)
            if isinstance(cls, type) and issubclass(cls, QtCore.QObject):
                meta = cls.staticMetaObject
                for index in range(meta.propertyOffset(), meta.propertyCount()):
                    _make_attribute(cls, meta.property(index))


def _make_attribute(cls: type, declared) -> None:
    name = declared.name()
    if name in _NOT_PROPERTIES:
        return
    capital = name[0].upper() + name[1:]
    getter = getattr(cls, name, None) or getattr(cls, "is" + capital, None)
    if getter is not None and not callable(getter):
        return
    setter = getattr(cls, "set" + capital, None)

    def read(self):
        return getter(self) if getter else self.property(name)

    def write(self, value) -> None:
        if setter:
            setter(self, value)
        else:
            self.setProperty(name, value)

    setattr(cls, name, property(read, write if setter or declared.isWritable() else None))
