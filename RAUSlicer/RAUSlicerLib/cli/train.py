"""The command `rauslicer train`: one configuration, one action for each network, a check before and a model folder after."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, ResourceError
from ..support.printing import say
from .options import add_debug

if TYPE_CHECKING:
    from ..training.config import TrainConfig

_ACTIONS = {
    "check": "read the configuration and all data, and say what is there and what is wrong",
    "matching": "train the matching network",
    "refiner": "make matched pairs and train the mask refiner on them",
    "rau": "train SAM2 and the small vision-language model",
    "regions": "train the region model, stage by stage",
    "score": "measure on val cases what the matching network carries",
    "calibration": "fit the confidence of the exported model",
    "export": "write the model's folder with its cards",
    "recipe": "train a large backbone, or the embedded one, by RAU's recipe",
}


def add_actions(command: argparse.ArgumentParser) -> None:
    """Add the actions and their options to the command's parser."""
    parent = argparse.ArgumentParser(add_help=False)
    add_debug(parent)
    command.set_defaults(usage_error=command.error)
    actions = command.add_subparsers(dest="action", metavar="ACTION")
    # The recipe had no name once.
    command.add_argument("--config", type=Path, dest="nameless", help=argparse.SUPPRESS)
    for name, what in _ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", parents=[parent])
        guide = "docs/how-to/full-size-models.md has one to start from" if name == "recipe" else "docs/how-to/train.md explains it"
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help=f"YAML; {guide}")
        action.add_argument("--dry-run", action="store_true", help="only say what it will take, or what is wrong")
        if name != "recipe":
            action.add_argument("--output", type=Path, metavar="DIR", help="counts more than 'output' of the configuration")
        if name == "score":
            action.add_argument("--limit", type=int, default=1, help="pairs a data set (default: %(default)s)")


def run_train(options: argparse.Namespace) -> int:
    """Run an action; return the exit code."""
    if options.action is None:
        options.usage_error(f"say what to train: {', '.join(_ACTIONS)}; for a large backbone `rauslicer train recipe --config FILE`")
    if find_spec("accelerate") is None:
        raise ResourceError("The package 'accelerate' is missing.", "Training runs on it.", "Install it: pip install 'rauslicer[train]'.")
    if options.action == "recipe":
        from ..training.recipe import run_recipe
        from ..training.recipe_config import read_recipe

        made = run_recipe(read_recipe(options.config), dry_run=options.dry_run, say=say)
        if made is not None:
            say(f"The trained model is in {made}. Add it with: rauslicer models add {made} --name NAME")
        return 0
    from ..training.config import read_config

    config = read_config(options.config, options.output)
    if options.action == "check" or options.dry_run:
        return _check(config)
    if options.action == "score":
        from ..training.score import run

        for name, value in run(config, options.limit).items():
            say(f"{name}: {value}")
        return 0
    return _train(config, options.action)


def _check(config: TrainConfig) -> int:
    from ..training.check import check, describe

    said, wrong = check(config)
    for sentence in (*said, *describe(config)):
        say(sentence)
    if wrong:
        for sentence in wrong:
            say(f"Wrong: {sentence}", error=True)
        raise InputError(
            f"The configuration {str(config.source)!r} can't be trained with as it is.",
            f"{len(wrong)} thing{'s are' if len(wrong) > 1 else ' is'} wrong, as listed above.",
            "Mend the data or the configuration, and check again.",
        )
    say("Nothing is wrong.")
    return 0


def _train(config: TrainConfig, action: str) -> int:
    from importlib import import_module

    done = import_module(f"..training.{action}", __package__).run(config)
    if action == "export":
        say(f"The model is in {done}. Use it: rauslicer transfer --model {done} ...")
    elif action == "calibration":
        say(f"{done}. Write it into the model with: rauslicer train export")
    else:
        say(f"Trained; states and log are in {config.output / action}. Make a model of it with: rauslicer train export")
    return 0
