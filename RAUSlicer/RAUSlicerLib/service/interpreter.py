"""Reports and answers in the worker. The last case stays measured, so that a further question about it is answered at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import CancelToken, ProgressCallback, ProgressEvent
from .protocol import CancelledError, Message, ProtocolError
from .requests import CaseRequest

if TYPE_CHECKING:
    import numpy as np

    from ..imaging.dicom_source import VolumeSource
    from ..imaging.segmentation import Segmentation
    from ..interpretation.evidence import StructureFindings

READING_STAGE, MEASURING_STAGE, WRITING_STAGE = "reading the result", "measuring", "writing the report"


@dataclass(frozen=True)
class _Measured:
    """A case by its fingerprint, with what was measured of it."""

    key: str
    case: CaseRequest
    findings: tuple[StructureFindings, ...]


class Interpreter:
    """Does what report and ask requests want. Needs no model and no torch."""

    def __init__(self) -> None:
        self._last: _Measured | None = None

    def forget(self) -> None:
        """Let go of the last case."""
        self._last = None

    def run(self, message: Message, progress: ProgressCallback, cancel: CancelToken) -> Message:
        """The fields of the reply; a RAUSlicerError is whatever hinders it and can be explained."""
        source = None if message.get("save") is None else _checked_source(message)
        measured = self._measured(message, progress, cancel)
        progress(ProgressEvent(WRITING_STAGE, 0.8))
        said = _answer(message, measured) if message["type"] == "ask" else _report(message, measured, source)
        _unless_cancelled(cancel)
        self._last = measured
        progress(ProgressEvent(WRITING_STAGE, 1.0))
        return {**said, "measured": measured.key}

    def _measured(self, message: Message, progress: ProgressCallback, cancel: CancelToken) -> _Measured:
        key = message["case"]
        if self._last is not None and self._last.key == key:
            return self._last
        if "target" not in message:
            raise ProtocolError(
                "The result that is asked about is no longer kept.",
                "The request names no files from which it could be measured again.",
                "Ask once more: everything is then sent again.",
            )
        # One at a time: a second large volume may not fit beside it.
        self._last = None
        from ..interpretation.measuring import measure
        from .case_files import read_case

        progress(ProgressEvent(READING_STAGE, 0.05))
        case = read_case(message)
        _unless_cancelled(cancel)
        progress(ProgressEvent(MEASURING_STAGE, 0.2))
        stop = partial(_unless_cancelled, cancel)
        findings = tuple(measure(case.volume, case.segmentation, case.results, case.reference, checkpoint=stop))
        stop()
        return _Measured(key, case, findings)


def _answer(message: Message, measured: _Measured) -> Message:
    from ..interpretation.questions import answer
    from .case_files import write_answer

    point, case = message.get("point"), measured.case
    answered = answer(
        message["question"],
        measured.findings,
        case.results,
        case.segmentation,
        point=None if point is None else (point[0], point[1], point[2]),
        region=_region(message, case.segmentation),
    )
    path = Path(message["output"])
    write_answer(path, answered)
    return {"answer": str(path)}


def _region(message: Mapping[str, Any], segmentation: Segmentation) -> np.ndarray | None:
    if message.get("region") is None:
        return None
    import SimpleITK as sitk

    from ..imaging.files import read_volume

    mask = read_volume(message["region"])
    if mask.GetSize() != segmentation.labelmap.GetSize():
        raise InputError(
            f"The marked region has {mask.GetSize()} voxels, the target {segmentation.labelmap.GetSize()}.",
            "It marks voxels of the target.",
            "Mark the region again.",
        )
    region: np.ndarray = sitk.GetArrayFromImage(mask) > 0
    return region


def _report(message: Message, measured: _Measured, source: VolumeSource | None) -> Message:
    from ..interpretation import report as reports
    from .case_files import write_report

    report = reports.write_report(measured.findings, measured.case.source)
    path = Path(message["output"])
    write_report(path, report)
    if source is None:
        return {"report": str(path)}
    from ..interpretation.rendering.files import ReportedCase, save_reports

    case = measured.case
    reported = ReportedCase.of_results(case.volume, case.segmentation, case.results, source)
    warnings = save_reports(report, [Path(message["save"])], reported)
    # The client puts it where the user wants it.
    return {"report": str(path), "saved": message["save"], "warnings": warnings}


def _checked_source(message: Message) -> VolumeSource:
    """The target's series, which a DICOM report belongs to, once it is sure that the report can be saved."""
    from ..imaging.dicom_source import VolumeSource
    from ..interpretation.rendering.files import check_outputs

    source = VolumeSource(message.get("dicom"))
    check_outputs([Path(message["save"])], source.paths, force=True, target=source)
    return source


def _unless_cancelled(cancel: CancelToken) -> None:
    if cancel.cancelled:
        raise CancelledError("It was cancelled.", "Nothing was written.", "Start again when you like.")
