"""Writes a report to files; the ending of a name is the format."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from ...anatomy.terms import load_graph
from ...errors import OutputError
from ...imaging.checks import distinct_names
from ...imaging.segmentation import Segmentation, Structure
from ...results import Status, StructureResult
from ...support.outputs import require_apart, require_free, require_writable, take_all, write_text, writing
from ..evidence import Report

if TYPE_CHECKING:
    from ...imaging.dicom_source import Source

SUFFIXES = (".md", ".html", ".json", ".dcm")


@dataclass(frozen=True)
class ReportedCase:
    """What a report is about, for pictures and for DICOM.

    Args:
        volume: The target.
        segmentation: On the target's grid.
        structures: Those of the segmentation, by the names in the report.
        volume_path: Where the target was read from; a DICOM SR belongs to that series. A `VolumeSource` reads it but once.
        segmentation_path: Where the segmentation was read from; a DICOM SR refers to a DICOM SEG.
    """

    volume: sitk.Image
    segmentation: Segmentation
    structures: Mapping[str, Structure]
    volume_path: Source = None
    segmentation_path: Path | None = None

    @classmethod
    def of_results(
        cls,
        volume: sitk.Image,
        segmentation: Segmentation,
        results: Sequence[StructureResult],
        volume_path: Source = None,
        segmentation_path: Path | None = None,
    ) -> ReportedCase:
        """The case of a run's results, whose structures the segmentation holds."""
        structures = tuple(result.structure for result in results)
        return cls(volume, segmentation, dict(zip(distinct_names(structures), structures, strict=True)), volume_path, segmentation_path)


def check_outputs(paths: Sequence[Path], inputs: Sequence[Path], force: bool = False, *, target: Source = None) -> list[str]:
    """Make sure that reports can be written, before any image is read.

    Args:
        paths: Where reports are to be written.
        inputs: Files and folders that are read; they are never written to, whatever ``force`` says.
        force: Whether existing files may be replaced.
        target: Where the target is read from; a DICOM SR belongs to that series.

    Returns:
        Sentences for the user on what such a series lacks.

    Raises:
        InputError: a target that can't be read, where a DICOM SR is to belong to it.
        OutputError: unknown ending, a name given twice, an existing file without ``force``, an input, a missing or unwritable folder, a
            DICOM SR of a target that is no DICOM.
    """
    notes: list[str] = []
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise OutputError(
                f"The report {str(path)!r} is in no format that can be written.",
                f"Reports are written to names that end in {', '.join(SUFFIXES)}.",
                "Choose .html, which shows a picture of every structure.",
            )
        require_free(path, "report", force=force, inputs=inputs)
        require_writable(path, "report")
        if path.suffix.lower() == ".dcm":
            from .dicom_sr import require_source

            notes += require_source(target, path).warnings
    require_apart([("report", path) for path in paths])
    return list(dict.fromkeys(notes))


def save_reports(report: Report, paths: Sequence[Path], case: ReportedCase) -> list[str]:
    """Write a report in every format that is asked for; each file appears complete or not at all, and existing ones are replaced.

    Returns:
        Sentences for the user on what was made up for: those of ``check_outputs``.

    Raises:
        OutputError: a file can't be written, or the target's DICOM headers don't allow a DICOM SR.
        InputError: what a DICOM SR names can't be read.
    """
    notes: list[str] = []
    take_all([partial(_write, report, path, case, notes) for path in paths])
    return list(dict.fromkeys(notes))


def _write(report: Report, path: Path, case: ReportedCase, notes: list[str]) -> None:
    # Each is imported where it is wanted: matplotlib and highdicom take a second that Markdown need not cost.
    suffix = path.suffix.lower()
    if suffix == ".dcm":
        from . import dicom_sr

        graphs = {name: load_graph(name) for found in report.findings if (name := found.graph) is not None}
        # All that is read is read before: below, what the operating system refuses is blamed on the output.
        segments = dicom_sr.segments_of(case.segmentation_path, case.structures)
        series = dicom_sr.require_source(case.volume_path, path)
        with writing(path, "report") as part:
            notes += dicom_sr.write(report, part, series, case.structures, graphs, segments, named=path)
    elif suffix == ".html":
        from . import html

        write_text(path, "report", html.render(report, _pictures(report, case)))
    elif suffix == ".json":
        from . import json_report

        write_text(path, "report", json_report.render(report))
    else:
        from . import markdown

        write_text(path, "report", markdown.render(report))


def _pictures(report: Report, case: ReportedCase) -> dict[str, bytes]:
    if importlib.util.find_spec("matplotlib") is None:
        # 3D Slicer does not bring it; the page is complete without pictures.
        return {}
    from .outlines import structure_pictures

    there = {found.name: found.status for found in report.findings if found.status is not Status.NOT_FOUND}
    shown = {name: structure for name, structure in case.structures.items() if name in there}
    uncertain = frozenset(name for name, status in there.items() if status is Status.LOW_CONFIDENCE)
    return structure_pictures(case.volume, case.segmentation, shown, uncertain)
