"""The command ``rauslicer transfer``: from files to files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import NOTICE, __version__
from ..errors import KeptElsewhereError
from ..imaging.checks import distinct_names
from ..imaging.dicom_source import VolumeSource
from ..imaging.files import check_output, prove_output, write_result
from ..inputs import Inputs, load_inputs, split_names
from ..models.store import model_folders
from ..results import Transfer
from ..support.decimals import enough_decimals, volume_text
from ..support.outputs import make_folder, require_apart, require_free, require_outside, require_writable, take_all, write_json
from ..support.printing import Table, say, show, warn
from .exit_codes import CANCELLED
from .progress import cancel_on_interrupt, show_progress

CONTACT_SHEET = "contact_sheet.png"
PICTURE_3D = "volume_3d.png"


def run_transfer(options: argparse.Namespace) -> int:
    """Check outputs and inputs, transfer, write what came out, and print it; return the exit code."""
    source = VolumeSource(options.target)
    on_reports = _check_outputs(options, source)
    # All of it: who stops while results are being written wants what is finished, and whole.
    with cancel_on_interrupt() as cancel:
        inputs = load_inputs(list(zip(options.reference, options.reference_segmentation, strict=True)), options.target)
        names = None if options.structures is None else split_names(options.structures, inputs.references)
        reference = inputs.references[0].segmentation
        on_output = prove_output(options.output, reference, reference.select(names), inputs.target, volume_path=source)
        on_output = list(dict.fromkeys([*on_output, *on_reports]))
        warn([*inputs.warnings, *on_output])
        # Late: torch takes seconds that a wrong file name need not cost.
        from ..pipeline import transfer

        with show_progress() as progress:
            result = transfer(
                inputs.references,
                inputs.target,
                structures=names,
                localizer=options.localizer,
                model=options.model,
                device=options.device,
                progress=progress,
                cancel=cancel,
            )
        warn([sentence for sentence in result.warnings if sentence not in inputs.warnings])
        if result.cancelled and not result.results:
            say("Cancelled before any structure was finished; nothing was written.", error=True)
            return CANCELLED
        done: list[str] = []
        try:
            take_all(_writing_steps(options, source, inputs, result, on_output, done))
        finally:
            # Not before: whoever reads what is printed may go away at any time.
            _print_result(result)
            for sentence in done:
                say(sentence)
        say(f"{NOTICE} Results are drafts: check every structure.")
        return CANCELLED if result.cancelled else 0


def _writing_steps(
    options: argparse.Namespace, source: VolumeSource, inputs: Inputs, result: Transfer, on_output: Sequence[str], done: list[str]
) -> list[Callable[[], None]]:
    """What writes the files that are asked for, the most precious first; each adds to ``done`` what is to be said of it."""
    written = options.output

    def segmentation() -> None:
        nonlocal written
        try:
            write_result(result.segmentation, options.output, inputs.target, volume_path=source, force=options.force)
        except KeptElsewhereError as error:
            written = error.path
            raise
        done.append(f"Written to {options.output} in {sum(result.timings.values()):.0f} s.")

    def document() -> None:
        write_json(options.json, "file", transfer_report(result, written, [*inputs.warnings, *on_output]))

    def reports() -> None:
        from .report import report_on_run

        done.extend(report_on_run(result, inputs.references, inputs.target, options.report, source, options.output))

    def pictures() -> None:
        from ..pictures import contact_sheet, picture_3d

        make_folder(options.pictures)
        sheet, surfaces = options.pictures / CONTACT_SHEET, options.pictures / PICTURE_3D
        take_all(
            [partial(contact_sheet, inputs.references[0], inputs.target, result, sheet), partial(picture_3d, result.segmentation, surfaces)]
        )

    wanted = ((segmentation, True), (document, options.json), (reports, options.report), (pictures, options.pictures))
    return [step for step, asked in wanted if asked]


def transfer_report(result: Transfer, output: Path, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The outcome as plain values for JSON: volumes in mL, boxes in mm (LPS), times in seconds.

    ``output`` is where the segmentation was written; ``warnings`` are sentences about the inputs, put before the run's own.
    """
    structures = []
    for outcome in result.results:
        found = outcome.localization
        structures.append(
            {
                "label": outcome.structure.label,
                "name": outcome.structure.name,
                "status": str(outcome.status),
                "confidence": round(outcome.confidence, 4),
                "presence": None if found is None else round(found.presence, 4),
                "volume_ml": round(outcome.volume_ml, enough_decimals(outcome.volume_ml, 3)),
                "reference_volume_ml": round(outcome.reference_volume_ml, enough_decimals(outcome.reference_volume_ml, 3)),
                "box_mm": None if found is None else found.box_mm,
            }
        )
    return {
        "rauslicer": __version__,
        "notice": NOTICE,
        "output": str(output),
        "model": result.model,
        "localizer": result.localizer,
        "cancelled": result.cancelled,
        "warnings": list(dict.fromkeys([*warnings, *result.warnings])),
        "seconds_by_stage": {stage: round(seconds, 2) for stage, seconds in result.timings.items()},
        "structures": structures,
    }


def _check_outputs(options: argparse.Namespace, source: VolumeSource) -> list[str]:
    """Make sure that all can be written; return what is to be said of reports."""
    references = [*options.reference, *options.reference_segmentation]
    check_output(options.output, options.force, volume_path=source, inputs=references)
    on_reports: list[str] = []
    outputs = [("output", options.output)]
    if options.report:
        from ..interpretation.rendering.files import check_outputs

        on_reports = check_outputs(options.report, [options.target, *references], options.force, target=source)
        outputs += [("report", path) for path in options.report]
    others = []
    if options.json:
        require_writable(options.json, "file")
        others.append(("file", options.json))
    if options.pictures:
        if not options.pictures.is_dir():
            require_free(options.pictures, "folder of pictures", force=False)
            require_writable(options.pictures.absolute(), "folder of pictures")
        else:
            require_writable(options.pictures / CONTACT_SHEET, "picture")
        others += [("picture", options.pictures / name) for name in (CONTACT_SHEET, PICTURE_3D)]
    for what, path in others:
        require_free(path, what, force=options.force, inputs=[options.target, *references])
    outputs += others
    require_outside(outputs, model_folders(options.model))
    require_apart([*outputs, *([("folder of pictures", options.pictures)] if options.pictures else [])])
    return on_reports


def _print_result(result: Transfer) -> None:
    table = Table()
    table.add_column("Structure", overflow="fold")
    table.add_column("Status", no_wrap=True)
    for heading in ("Confidence", "Volume mL", "Reference mL"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = distinct_names(tuple(outcome.structure for outcome in result.results))
    for name, outcome in zip(names, result.results, strict=True):
        figures = (f"{outcome.confidence:.2f}", volume_text(outcome.volume_ml), volume_text(outcome.reference_volume_ml))
        table.add_row(name, str(outcome.status), *figures)
    show(table)
    if result.cancelled:
        say("Cancelled: only the structures above were finished.")
