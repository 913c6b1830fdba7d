"""The demonstration: transfers the sample reference's structures to the sample target, and shows and writes what came out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import SimpleITK as sitk
from rich.console import Console

from .. import NOTICE
from ..imaging.files import check_output, read_segmentation, read_volume, write_segmentation
from ..imaging.overlap import dice
from ..imaging.segmentation import Reference, Segmentation
from ..models.store import model_folders
from ..pictures import contact_sheet, picture_3d
from ..progress import CancelToken, ProgressCallback, ProgressEvent, ignore, part
from ..results import Status, Transfer
from ..support import strict_json
from ..support.decimals import volume_text
from ..support.outputs import foreign, make_folder, require_free, require_outside, unwritable, write_json
from ..support.printing import Table, output_console
from ..support.resources import resource_path
from ..support.scratch import ScratchFolder
from ..support.text import printable
from .transfer import CONTACT_SHEET, PICTURE_3D, transfer_report

RESULT = "result.seg.nrrd"
REPORT = "report.json"

AGREEMENT_NOTE = (
    "Agreement is the Dice overlap with the reference's AAL labels, copied to the target by MNI coordinates. That is an approximation, not "
    "a ground truth: nobody has labelled the target, the two brains lie only roughly in the same space, and a plain copy would score 1."
)

Run = Callable[..., Transfer]


@dataclass(frozen=True)
class DemoResult:
    """What ``run_demo`` returns.

    ``agreement`` is Dice with the copied AAL labels by structure name. ``files`` are the paths that were written. ``seconds`` is the
    elapsed time by step; "transfer" is the run itself, whose own stages are in ``transfer.timings``.
    """

    transfer: Transfer
    agreement: dict[str, float]
    files: tuple[Path, ...]
    seconds: dict[str, float]


def load_sample() -> tuple[Reference, sitk.Image]:
    """The shipped reference (Colin27 with AAL's 116 structures) and target (ICBM152), both skull-stripped T1 in MNI space at 1 mm.

    Raises:
        ResourceError: the sample data was not shipped.
    """
    folder = resource_path("SampleData")
    reference = Reference(read_volume(folder / "reference.nii.gz"), read_segmentation(folder / "reference.seg.nrrd"))
    return reference, read_volume(folder / "target.nii.gz")


def agreement_with_atlas(atlas: Segmentation, result: Segmentation) -> dict[str, float]:
    """Dice of every structure of ``result`` with the structure of the same name in ``atlas``, both taken where they lie in patient space.

    ``atlas`` is resampled (nearest neighbour) to the grid of ``result``. A structure that ``result`` lists but has no voxel of scores 0.
    """
    common = [sitk.Resample(layer, result.labelmap, sitk.Transform(), sitk.sitkNearestNeighbor) for layer in atlas.layers]
    in_common = {structure.name: atlas.map_layers(common).array(structure) for structure in atlas.structures}
    return {structure.name: dice(in_common[structure.name], result.array(structure)) for structure in result.structures}


def run_demo(
    output: Path,
    progress: ProgressCallback = ignore,
    *,
    structures: Sequence[str] | None = None,
    localizer: str = "vlm",
    model: str = "embedded",
    device: str = "auto",
    cancel: CancelToken | None = None,
    console: Console | None = None,
    run: Run | None = None,
) -> DemoResult:
    """Run the main job on the sample data, write segmentation, pictures and report into ``output``, and print a table of the structures.

    Files of an earlier demo in ``output`` are replaced; other files are left alone. ``structures``, ``localizer``, ``model``, ``device``
    and ``cancel`` are those of ``pipeline.transfer``, which ``run`` may replace by anything with its signature.

    Raises:
        OutputError: ``output`` can't be created or written to.
        RAUSlicerError: as ``pipeline.transfer`` raises it.
    """
    make_folder(output)
    files = tuple(output / name for name in (RESULT, CONTACT_SHEET, PICTURE_3D, REPORT))
    _check_outputs(files, model)
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        last, before = time.perf_counter(), last
        seconds[name] = last - before

    reference, target = load_sample()
    lap("read")
    run = run or _loaded(model, device)
    lap("load")
    result = run(
        reference,
        target,
        structures=structures,
        localizer=localizer,
        model=model,
        device=device,
        progress=part(progress, 0.0, 0.9),
        cancel=cancel,
    )
    lap("transfer")
    agreement = agreement_with_atlas(reference.segmentation, result.segmentation)
    progress(ProgressEvent("writing", 0.92))
    try:
        with ScratchFolder(output) as scratch:
            write_segmentation(result.segmentation, scratch / RESULT, target)
            contact_sheet(reference, target, result, scratch / CONTACT_SHEET)
            progress(ProgressEvent("writing", 0.96))
            picture_3d(result.segmentation, scratch / PICTURE_3D)
            lap("write")
            demo = DemoResult(result, agreement, files, seconds)
            write_json(scratch / REPORT, "report", demo_report(demo))
            # The report first: it tells the next demo that the other files are a demo's, even if this one is killed here.
            for name in (REPORT, RESULT, CONTACT_SHEET, PICTURE_3D):
                os.replace(scratch / name, output / name)
    except OSError as error:
        raise unwritable(output, "output", error) from error
    progress(ProgressEvent("writing", 1.0))
    print_report(demo, console or output_console())
    return demo


def _check_outputs(files: Sequence[Path], model: str) -> None:
    """Make sure that the files can be written, and that those which are there are a demo's."""
    outputs = [("output", path) for path in files]
    require_outside(outputs, model_folders(model))
    check_output(files[0], force=True)
    own = _is_demos(files[-1])
    for what, path in outputs:
        require_free(path, what, force=True)
        if path.exists() and not own:
            raise foreign(path, "earlier demo", "with --output")


def _is_demos(report: Path) -> bool:
    try:
        document = strict_json.load(report)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "agreement_note" in document


def _loaded(model: str, device: str) -> Run:
    # Late: the pipeline imports torch, which takes seconds that a bad output folder need not cost.
    from ..pipeline import Pipeline, transfer

    return partial(transfer, pipeline=Pipeline(model, device))


def demo_report(demo: DemoResult) -> dict[str, Any]:
    """The demo's outcome as plain values for JSON: ``transfer_report`` with agreement, totals and the times of the whole demo."""
    report = transfer_report(demo.transfer, demo.files[0])
    for row in report["structures"]:
        row["agreement_with_atlas"] = round(demo.agreement.get(row["name"], 0.0), 4)
    seconds = {name: round(value, 2) for name, value in demo.seconds.items()}
    return report | {"agreement_note": AGREEMENT_NOTE, "totals": _totals(demo), "seconds": seconds}


def _totals(demo: DemoResult) -> dict[str, Any]:
    results = demo.transfer.results
    found = [result for result in results if result.status is not Status.NOT_FOUND]
    totals: dict[str, Any] = {str(status): sum(result.status is status for result in results) for status in Status}
    totals["mean_confidence"] = _mean([result.confidence for result in results])
    totals["mean_agreement_all"] = _mean([demo.agreement.get(result.structure.name, 0.0) for result in results])
    totals["mean_agreement_found"] = _mean([demo.agreement.get(result.structure.name, 0.0) for result in found])
    return totals


def _mean(values: list[float]) -> float | None:
    return round(fmean(values), 4) if values else None


def print_report(demo: DemoResult, console: Console) -> None:
    """Print a row for every structure, the totals, the times and the files."""
    table = Table(title="Structures transferred from Colin27 (AAL) to ICBM152")
    table.add_column("Structure", overflow="fold")
    for heading in ("Confidence", "Status", "Volume mL", "Agreement*"):
        table.add_column(heading, justify="left" if heading == "Status" else "right", no_wrap=True)
    for result in demo.transfer.results:
        agreement = f"{demo.agreement.get(result.structure.name, 0.0):.2f}"
        table.add_row(result.structure.name, f"{result.confidence:.2f}", str(result.status), volume_text(result.volume_ml, 1), agreement)
    totals = _totals(demo)
    table.add_section()
    confidence, agreement_of_all = _decimal(totals["mean_confidence"]), _decimal(totals["mean_agreement_all"])
    table.add_row(f"Mean of {len(demo.transfer.results)} structures", confidence, "", "", agreement_of_all)
    console.print(table)
    counts = ", ".join(f"{totals[status]} {status}" for status in Status)
    console.print(f"{counts}. Mean agreement* of those found: {_decimal(totals['mean_agreement_found'])}.", highlight=False)
    console.print(f"* {AGREEMENT_NOTE}", highlight=False)
    for warning in demo.transfer.warnings:
        console.print(f"Warning: {printable(warning)}", highlight=False, markup=False)
    if demo.transfer.cancelled:
        console.print("The run was stopped; what was finished until then is kept.")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in demo.seconds.items())
    console.print(f"Time: {times}; {sum(demo.seconds.values()):.1f} s in all.", highlight=False)
    for file in demo.files:
        console.print(f"Written: {printable(str(file))}", highlight=False, markup=False, soft_wrap=True)
    console.print(NOTICE)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
