"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

DEVICES = ("auto", "cpu", "cuda", "mps")


def add_debug(command: argparse.ArgumentParser) -> None:
    """Where an error arose."""
    command.add_argument("--debug", action="store_true", help="show where in the code an error arose")


def add_model(command: argparse.ArgumentParser, *, localizer: bool = False) -> None:
    """With which model, and where it runs."""
    command.add_argument("--model", default="embedded", help="name or folder of the model (default: %(default)s)")
    if localizer:
        command.add_argument(
            "--localizer", choices=("vlm", "registration"), default="vlm", help="what looks for the structures (default: %(default)s)"
        )
    command.add_argument("--device", choices=DEVICES, default="auto", help="where the model runs (default: %(default)s)")


def add_case(command: argparse.ArgumentParser, required: argparse._ArgumentGroup) -> None:
    """A segmented target, what a run said of it, and the case to compare it with."""
    required.add_argument("--target", type=Path, required=True, metavar="T", help="the segmented image: a file or a DICOM folder")
    required.add_argument(
        "--segmentation", type=Path, required=True, metavar="SEG", help="its segmentation: .seg.nrrd, label map or DICOM SEG"
    )
    command.add_argument("--result", type=Path, metavar="FILE", help="what transfer --json wrote: confidences, and what was not found")
    command.add_argument("--reference", type=Path, metavar="REF", help="the annotated image that the structures come from, to compare with")
    command.add_argument("--reference-segmentation", type=Path, metavar="SEG", help="its segmentation")
