"""The command line ``rauslicer``: reads arguments, runs one command, turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path

from .. import NOTICE, __version__
from ..errors import OutOfMemory, OutputError, RAUSlicerError
from ..support.printing import safe_streams, say
from ..support.shortage import explained, explained_room, no_room, out_of_memory
from .exit_codes import CANCELLED
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
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    run = argparse.ArgumentParser(add_help=False, parents=[common])
    run.add_argument("--model", default="embedded", help="name or folder of the model (default: %(default)s)")
    run.add_argument(
        "--localizer", choices=("vlm", "registration"), default="vlm", help="what looks for the structures (default: %(default)s)"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where the model runs (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_transfer(commands, run)
    _add_report(commands, common)
    _add_ask(commands, common)
    _add_models(commands, common)
    _add_benchmark(commands, common)
    _add_train(commands, common)
    _add_demo(commands, run)
    return parser


def _add_command(
    commands: argparse._SubParsersAction, name: str, description: str, parent: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        epilog=_EXIT_CODES,
        parents=[parent],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_transfer(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    command = _add_command(commands, "transfer", "segment a target from one or several annotated references", parent)
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
    command.add_argument("--structures", metavar="NAMES", help='names separated by commas, for example "liver,spleen" (default: all)')
    command.add_argument("--pictures", type=Path, metavar="DIR", help="write a contact sheet and a 3D picture into this folder")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every structure as JSON")
    command.add_argument(
        "--report", type=Path, action="append", default=[], metavar="FILE", help="write a report: .html, .md, .json or .dcm; repeatable"
    )
    command.add_argument("--force", action="store_true", help="overwrite existing files")

    def run(options: argparse.Namespace) -> int:
        if len(options.reference) != len(options.reference_segmentation):
            counts = f"{len(options.reference)} --reference but {len(options.reference_segmentation)} --reference-segmentation"
            command.error(f"{counts}: give one for each")
        from .transfer import run_transfer

        return run_transfer(options)

    command.set_defaults(run=run)


def _add_report(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    from .report import add_options

    command = _add_command(commands, "report", "report what was measured of a segmented target", parent)
    add_options(command)

    def run(options: argparse.Namespace) -> int:
        if (options.reference is None) != (options.reference_segmentation is None):
            command.error("--reference and --reference-segmentation belong together")
        from .report import run_report

        return run_report(options)

    command.set_defaults(run=run)


def _add_ask(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    from .ask import add_options

    command = _add_command(commands, "ask", "answer a question about a segmented target", parent)
    add_options(command)

    def run(options: argparse.Namespace) -> int:
        if (options.reference is None) != (options.reference_segmentation is None):
            command.error("--reference and --reference-segmentation belong together")
        from .ask import run_ask

        return run_ask(options)

    command.set_defaults(run=run)


def _add_models(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    from .models import add_model_actions

    command = _add_command(commands, "models", "list, verify, add, download, compose or remove models", parent)
    add_model_actions(command, parent)

    def run(options: argparse.Namespace) -> int:
        from .models import run_models

        return run_models(options)

    command.set_defaults(run=run)


def _add_benchmark(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    from .benchmark import add_options

    command = _add_command(commands, "benchmark", "compare methods on labelled volumes", parent)
    add_options(command)

    def run(options: argparse.Namespace) -> int:
        from .benchmark import run_benchmark_command

        return run_benchmark_command(options)

    command.set_defaults(run=run)


def _add_train(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    from .train import add_actions

    command = _add_command(commands, "train", "train the networks on data of your own", parent)
    add_actions(command, parent)

    def run(options: argparse.Namespace) -> int:
        from .train import run_train

        return run_train(options, command)

    command.set_defaults(run=run)


def _add_demo(commands: argparse._SubParsersAction, parent: argparse.ArgumentParser) -> None:
    command = _add_command(commands, "demo", "run the main job on the sample data that comes with RAUSlicer", parent)
    command.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR", help="where to write (default: %(default)s)")

    def run(options: argparse.Namespace) -> int:
        from .demo import run_demo
        from .progress import cancel_on_interrupt, show_progress

        with cancel_on_interrupt() as cancel, show_progress() as progress:
            done = run_demo(
                options.output, progress, localizer=options.localizer, model=options.model, device=options.device, cancel=cancel
            )
        return CANCELLED if done.transfer.cancelled else 0

    command.set_defaults(run=run)
