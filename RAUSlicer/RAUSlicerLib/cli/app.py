"""The command line ``rauslicer``: reads arguments, runs one command, turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import NOTICE, __version__
from ..errors import OutOfMemory, OutputError, RAUSlicerError
from ..support.printing import safe_streams, say
from ..support.shortage import explained, explained_room, no_room, out_of_memory
from .exit_codes import CANCELLED
from .options import add_debug, add_model
from .progress import terminated_like_interrupted

# Rooms are imported by the command that needs them: torch alone takes seconds, and --help must not.
_EXIT_CODES = f"""exit codes:
  0    done
  1    unexpected error
  2    wrong usage of the command line
  3    an input can't be used
  4    an output can't be written
  5    a model is missing or damaged
  6    the machine lacks something (memory, GPU, package)
  {CANCELLED}  cancelled; Ctrl-C keeps and writes what is finished, a second Ctrl-C ends at once

{NOTICE}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with safe_streams() as streams:
        try:
            with terminated_like_interrupted():
                options = _parser().parse_args(arguments)
                code = _run(options)
        except KeyboardInterrupt:
            say("Cancelled.", error=True)
            return CANCELLED
        if streams.lost is None:
            return code
        say(f"Warning: what was printed has not all arrived: {streams.lost.strerror}.", error=True)
        # An answer that nobody got is all that there was.
        return code or (OutputError.exit_code if options.command == "ask" else 0)


def _run(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
    except RAUSlicerError as error:
        # A model may be called damaged that only could not be held.
        return _report(explained(error) if out_of_memory(error) and not isinstance(error, OutOfMemory) else error, options.debug)
    except Exception as error:
        if out_of_memory(error):
            return _report(explained(error), options.debug)
        if no_room(error):
            return _report(explained_room(error), options.debug)
        if options.debug:
            traceback.print_exc()
        # Its own words may quote what a file says of a patient.
        say(f"Unexpected error: {type(error).__name__} {_place(error)}", error=True)
        say("This is a fault of RAUSlicer. Run the command again with --debug and report what it prints.", error=True)
        return 1
    return code


def _place(error: Exception) -> str:
    """Where in this library an error arose, or passed through last."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(Path(__file__).parents[1])]
    return f"in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else "in a library"


def _report(error: RAUSlicerError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    say(f"Error: {error.problem}", error=True)
    say(f"  {error.explanation}", error=True)
    say(f"  {error.solution}", error=True)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rauslicer",
        description="Transfers the structures of an annotated reference to a new image.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rauslicer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (description, add_options, run) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=description,
            description=description[0].upper() + description[1:] + ".",
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_debug(command)
        add_options(command)
        command.set_defaults(run=partial(_checked, run, command))
    return parser


def _checked(run: Callable[[argparse.Namespace], int], command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run a command whose references and their segmentations come in pairs."""
    references, segmentations = (
        given if isinstance(given, list) else [given] * (given is not None)
        for given in (getattr(options, name, None) for name in ("reference", "reference_segmentation"))
    )
    if len(references) != len(segmentations):
        command.error(f"{len(references)} --reference but {len(segmentations)} --reference-segmentation: give one for each")
    return run(options)


def _add_transfer(command: argparse.ArgumentParser) -> None:
    required = command.add_argument_group("required")
    required.add_argument(
        "--reference",
        type=Path,
        action="append",
        required=True,
        metavar="REF",
        help="annotated image: a file or a DICOM folder; repeatable",
    )
    required.add_argument(
        "--reference-segmentation",
        type=Path,
        action="append",
        required=True,
        metavar="SEG",
        help="its segmentation: .seg.nrrd, label map or DICOM SEG; one for each --reference, in the same order",
    )
    required.add_argument("--target", type=Path, required=True, help="image to be segmented")
    required.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="result: .seg.nrrd, a label map with the reference's label values (.nii.gz, .nii, .nrrd, .mha), or DICOM SEG (.dcm)",
    )
    add_model(command, localizer=True)
    command.add_argument("--structures", metavar="NAMES", help='names separated by commas, for example "liver,spleen" (default: all)')
    command.add_argument("--pictures", type=Path, metavar="DIR", help="write a contact sheet and a 3D picture into this folder")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every structure as JSON")
    command.add_argument(
        "--report", type=Path, action="append", default=[], metavar="FILE", help="write a report: .html, .md, .json or .dcm; repeatable"
    )
    command.add_argument("--force", action="store_true", help="overwrite existing files")


def _add_demo(command: argparse.ArgumentParser) -> None:
    add_model(command, localizer=True)
    command.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR", help="where to write (default: %(default)s)")


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo
    from .progress import cancel_on_interrupt, show_progress

    with cancel_on_interrupt() as cancel, show_progress() as progress:
        done = run_demo(options.output, progress, localizer=options.localizer, model=options.model, device=options.device, cancel=cancel)
    return CANCELLED if done.transfer.cancelled else 0


def _late(module: str, function: str) -> Callable[..., Any]:
    """A function of a module of this room, which is imported when it is called."""
    return lambda *given: getattr(import_module(f".{module}", __package__), function)(*given)


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "transfer": ("segment a target from one or several annotated references", _add_transfer, _late("transfer", "run_transfer")),
    "report": ("report what was measured of a segmented target", _late("report", "add_options"), _late("report", "run_report")),
    "ask": ("answer a question about a segmented target", _late("ask", "add_options"), _late("ask", "run_ask")),
    "models": (
        "list, verify, add, download, compose or remove models",
        _late("models", "add_model_actions"),
        _late("models", "run_models"),
    ),
    "benchmark": ("compare methods on labelled volumes", _late("benchmark", "add_options"), _late("benchmark", "run_benchmark_command")),
    "train": ("train the networks on data of your own", _late("train", "add_actions"), _late("train", "run_train")),
    "demo": ("run the main job on the sample data that comes with RAUSlicer", _add_demo, _demo),
}
