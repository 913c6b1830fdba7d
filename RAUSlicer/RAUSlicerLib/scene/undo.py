"""One undo step a run: what a run wrote can be taken back at once."""

from __future__ import annotations

import slicer


class RunUndo:
    """Remembers how the scene was before each run.

    A run into a new node is undone by removing the node, a run into an existing one by bringing back its segments as they were. Where the
    scene's own undo is switched on, a state is saved there too.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[object, slicer.vtkSegmentationHistory | None]] = []

    def before_new(self, scene) -> None:
        """A run is about to add a node to the scene."""
        if scene.GetUndoFlag():
            scene.SaveStateForUndo()

    def added(self, node) -> None:
        """The run has added this node."""
        self._steps.append((node, None))

    def before_change(self, node) -> None:
        """A run is about to add segments to this node."""
        if node.GetScene().GetUndoFlag():
            node.GetScene().SaveStateForUndo()
        history = slicer.vtkSegmentationHistory()
        history.SetSegmentation(node.GetSegmentation())
        history.SaveState()
        self._steps.append((node, history))

    @property
    def available(self) -> bool:
        """Whether there is a run to take back whose node is still in the scene."""
        self._forget_removed()
        return bool(self._steps)

    def undo(self) -> None:
        """Take the latest run back; does nothing where there is none."""
        self._forget_removed()
        if not self._steps:
            return
        node, history = self._steps.pop()
        if history is None:
            node.GetScene().RemoveNode(node)
        else:
            history.RestorePreviousState()

    def _forget_removed(self) -> None:
        self._steps = [step for step in self._steps if step[0].GetScene() is not None]
