"""MRML nodes to library objects and back. Only this room and the panel import slicer and vtk; world coordinates become LPS here."""

from importlib import import_module

# What the panel needs at once is light; SimpleITK, which the way to the library needs, is loaded with the first of these.
_HOMES = {
    "UndoSteps": "undo",
    "replace_segment": "results",
    "segmentation_from_node": "segmentations",
    "volume_from_node": "volumes",
    "write_result": "results",
}

__all__ = ["UndoSteps", "replace_segment", "segmentation_from_node", "volume_from_node", "write_result"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
