"""What the user chose, kept in the scene and saved with it."""

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class Parameters:
    """The parameter node's typed face. Structures that are left out are kept by segment id, so that new segments are ticked."""

    referenceVolume: vtkMRMLScalarVolumeNode
    referenceSegmentation: vtkMRMLSegmentationNode
    targetVolume: vtkMRMLScalarVolumeNode
    excludedSegments: list[str]
    localizer: str = "vlm"
    model: str = "embedded"
    device: str = "auto"
