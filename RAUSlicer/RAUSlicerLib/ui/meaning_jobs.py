"""What is asked of the worker about a result: a report, or a question. The scene stays as it is."""

from __future__ import annotations

from pathlib import Path

from ..scene import record
from ..service.client import WorkerClient
from ..service.requests import CaseRequest


class ReportJob:
    """Writes a report on a result as it is now.

    Args:
        node: The result.
        save: A file to write it to as well.

    ``warnings`` are what is to be said of that file, once it is written.
    """

    def __init__(self, node, save: Path | None = None) -> None:
        self.node, self.save = node, save
        self.warnings: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Take a snapshot of the result, before anything is started.

        Raises:
            InputError: a node can't be used.
        """
        from ..scene import cases

        self._snapshot = cases.snapshot_of(self.node)
        self._stamp = cases.stamp(self.node)
        self._dicom = cases.dicom_folder(record.inputs_of(self.node)[2])

    def send(self, client: WorkerClient, folder: Path) -> str:
        """Send the snapshot, with its files in a folder of the client's, and return the request's id."""
        return client.report(folder, _case(self._snapshot), self.save, self._dicom)

    def complete(self, reply: dict, _undo) -> tuple:
        """What the listener is told: this job, the report, the rows' keys by the names in it, and the result's stamp when it was read."""
        from ..service.case_files import read_report

        self.warnings = tuple(reply.get("warnings", ()))
        return self, read_report(Path(reply["report"])), self._snapshot.keys, self._stamp


class QuestionJob:
    """Asks a question about a result as it is now.

    Args:
        node: The result.
        question: In English.
        point: Where "here" is, LPS, mm, in the target's own coordinates.
        region: What "the marked region" is: booleans (z, y, x) on the target's grid.
    """

    def __init__(self, node, question: str, point=None, region=None) -> None:
        self.node, self.question = node, question
        self._point, self._region = point, region

    def prepare(self) -> None:
        from ..scene import cases

        self._snapshot = cases.snapshot_of(self.node)

    def send(self, client: WorkerClient, folder: Path) -> str:
        return client.ask(folder, _case(self._snapshot), self.question, self._point, self._region)

    def complete(self, reply: dict, _undo) -> tuple:
        """What the listener is told: this job, the answer, and the rows' keys by the names in it."""
        from ..service.case_files import read_answer

        return self, read_answer(Path(reply["answer"])), self._snapshot.keys


def _case(snapshot) -> CaseRequest:
    return CaseRequest(snapshot.volume, snapshot.segmentation, snapshot.results, snapshot.reference, snapshot.source)
