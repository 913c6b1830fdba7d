"""The command ``rauslicer ask``: a question about a segmented target, and the answer with its evidence."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import NOTICE
from ..support.outputs import json_text
from ..support.printing import say, warn
from .options import add_case


def add_options(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    command.add_argument("question", metavar="QUESTION", help='for example "Where is the left kidney?"; see docs/reference/questions.md')
    add_case(command, command.add_argument_group("required"))
    # argparse takes -1e-05 and -inf for options, and programs write coordinates like the first.
    command._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|infinity|nan)$", re.IGNORECASE)
    place = command.add_mutually_exclusive_group()
    place.add_argument("--at", type=float, nargs=3, metavar=("X", "Y", "Z"), help="where 'here' is, in mm (LPS; see --ras)")
    marked = "what 'the marked region' is: a segmentation, or an image that is not 0 there"
    place.add_argument("--region", type=Path, metavar="MASK", help=marked)
    command.add_argument("--ras", action="store_true", help="--at is in RAS, as 3D Slicer shows it")
    command.add_argument("--json", action="store_true", help="print the answer with all its evidence as JSON")


def run_ask(options: argparse.Namespace) -> int:
    """Answer one question and print the answer; return the exit code."""
    from ..interpretation.measuring import measure
    from ..interpretation.places import check_point
    from ..interpretation.questions import answer
    from ..interpretation.segmented import load_reference, load_segmented

    if options.at is not None:
        check_point(tuple(options.at))
    target = load_segmented(options.target, options.segmentation, options.result)
    reference = None if options.reference is None else load_reference(options.reference, options.reference_segmentation)
    point = None if options.at is None else tuple(options.at)
    if point is not None and options.ras:
        point = (-point[0], -point[1], point[2])
    region, of_region = (None, []) if options.region is None else _region(options.region, target.volume)
    warnings = [*target.warnings, *of_region]
    if not options.json:
        warn(warnings)
    findings = measure(target.volume, target.segmentation, target.results, reference)
    answered = answer(options.question, findings, target.results, target.segmentation, point=point, region=region)
    if options.json:
        document = {"notice": NOTICE, **asdict(answered), "warnings": warnings}
        print(json_text(document, sys.stdout.encoding or "utf-8"))
        return 0
    for sentence in answered.sentences:
        say(sentence.text)
        if sentence.structures:
            sure = "" if sentence.confidence is None else f", confidence {sentence.confidence:.2f}"
            say(f"    rests on: {'; '.join(sentence.structures)} ({sentence.kind}{sure})")
    say(NOTICE)
    return 0


def _region(path: Path, volume: Any) -> tuple[Any, list[str]]:
    """A marked region as booleans (z, y, x) on the target's grid, and sentences for the user."""
    from ..imaging.regions import read_region
    from ..support.notices import noticed

    with noticed() as of_file:
        region, warnings = read_region(path, volume)
    return region, [f"Region: {sentence}" for sentence in (*of_file, *warnings)]
