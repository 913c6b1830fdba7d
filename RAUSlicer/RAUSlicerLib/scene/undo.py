"""What the module wrote can be taken back, one step at a time, and nothing else with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import slicer

from .record import BINARY


class UndoSteps:
    """The module's own steps: runs, corrections, removals, accepted drafts.

    A run into a new node is undone by removing the node. A change of a node is undone by putting back the segments it touched; what the
    user has painted on others since stays. Where the scene's own undo is switched on, a state is saved there too.
    """

    def __init__(self) -> None:
        self._steps: list[_NewNode | _Change] = []

    @contextmanager
    def new_node(self, scene, label: str = "") -> Iterator[list]:
        """One step that adds nodes to the scene; the caller appends them to the list."""
        _save_scene(scene)
        nodes: list = []
        try:
            yield nodes
        finally:
            if nodes:
                self._steps.append(_NewNode(label, nodes))

    @contextmanager
    def changing(self, node, ids: Sequence[str] = (), label: str = "", *, voxels: bool = True) -> Iterator[None]:
        """One step that changes the segments ``ids`` of a node, or adds segments to it. An error takes back what it had done.

        Where ``voxels`` is false, only what is said of the segments changes, and no copies of their voxels are made.
        """
        _save_scene(node.GetScene())
        step = _Change(label, node, ids, voxels)
        try:
            yield
        except Exception:
            step.note_added()
            step.undo()
            raise
        step.note_added()
        self._steps.append(step)

    @property
    def available(self) -> bool:
        """Whether there is a step to take back whose node is still in the scene."""
        self._forget_removed()
        return bool(self._steps)

    @property
    def label(self) -> str:
        """What the latest step did; empty where there is none."""
        return self._steps[-1].label if self.available else ""

    def also(self, callback: Callable[[], None]) -> None:
        """Call this when the latest step is taken back."""
        if self._steps:
            self._steps[-1].callbacks.append(callback)

    def undo(self) -> None:
        """Take the latest step back; does nothing where there is none."""
        if self.available:
            step = self._steps.pop()
            step.undo()
            for callback in step.callbacks:
                callback()

    def _forget_removed(self) -> None:
        self._steps = [step for step in self._steps if step.alive]


class _NewNode:
    def __init__(self, label: str, nodes: list) -> None:
        self.label, self._nodes = label, nodes
        self.callbacks: list[Callable[[], None]] = []

    @property
    def alive(self) -> bool:
        return any(node.GetScene() is not None for node in self._nodes)

    def undo(self) -> None:
        for node in self._nodes:
            if node.GetScene() is not None:
                node.GetScene().RemoveNode(node)


class _Change:
    """Copies of the segments that are about to change; the label maps of shared layers are cut out, so that a copy holds one segment."""

    def __init__(self, label: str, node, ids: Sequence[str], voxels: bool) -> None:
        self.label, self._node = label, node
        self.callbacks: list[Callable[[], None]] = []
        segmentation = node.GetSegmentation()
        self._attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
        self._order = list(segmentation.GetSegmentIDs())
        self._before = {id_: _copy(node, id_, voxels) for id_ in ids if id_ in self._order}
        self._added: set[str] = set()

    @property
    def alive(self) -> bool:
        return self._node.GetScene() is not None

    def note_added(self) -> None:
        self._added = set(self._node.GetSegmentation().GetSegmentIDs()) - set(self._order)

    def undo(self) -> None:
        segmentation = self._node.GetSegmentation()
        modifying = self._node.StartModify()
        for id_ in self._added & set(segmentation.GetSegmentIDs()):
            segmentation.RemoveSegment(id_)
        for id_, (segment, image) in self._before.items():
            if segmentation.GetSegment(id_) is None:
                if image is None:
                    # Removed since, by somebody else.
                    continue
                # The copy holds this segment alone, with the value 1.
                segment.SetLabelValue(1)
                segment.AddRepresentation(BINARY, image)
                following = self._order[self._order.index(id_) + 1 :]
                before = next((other for other in following if segmentation.GetSegment(other) is not None), "")
                segmentation.AddSegment(segment, id_, before)
            else:
                current = segmentation.GetSegment(id_)
                value = current.GetLabelValue()
                current.DeepCopyMetadata(segment)
                # Its layer may be another one now, where it has another value.
                current.SetLabelValue(value)
                if image is not None:
                    write_label_map(self._node, id_, image)
        for name in set(self._node.GetAttributeNames()) | set(self._attributes):
            self._node.SetAttribute(name, self._attributes.get(name))
        self._node.EndModify(modifying)


def write_label_map(node, id_: str, image: slicer.vtkOrientedImageData) -> None:
    """Give a segment these voxels and no others. A layer that it shares is left to the others where the two would overlap."""
    if image.IsEmpty():
        node.GetSegmentation().ClearSegment(id_)
        return
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(image, node, id_, logic.MODE_REPLACE)


def _copy(node, id_: str, voxels: bool) -> tuple[slicer.vtkSegment, slicer.vtkOrientedImageData | None]:
    original = node.GetSegmentation().GetSegment(id_)
    segment = slicer.vtkSegment()
    segment.DeepCopyMetadata(original)
    if not voxels:
        return segment, None
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(id_, image)
    return segment, image


def _save_scene(scene) -> None:
    if scene.GetUndoFlag():
        scene.SaveStateForUndo()
