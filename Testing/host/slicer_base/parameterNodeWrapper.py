"""The part of @parameterNodeWrapper that the module uses: typed parameters kept in a node, bound to widgets."""

from __future__ import annotations

import json
import typing

import qt
import slicer
import vtk

PROPERTY = "SlicerParameterName"


class Choice:
    """Annotation of a text parameter that has only these values."""

    def __init__(self, choices) -> None:
        self.choices = list(choices)

    def validate(self, value) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


class Default:
    """Annotation that carries the value of a fresh parameter node."""

    def __init__(self, value) -> None:
        self.value = value


class _Parameter:
    def __init__(self, name: str, kind, default) -> None:
        self.name = name
        annotations: list = []
        if typing.get_origin(kind) is typing.Annotated:
            kind, *annotations = typing.get_args(kind)
        self.kind = kind
        self.is_node = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
        self.choice = next((item for item in annotations if isinstance(item, Choice)), None)
        annotated = [item.value for item in annotations if isinstance(item, Default)]
        self.default = default if default is not None else (annotated[0] if annotated else self._fresh())

    def _fresh(self):
        if self.choice:
            return self.choice.choices[0]
        if self.is_node:
            return None
        return (typing.get_origin(self.kind) or self.kind)()

    def write(self, node, value) -> None:
        if self.is_node:
            if value is not None and not value.IsA(self.kind.__name__):
                raise TypeError(f"{self.name}: expected {self.kind.__name__}, got {value.GetClassName()}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if not isinstance(value, typing.get_origin(self.kind) or self.kind):
            raise TypeError(f"{self.name}: expected {self.kind}, got {type(value).__name__}")
        if self.choice:
            self.choice.validate(value)
        node.SetParameter(self.name, value if isinstance(value, str) else json.dumps(value))

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text if self.kind is str else json.loads(text)


class _Connector(typing.NamedTuple):
    widget: type
    signal: str
    read: typing.Callable
    write: typing.Callable


def _connectors() -> list[_Connector]:
    return [
        _Connector(slicer.qMRMLNodeComboBox, "currentNodeChanged", lambda w: w.currentNode(), lambda w, v: w.setCurrentNode(v)),
        _Connector(qt.QCheckBox, "toggled", lambda w: w.checked, lambda w, v: setattr(w, "checked", v)),
        _Connector(qt.QComboBox, "currentIndexChanged", lambda w: w.currentText, lambda w, v: w.setCurrentText(v)),
        _Connector(qt.QLineEdit, "textChanged", lambda w: w.text, lambda w, v: setattr(w, "text", v)),
    ]


class _Binding:
    """Keeps one widget and one parameter equal."""

    def __init__(self, wrapper, parameter: _Parameter, widget) -> None:
        connector = next((item for item in _connectors() if isinstance(widget, item.widget)), None)
        if connector is None:
            raise RuntimeError(f"no GUI connector for {type(widget).__name__} ({parameter.name})")
        if isinstance(widget, qt.QComboBox):
            if parameter.choice is None:
                raise RuntimeError(f"{parameter.name}: a combo box needs a Choice annotation")
            widget.clear()
            widget.addItems(parameter.choice.choices)
        self._wrapper, self._name, self._widget, self._connector = wrapper, parameter.name, widget, connector
        self.show()
        getattr(widget, connector.signal).connect(self.store)

    def store(self, *_arguments) -> None:
        setattr(self._wrapper, self._name, self._connector.read(self._widget))

    def show(self) -> None:
        value = getattr(self._wrapper, self._name)
        if value != self._connector.read(self._widget):
            blocked = self._widget.blockSignals(True)
            self._connector.write(self._widget, value)
            self._widget.blockSignals(blocked)

    def release(self) -> None:
        getattr(self._widget, self._connector.signal).disconnect(self.store)


def parameterNodeWrapper(cls):
    """Class decorator: annotated names become properties stored in the wrapped vtkMRMLScriptedModuleNode."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, kind, cls.__dict__.get(name)) for name, kind in hints.items()}

    class Wrapper(cls):
        allParameters: typing.ClassVar = {name: parameter.kind for name, parameter in parameters.items()}

        def __init__(self, node) -> None:
            object.__setattr__(self, "parameterNode", node)
            object.__setattr__(self, "_bound", {})
            for name, parameter in parameters.items():
                if not parameter.is_node and name not in node.GetParameterNames():
                    parameter.write(node, parameter.default)

        def __getattr__(self, name):
            return getattr(self.parameterNode, name)

        def __setattr__(self, name, value) -> None:
            if name not in parameters:
                raise AttributeError(f"{cls.__name__} has no parameter {name}")
            parameters[name].write(self.parameterNode, value)

        def connectGui(self, gui) -> int:
            widgets = [widget for widget in vars(gui).values() if isinstance(widget, qt.QWidget) and widget.property(PROPERTY)]
            unknown = [widget.property(PROPERTY) for widget in widgets if widget.property(PROPERTY) not in parameters]
            if unknown:
                raise ValueError(f"the .ui names unknown parameters {unknown}")
            bindings = [_Binding(self, parameters[widget.property(PROPERTY)], widget) for widget in widgets]

            def show_all(*_arguments) -> None:
                for binding in bindings:
                    binding.show()

            tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, show_all)
            self._bound[tag] = bindings
            return tag

        def disconnectGui(self, tag: int) -> None:
            self.parameterNode.RemoveObserver(tag)
            for binding in self._bound.pop(tag):
                binding.release()

    for name, parameter in parameters.items():
        accessor = property(
            lambda self, parameter=parameter: parameter.read(self.parameterNode),
            lambda self, value, parameter=parameter: parameter.write(self.parameterNode, value),
        )
        setattr(Wrapper, name, accessor)
    Wrapper.__name__, Wrapper.__qualname__, Wrapper.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Wrapper
