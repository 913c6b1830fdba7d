"""The command ``rauslicer report``: what was measured of a segmented target, in sentences that name their evidence."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import NOTICE
from ..errors import InputError
from ..support.printing import say, warn
from .options import add_case

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..imaging.dicom_source import Source
    from ..imaging.segmentation import Reference
    from ..interpretation.evidence import StructureFindings
    from ..interpretation.rendering.files import ReportedCase
    from ..results import Transfer

_REFERENCE = "the reference case"


def add_options(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    required = command.add_argument_group("required")
    add_case(command, required)
    required.add_argument(
        "--output",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="the report: Markdown (.md), a page with pictures (.html), .json, or a DICOM structured report (.dcm); repeatable",
    )
    command.add_argument("--library", type=Path, metavar="FILE", help="library of cases to compare with; see docs/reference/anatomy.md")
    command.add_argument("--force", action="store_true", help="overwrite existing reports")


def run_report(options: argparse.Namespace) -> int:
    """Check outputs, read, measure, write the reports, and say where they are; return the exit code."""
    from ..imaging.dicom_source import VolumeSource
    from ..interpretation.rendering.files import ReportedCase, check_outputs

    target = VolumeSource(options.target)
    given = (options.target, options.segmentation, options.reference, options.reference_segmentation, options.result, options.library)
    on_output = check_outputs(options.output, [path for path in given if path is not None], options.force, target=target)
    # Late: a wrong file name need not cost the time that these take.
    from ..interpretation.library import Library
    from ..interpretation.measuring import measure
    from ..interpretation.segmented import load_reference, load_segmented

    case = load_segmented(options.target, options.segmentation, options.result)
    warn([*case.warnings, *on_output])
    reference = None if options.reference is None else load_reference(options.reference, options.reference_segmentation)
    library = None if options.library is None else Library.load(options.library)
    findings = measure(case.volume, case.segmentation, case.results, reference, library)
    if not findings:
        raise InputError(
            f"The segmentation {str(options.segmentation)!r} has no structures.",
            "There is nothing to report on.",
            "Give the segmentation that belongs to the target.",
        )
    beside = [] if reference is None else [_REFERENCE]
    if library is not None:
        beside.append(f"the library {library.name!r} ({library.cases} cases)")
    reported = ReportedCase.of_results(case.volume, case.segmentation, case.results, target, options.segmentation)
    for sentence in _write(findings, {**case.source, "compared with": " and ".join(beside) or "nothing"}, reported, options.output):
        say(sentence)
    say(NOTICE)
    return 0


def report_on_run(
    result: Transfer, references: Sequence[Reference], target: sitk.Image, outputs: Sequence[Path], source: Source, result_path: Path
) -> list[str]:
    """Measure what a run has found and write the reports; return what is to be said of them.

    With several references nothing is compared, because each structure may come from another. ``outputs`` were checked by
    ``check_outputs`` before the run; ``source`` is where the target was read from, ``result_path`` where the segmentation was written.
    """
    from ..interpretation.measuring import measure
    from ..interpretation.rendering.files import ReportedCase

    reference = references[0] if len(references) == 1 else None
    findings = measure(target, result.segmentation, result.results, reference)
    headings = {"model": result.model, "localizer": result.localizer, "compared with": "nothing" if reference is None else _REFERENCE}
    if result.cancelled:
        headings["run"] = "cancelled; only what was finished"
    reported = ReportedCase.of_results(target, result.segmentation, result.results, source, result_path)
    return _write(findings, headings, reported, outputs)


def _write(findings: Sequence[StructureFindings], source: Mapping[str, str], case: ReportedCase, outputs: Sequence[Path]) -> list[str]:
    from ..interpretation.rendering.files import save_reports
    from ..interpretation.report import write_report

    report = write_report(findings, {heading.capitalize(): text for heading, text in source.items()})
    save_reports(report, outputs, case)
    return [f"{len(findings)} structures, {len(report.sentences)} sentences.", *(f"Written to {path}." for path in outputs)]
