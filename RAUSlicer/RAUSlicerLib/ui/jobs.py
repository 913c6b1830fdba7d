"""The three kinds of run: a whole transfer, one structure again from nothing, and a correction. What is sent and what is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slicer.i18n import tr as _

from ..scene import boxes, record
from ..service.client import WorkerClient
from ..service.requests import RunRequest
from . import words


@dataclass(frozen=True)
class Inputs:
    """What a run needs. ``structures`` are names, None for all; ``output_node`` an existing segmentation, None for a new one.

    ``threads`` and ``memory_mb`` limit the worker; None leaves both to it.
    """

    reference_volume: object
    reference_segmentation: object
    target_volume: object
    structures: list[str] | None = None
    localizer: str = "vlm"
    model: str = "embedded"
    device: str = "auto"
    output_node: object = None
    threads: int | None = None
    memory_mb: int | None = None

    def request(self, structures: list[str] | None = None) -> RunRequest:
        """What is sent: a snapshot of the nodes.

        Raises:
            InputError: a node can't be used.
        """
        # Imported here, because SimpleITK would make loading the module slow.
        from ..imaging.segmentation import Reference
        from ..scene import segmentation_from_node, volume_from_node

        volume = volume_from_node(self.reference_volume)
        reference = Reference(volume, segmentation_from_node(self.reference_segmentation, self.reference_volume))
        options = {name: getattr(self, name) for name in ("localizer", "model", "device", "threads", "memory_mb")}
        return RunRequest(reference, volume_from_node(self.target_volume), structures, **options)


class TransferJob:
    """Carries structures over into a new or existing segmentation."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def prepare(self) -> None:
        """Take a snapshot of the nodes and check it, before anything is started.

        Raises:
            InputError: a node can't be used.
        """
        self._request = self.inputs.request(self.inputs.structures)
        self._request.reference.segmentation.select(self.inputs.structures)

    def send(self, client: WorkerClient, folder: Path) -> str:
        """Send the snapshot, with its files in a folder of the client's, and return the request's id."""
        return client.transfer(folder, self._request)

    def complete(self, reply: dict, undo) -> tuple:
        """Write the result that a reply names, and return what the listener is told: its node and the transfer."""
        from ..service import exchange

        transfer = exchange.read_result(reply)
        if reply.get("matched_again"):
            transfer = replace(transfer, warnings=(*transfer.warnings, words.matched_again()))
        return self.write(transfer, undo), transfer

    def write(self, transfer, undo):
        """Write the result and return the node it is in; None where nothing was found."""
        from ..scene import write_result

        inputs = self.inputs
        node = write_result(transfer, inputs.target_volume, inputs.output_node, undo, _("transfer"))
        if node is not None:
            record.remember_inputs(node, _alive(inputs.reference_volume), _alive(inputs.reference_segmentation), inputs.target_volume)
            record.remember_source(node, transfer.model, transfer.localizer)
        return node


class RedoJob(TransferJob):
    """Carries one structure of a result over again, as if it had never been done."""

    def __init__(self, inputs: Inputs, node, row) -> None:
        super().__init__(inputs)
        self._node, self._row = node, replace(row, painted=())

    def prepare(self) -> None:
        request = self.inputs.request()
        segmentation = request.reference.segmentation
        name = next((s.name for s in segmentation.structures if s.id == self._row.source), self._row.source)
        segmentation.select([name])
        self._request = replace(request, structures=[name])

    def write(self, transfer, undo):
        """Replace the structure's segment and return the result's node."""
        return self._replace(transfer, undo, _("redo of {structure}"))

    def _replace(self, transfer, undo, label: str):
        from ..scene import replace_segment

        # Cancelled before the structure was finished: it stays as it was.
        if not transfer.cancelled or transfer.results:
            replace_segment(transfer, self._row, self.inputs.target_volume, self._node, undo, label.format(structure=self._row.name))
        return self._node


class CorrectionJob(RedoJob):
    """Carries one structure over again from what the user has painted of it, or from where its box was moved to.

    Args:
        inputs: The run that is corrected.
        node: Its result.
        row: The structure.
        mask: The structure on the target's grid as it is now.
        planes: (axis, index) of the target that were painted since the last update.
        box_mm: Where the box was moved to, LPS, mm, in the target's own coordinates.
    """

    def __init__(self, inputs: Inputs, node, row, mask, planes=(), box_mm=None) -> None:
        super().__init__(inputs, node, row)
        self._mask, self._box = mask, box_mm
        self._row = record.with_painted(row, tuple(planes))

    def prepare(self) -> None:
        self._request = self.inputs.request()

    def send(self, client: WorkerClient, folder: Path) -> str:
        from ..correction.edits import Correction

        correction = Correction(self._row.source, self._mask, self._row.painted, self._box)
        return client.correct(folder, self._request, correction)

    def write(self, transfer, undo):
        """Replace the structure's segment and return the result's node."""
        node = self._replace(transfer, undo, _("update of {structure}"))
        if not transfer.cancelled or transfer.results:
            boxes.mark_used(node, self._row.key)
        return node


def _alive(node):
    # A node that was removed during the run can't be referred to.
    return node if node is not None and node.GetScene() is not None else None
