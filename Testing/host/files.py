"""Loading and saving of volumes, segmentations and scenes, as slicer.util expects it of slicer.app.coreIOManager()."""

from __future__ import annotations

from pathlib import Path

import slicer

_SEGMENTATION = (".seg.nrrd", ".seg.nhdr")
_SCENE = (".mrml", ".mrb")


class FileManager:
    """Knows the three kinds of file that a segmentation module meets."""

    def __init__(self, scene, application_logic) -> None:
        self._scene = scene
        self._logic = application_logic

    def fileType(self, path: str) -> str:
        name = str(path).lower()
        if name.endswith(_SEGMENTATION):
            return "SegmentationFile"
        return "SceneFile" if name.endswith(_SCENE) else "VolumeFile"

    def fileWriterFileType(self, node, _format: str = "") -> str:
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "VolumeFile"

    def loadNodes(self, file_type: str, properties: dict, nodes=None, messages=None) -> bool:
        path = str(Path(properties["fileName"]).resolve())
        name = properties.get("name") or Path(path).name.split(".")[0]
        if file_type == "SceneFile":
            self._scene.SetURL(path)
            if path.lower().endswith(".mrb"):
                return bool(self._scene.ReadFromMRB(path, bool(properties.get("clear", True)), messages))
            return bool(self._scene.Connect(messages) if properties.get("clear") else self._scene.Import(messages))
        if file_type == "SegmentationFile":
            node = slicer.modules.segmentations.logic().LoadSegmentationFromFile(path, True, name)
        else:
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
        if node is None:
            return False
        if file_type == "VolumeFile" and properties.get("show", True):
            self._logic.GetSelectionNode().SetActiveVolumeID(node.GetID())
            self._logic.PropagateVolumeSelection()
        if nodes is not None:
            nodes.AddItem(node)
        return True

    def saveNodes(self, file_type: str, properties: dict, messages=None) -> bool:
        path = str(Path(properties["fileName"]).resolve())
        if file_type == "SceneFile":
            if path.lower().endswith(".mrb"):
                return bool(self._scene.WriteToMRB(path, None, messages))
            self._scene.SetURL(path)
            return bool(self._scene.Commit(path, messages))
        node = self._scene.GetNodeByID(properties["nodeID"])
        if not node.GetStorageNode():
            node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))
