"""What the user chose, kept in the scene and saved with it."""

from typing import Annotated

import slicer.util
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, parameterNodeWrapper

# How Slicer tells the module's parameter nodes from others.
MODULE_ATTRIBUTE, MODULE_NAME = "ModuleName", "RAUSlicer"
_ROLES = ("referenceVolume", "referenceSegmentation", "targetVolume", "resultSegmentation")


@parameterNodeWrapper
class Parameters:
    """The parameter node's typed face. Structures that are left out are kept by segment id, so that new segments are ticked."""

    referenceVolume: vtkMRMLScalarVolumeNode
    referenceSegmentation: vtkMRMLSegmentationNode
    targetVolume: vtkMRMLScalarVolumeNode
    resultSegmentation: vtkMRMLSegmentationNode
    excludedSegments: list[str]
    localizer: str = "vlm"
    model: str = "embedded"
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"


def loaded_set(current):
    """A set of settings in which an input was chosen, where none is in the current one; None where there is nothing to change to."""
    if current is not None and _used(current):
        return None
    nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
    sets = [node for node in nodes if node.GetAttribute(MODULE_ATTRIBUTE) == MODULE_NAME]
    return next((node for node in sets if node is not current and _used(node)), None)


def _used(parameter_node) -> bool:
    return any(parameter_node.GetNodeReferenceID(role) for role in _ROLES)
