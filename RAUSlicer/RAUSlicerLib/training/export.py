"""Makes a model folder of what was trained: half precision, checksums, and model cards that say what the configuration says."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from ..models.checkpoint import load_config, load_tensors, save_checkpoint
from ..models.manifest import CARD, read_manifest
from ..models.store import ModelFolder, resolve
from . import matching, rau, refiner
from .calibration import fitted
from .config import TrainConfig
from .score import SCORES

_WHAT = {
    "matching": "a 3D network whose embedding says which voxel of a reference corresponds to which of a target",
    "vlm": "a small vision-language model that answers presence, box and `<Seg>` query of every structure of a slice",
    "refiner": "a 3D network that redraws a carried structure from the target's intensities beside the matched reference's",
    "sam2": "a small SAM2 with the reference in its memory; its image encoder is the vision tower of the vision-language model too",
}

_CARD = """---
license: {front}
---
# RAUSlicer model {name}: {part}

{what}. Research use only. Not a medical device.

## Data
{begun}:

{data}

No image or label of these is contained in the weights' folder.

## Training
`rauslicer train {stage} --config {file}` ({done} of {steps} steps done){rounded}, with

```yaml
{settings}
```

## Scores
{scores}

## Licence
{licence}
"""


@dataclass(frozen=True)
class _Trained:
    """A part of the model that was trained: the stage's name, its network, its tensors, and how far it is."""

    stage: str
    network: nn.Module
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def take(state: dict[str, Tensor], prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part of a training state, checked against the network they are for.

    Raises:
        ModelError: the state is that of another network.
    """
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            "The training's state does not fit the configuration.",
            f"{str(error).splitlines()[-1].strip()}",
            "Export with the configuration that it was trained with: the same data sets and the same model to start from.",
        ) from error
    return tensors


def rounded(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The tensors with each row of a matrix on so many bits' worth of evenly spaced values, which half precision holds exactly.

    A file of such numbers has as many bytes as before, but compresses to little more than half of them, and that is what a repository's
    history keeps of every version. Vectors, as biases, stay as they are.
    """
    out = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            out[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        # A power of two, so that nothing is lost in the type that is stored; no smaller than the type's own smallest step.
        step = 2 ** (rows.abs().amax(1, keepdim=True).clamp(min=2**-14) / (2 ** (bits - 1) - 1)).log2().ceil().clamp(min=-24)
        out[name] = ((rows / step).round() * step).view_as(tensor)
    return out


def run(config: TrainConfig) -> Path:
    """Write the model's folder: what was trained, and the other parts of the model that it started from.

    Raises:
        InputError: nothing was trained.
        ModelError: a state does not fit the configuration.
        OutputError: the folder can't be written.
    """
    trained = _trained(config)
    calibration = fitted(config)
    if not trained and calibration is None:
        raise InputError(
            "There is nothing to export.",
            f"No stage has left a state in {str(config.output)!r}.",
            "Run `rauslicer train matching` or another stage first.",
        )
    start = resolve(config.start) if config.start else None
    for part, made in trained.items():
        described = made.network.config.to_dict()  # type: ignore[union-attr, operator]
        if part == "matching":
            kept = _calibration_of(start) if calibration is None else calibration
            described |= {"calibration": kept} if kept else {}
        tensors = rounded(made.tensors, config.bits) if config.bits else made.tensors
        licence = licence_of(config)
        card = _card(config, part, made, licence)
        save_checkpoint(
            config.model / part, described, tensors, card, name=config.output.name, kind=described["model_type"], licence=licence
        )
    for part in start.parts if start is not None else ():
        if part not in trained:
            shutil.copytree(start.part(part), config.model / part, dirs_exist_ok=True)  # type: ignore[union-attr]
    if calibration is not None and "matching" not in trained:
        _calibrate(config.model / "matching", calibration)
    ModelFolder(config.output.name, config.model).verify()
    return config.model


def _trained(config: TrainConfig) -> dict[str, _Trained]:
    parts: dict[str, _Trained] = {}
    for stage in ("matching", "refiner", "rau"):
        path = config.state(stage)
        if path is None:
            continue
        state = torch.load(path, weights_only=True, map_location="cpu")
        if stage == "rau":
            both = rau.trainee_of(config)
            networks = {"vlm": (both.vlm, "vlm."), "sam2": (both.segmenter, "segmenter.")}
        else:
            trainee = (matching if stage == "matching" else refiner).trainee_of(config)
            networks = {stage: (trainee.net, "net.")}
        for part, (network, prefix) in networks.items():
            parts[part] = _Trained(stage, network, take(state["ema"], prefix, network), state)
    return parts


def _calibration_of(start: ModelFolder | None) -> dict[str, Any]:
    if start is None or "matching" not in start.parts:
        return {}
    kept: dict[str, Any] = load_config(start.part("matching")).get("calibration", {})
    return kept


def _calibrate(folder: Path, calibration: dict) -> None:
    """Put what was fitted into a matching network that stays as it is."""
    config, manifest = load_config(folder) | {"calibration": calibration}, read_manifest(folder)
    card = (folder / CARD).read_text()
    save_checkpoint(folder, config, load_tensors(folder, None), card, name=manifest.name, kind=manifest.kind, licence=manifest.licence)


def licence_of(config: TrainConfig) -> str:
    """Licence of the weights: as the configuration says, else that of the model they began as, else that of the data sets.

    Raises:
        InputError: none of them says one.
    """
    licence = config.licence
    if not licence and config.start:
        start = resolve(config.start)
        licence = read_manifest(start.part(start.parts[0])).licence
    licence = licence or config.datasets.licence
    if not licence:
        raise InputError(
            "The weights have no licence.",
            f"The configuration {str(config.source)!r} names none, and no model to start from.",
            "Write 'licence: ...' into it; of several data sets the strictest one counts.",
        )
    return licence


def _card(config: TrainConfig, part: str, made: _Trained, licence: str) -> str:
    data = []
    for name in config.datasets.shares(made.stage):
        about = config.datasets[name]
        cases = about.cases("train")
        people = len({about.person(case) for case in cases})
        data.append(f"- {about.what or name}; {about.licence or 'no licence stated'}. {len(cases)} cases of {people} people.")
    scores = [config.scores] if config.scores else []
    file = config.output / "matching" / SCORES
    if part == "matching" and file.is_file():
        last = json.loads(file.read_text().splitlines()[-1])
        figures = ", ".join(f"{name} {value:.3f}" for name, value in last.items() if name not in ("steps", "seconds"))
        scores.append(f"Mean Dice of labels warped with the match alone, on val cases, after {last['steps']} steps: {figures}.")
    import yaml

    start = made.state.get("start", "")
    begun = (
        f"Started from the model {start!r}, whose card says what that was trained on, and trained on"
        if start
        else "Trained from random weights on"
    )
    return _CARD.format(
        front=licence.lower(),
        name=config.output.name,
        part=part,
        what=_WHAT[part][0].upper() + _WHAT[part][1:],
        begun=begun + " the train split of",
        data="\n".join(data),
        stage=made.stage,
        file=config.source.name,
        done=made.state["step"],
        steps=made.state.get("steps", made.state["step"]),
        rounded=f", rounded to {config.bits} bits a row" if config.bits else "",
        settings=yaml.safe_dump(json.loads(json.dumps(config.described(made.stage), default=dict)), sort_keys=False).strip(),
        scores="\n".join(scores) or "None were given.",
        licence=f"{licence}. The data sets above have licences of their own.",
    )
