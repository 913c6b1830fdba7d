"""The command ``rauslicer models``: list, verify, add, download, compose, plan, remove."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from ..errors import ModelError
from ..full_size.adding import add
from ..models.manifest import read_manifest
from ..models.store import ModelFolder, list_models, list_unfinished, remove, resolve, user_folder
from ..support.printing import Table, progress_console, say, show
from ..support.scratch import remove_abandoned
from .options import DEVICES, add_debug


def add_model_actions(command: argparse.ArgumentParser) -> None:
    """The actions of ``rauslicer models`` and their arguments."""
    parent = argparse.ArgumentParser(add_help=False)
    add_debug(parent)
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="show the models, their size, licence and state", parents=[parent])
    verify = actions.add_parser("verify", help="compare a model's files with their checksums", parents=[parent])
    verify.add_argument("name", nargs="*", help="models to verify (default: all)")
    adding = actions.add_parser(
        "add", help="bring in a model folder, a Hugging Face folder of a vision-language model, or a SAM2.1 checkpoint", parents=[parent]
    )
    adding.add_argument("folder", type=Path, help="the folder, or the SAM2.1 file (.pt, .safetensors)")
    adding.add_argument("--name", help="name of the model (default: the folder's)")
    fetching = actions.add_parser("download", help="fetch a public model from the Hugging Face hub", parents=[parent])
    fetching.add_argument("repository", help="for example Qwen/Qwen3-VL-4B-Instruct or facebook/sam2.1-hiera-large")
    fetching.add_argument("--name", help="name of the model (default: the repository's)")
    fetching.add_argument("--revision", default="main", help="branch, tag or commit (default: %(default)s)")
    composing = actions.add_parser("compose", help="make an untrained model of a backbone and a SAM2", parents=[parent])
    composing.add_argument("name")
    composing.add_argument("--backbone", required=True, help="an installed image-text-to-text model")
    composing.add_argument("--sam2", default="embedded", help="an installed SAM2.1, or a model to take SAM2 of (default: %(default)s)")
    composing.add_argument("--picture", type=int, default=448, help="side of the pictures it is shown, in pixels (default: %(default)s)")
    composing.add_argument("--regions", type=int, default=12, help="regions drawn on one picture (default: %(default)s)")
    composing.add_argument("--pixels", type=int, choices=(256, 512, 1024), help="what a public SAM2 encodes (default: 1024)")
    planning = actions.add_parser("plan", help="say where a model would run, before anything is loaded", parents=[parent])
    planning.add_argument("name")
    planning.add_argument("--device", choices=DEVICES, default="auto")
    planning.add_argument("--precision", choices=("auto", "bf16", "fp16", "fp32", "4bit"), default="auto")
    removing = actions.add_parser("remove", help="delete a model that was added, or an unfinished download", parents=[parent])
    removing.add_argument("name", help="a model, or the repository of a download that was broken off")


def run_models(options: argparse.Namespace) -> int:
    """Run one action on the models; return the exit code."""
    remove_abandoned(user_folder())
    if options.action == "list":
        _print_models()
        return 0
    if options.action == "verify":
        return _verify([resolve(name) for name in options.name] or list_models())
    if options.action == "plan":
        return _plan(options)
    if options.action == "remove":
        model = remove(options.name)
        say(f"Removed {model.name} from {model.path.parent}.")
        return 0
    if options.action == "add":
        model = add(options.folder, options.name)
    elif options.action == "download":
        model = _download(options)
    else:
        from ..full_size.composing import compose

        shown = {"picture": options.picture, "regions": options.regions, "pixels": options.pixels}
        model = compose(options.name, options.backbone, options.sam2, **shown)
    say(f"Added {model.name} to {model.path}.")
    if not model.runs:
        say("It is something to build on. Make a model of it with: rauslicer models compose NAME --backbone BACKBONE --sam2 SAM2")
    return 0


def _print_models() -> None:
    table = Table()
    for heading in ("Model", "Part", "Kind", "Licence"):
        table.add_column(heading, overflow="fold")
    table.add_column("MB", justify="right")
    table.add_column("Files")
    for model in list_models():
        for part in model.parts:
            try:
                manifest = read_manifest(model.part(part))
                kind, licence = manifest.kind, manifest.licence
            except ModelError:
                kind, licence = "?", "?"
            size = sum(path.stat().st_size for path in model.part(part).iterdir()) / 1e6
            table.add_row(model.name, part, kind, licence, f"{size:.1f}", model.part_state(part))
    show(table)
    for broken in list_unfinished():
        say(
            f"Unfinished: {broken.name}, {broken.size / 1e6:.1f} MB. `rauslicer models download {broken.name}` goes on,"
            f" `rauslicer models remove {broken.name}` deletes it."
        )
    say(f"Added models lie in {user_folder()}.")


def _verify(models: list[ModelFolder]) -> int:
    code = 0
    for model in models:
        try:
            parts = model.verify()
        except ModelError as error:
            for line in (f"{model.name}: {error.problem}", f"  {error.explanation}", f"  {error.solution}"):
                say(line, error=True)
            code = error.exit_code
        else:
            say(f"{model.name}: {', '.join(parts)}: all files as they were made")
    return code


def _plan(options: argparse.Namespace) -> int:
    from ..device import choose_device
    from ..full_size.opening import plan_model

    for sentence in plan_model(options.name, choose_device(options.device), options.precision):
        say(sentence)
    return 0


def _download(options: argparse.Namespace) -> ModelFolder:
    from ..full_size.download import SUGGESTED, download

    licence = SUGGESTED.get(options.repository)
    say(f"Downloading {options.repository}" + (f" ({licence})" if licence else "") + "; a break loses nothing, run the command again.")
    console = progress_console()
    if not console.is_terminal:
        return download(options.repository, options.name, options.revision, _log_percents())
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bars:
        bar = bars.add_task(options.repository, total=None)
        return download(
            options.repository, options.name, options.revision, lambda done, total: bars.update(bar, completed=done, total=total)
        )


def _log_percents() -> Callable[[int, int], None]:
    """Prints a line at each whole percent, for a log and for the panel."""
    last = -1

    def show(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // max(total, 1)
        if percent > last:
            last = percent
            say(f"{percent} % of {total / 1e6:.0f} MB")

    return show
