"""The command ``rauslicer models``: list, verify, add, remove."""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from .errors import ModelError
from .models.manifest import read_manifest
from .models.store import ModelFolder, add, list_models, remove, resolve, user_folder


def run_models(options: argparse.Namespace) -> int:
    """Run one action on the models; return the exit code."""
    if options.action == "list":
        _print_models()
        return 0
    if options.action == "verify":
        return _verify([resolve(name) for name in options.name] or list_models())
    if options.action == "add":
        model = add(options.folder, options.name)
        print(f"Added {model.name} to {model.path}.")
        return 0
    model = remove(options.name)
    print(f"Removed {model.name} from {model.path.parent}.")
    return 0


def _print_models() -> None:
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Model", "Part", "Kind", "Licence"):
        table.add_column(heading, overflow="fold")
    table.add_column("MB", justify="right")
    for model in list_models():
        for part in model.parts:
            manifest = read_manifest(model.part(part))
            size = sum(path.stat().st_size for path in model.part(part).iterdir()) / 1e6
            table.add_row(model.name, part, manifest.kind, manifest.licence, f"{size:.1f}")
    console.print(table, markup=False)
    console.print(f"Added models lie in {user_folder()}.", markup=False, soft_wrap=True)


def _verify(models: list[ModelFolder]) -> int:
    code = 0
    for model in models:
        try:
            parts = model.verify()
        except ModelError as error:
            print(f"{model.name}: {error.problem}\n  {error.explanation}\n  {error.solution}", file=sys.stderr)
            code = error.exit_code
        else:
            print(f"{model.name}: {', '.join(parts)}: all files as they were made")
    return code
