"""MRML nodes to library objects and back. Only this room and the panel import slicer and vtk; world coordinates become LPS here."""

from .results import write_result
from .segmentations import segmentation_from_node
from .undo import RunUndo
from .volumes import volume_from_node

__all__ = ["RunUndo", "segmentation_from_node", "volume_from_node", "write_result"]
