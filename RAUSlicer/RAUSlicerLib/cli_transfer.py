"""The command ``rauslicer transfer``: from files to files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from . import NOTICE, __version__
from .cli import CANCELLED
from .cli_progress import cancel_on_interrupt, show_progress
from .errors import OutputError
from .imaging.checks import distinct_names
from .imaging.files import check_output, prove_output, write_result
from .inputs import load_inputs, split_names
from .outputs import require_free, require_writable, writing
from .results import Transfer

CONTACT_SHEET = "contact_sheet.png"
PICTURE_3D = "volume_3d.png"


def run_transfer(options: argparse.Namespace) -> int:
    """Check outputs and inputs, transfer, write what came out, and print it; return the exit code."""
    _check_outputs(options)
    with cancel_on_interrupt() as cancel:
        inputs = load_inputs(list(zip(options.reference, options.reference_segmentation, strict=True)), options.target)
        names = None if options.structures is None else split_names(options.structures, inputs.references)
        reference = inputs.references[0].segmentation
        on_output = prove_output(options.output, reference, reference.select(names), inputs.target, volume_path=options.target)
        _warn([*inputs.warnings, *on_output])
        # Late: torch takes seconds that a wrong file name need not cost.
        from .pipeline import transfer

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
    _warn([sentence for sentence in result.warnings if sentence not in inputs.warnings])
    if result.cancelled and not result.results:
        print("Cancelled before any structure was finished; nothing was written.", file=sys.stderr)
        return CANCELLED
    write_result(result.segmentation, options.output, inputs.target, volume_path=options.target, force=options.force)
    if options.json:
        with writing(options.json, "file") as part:
            document = transfer_report(result, options.output, [*inputs.warnings, *on_output])
            part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.pictures:
        from .pictures import contact_sheet, picture_3d

        options.pictures.mkdir(exist_ok=True)
        contact_sheet(inputs.references[0], inputs.target, result, options.pictures / CONTACT_SHEET)
        picture_3d(result.segmentation, options.pictures / PICTURE_3D)
    _print_result(result, options.output)
    if options.report:
        from .cli_report import report_on_run

        report_on_run(result, inputs.references, inputs.target, options.report, options.target, options.output)
    return CANCELLED if result.cancelled else 0


def transfer_report(result: Transfer, output: Path, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The outcome as plain values for JSON: volumes in mL, boxes in mm (LPS), times in seconds.

    Args:
        result: What the pipeline returned.
        output: Where the segmentation was written.
        warnings: Sentences about the inputs, put before the run's own.
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
                "volume_ml": round(outcome.volume_ml, 3),
                "reference_volume_ml": round(outcome.reference_volume_ml, 3),
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


def _check_outputs(options: argparse.Namespace) -> None:
    check_output(options.output, options.force, volume_path=options.target)
    inputs = [options.target, *options.reference, *options.reference_segmentation]
    require_free(options.output, "output", force=options.force, inputs=inputs)
    if options.report:
        from .interpretation.rendering.files import check_outputs

        check_outputs(options.report, inputs, options.force)
        _require_apart(options.report, [path for path in (options.output, options.json) if path is not None])
    if options.json:
        require_free(options.json, "file", force=options.force, inputs=inputs)
        require_writable(options.json, "file")
    if options.pictures:
        if not options.pictures.is_dir():
            require_free(options.pictures, "folder of pictures", force=False)
            require_writable(options.pictures.absolute(), "folder of pictures")
        for name in (CONTACT_SHEET, PICTURE_3D):
            require_free(options.pictures / name, "picture", force=options.force, inputs=inputs)


def _require_apart(reports: Sequence[Path], others: Sequence[Path]) -> None:
    for path in reports:
        if path.absolute() in [other.absolute() for other in others]:
            raise OutputError(
                f"The report {str(path)!r} has the name of another output.", "One would replace the other.", "Choose another name."
            )


def _warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"Warning: {sentence}", file=sys.stderr)


def _print_result(result: Transfer, output: Path) -> None:
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Structure", overflow="fold")
    table.add_column("Status", no_wrap=True)
    for heading in ("Confidence", "Volume mL", "Reference mL"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = distinct_names(tuple(outcome.structure for outcome in result.results))
    for name, outcome in zip(names, result.results, strict=True):
        figures = (f"{outcome.confidence:.2f}", f"{outcome.volume_ml:.2f}", f"{outcome.reference_volume_ml:.2f}")
        table.add_row(name, str(outcome.status), *figures)
    console.print(table, markup=False)
    if result.cancelled:
        console.print("Cancelled: only the structures above were finished.")
    console.print(f"Written to {output} in {sum(result.timings.values()):.0f} s.", markup=False, soft_wrap=True)
    console.print(f"{NOTICE} Results are drafts: check every structure.")
