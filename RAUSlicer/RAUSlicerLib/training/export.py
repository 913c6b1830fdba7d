"""Makes a model folder of trained states: half precision, checksums, model cards.

python -m RAUSlicerLib.training.export --matching work/matching/state.pt --joint work/joint/state.pt --output Resources/Models/embedded
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from ..matching.network import MatchingConfig, MatchingNet
from ..models.checkpoint import save_checkpoint
from ..rau.network import RauVlm, VlmConfig
from ..rau.sam2 import MemorySegmenter, Sam2Config
from ..refinement.network import RefinerConfig, RefinerNet
from ..support import strict_json
from .datasets import shipped
from .refining import HEED

LICENCE = "CC-BY-NC-SA-4.0"

_WHAT = {
    "matching": "a 3D network whose embedding says which voxel of a reference corresponds to which of a target",
    "vlm": "a small vision-language model that answers presence, box and `<Seg>` query of every structure of a slice",
    "refiner": "a 3D network that redraws a carried structure from the target's intensities beside the matched reference's",
    "sam2": "a small SAM2 with the reference in its memory; its image encoder is the vision tower of the vision-language model too",
}

_CARD = """---
license: cc-by-nc-sa-4.0
---
# RAUSlicer embedded model: {part}

Part of RAUSlicer's embedded model: {what}. For **non-commercial research** only. Not a medical device.

## Data
Trained on the train split of three sets, from random weights:

- T1 brain MR: scans from OASIS, labels provided by Neuromorphometrics, Inc. (neuromorphometrics.com) under academic subscription;
  CC BY-NC. 15 people.
- Contrast abdominal CT: BTCV ("Multi-Atlas Labeling Beyond the Cranial Vault"); stated CC BY 4.0 by a third party, not verified.
  17 people.
- Short-axis cardiac cine MR: ACDC; CC BY-NC-SA 4.0. 30 people.
- Label maps of heads (SynthSeg repository; Apache-2.0), for made-up scans of any contrast; the matching network only. 10 people.
{seen}
No image or label of these sets is contained in the weights' folder. The weights are shared under the strictest of these licences.

## Training
{training}
What was changed while it ran, so that the command repeats the recipe and not the very weights, is in `docs/training.md`.

## Scores
`Testing/Benchmarks/README.md` has the scores of the whole pipeline on held-out people, beside its peers, with the command that repeats
them.

## Limits
A short training on two CPU cores. Few people, one scanner or few a set; healthy or nearly healthy brains, skull-stripped. Small and thin
structures (vessels, adrenal glands) are often missed. Other body parts were not seen. Confidence is a rough guide.
"""

# What a part was shown beside these cases, with an empty line before it.
_SEEN = {
    "refiner": """
38 matched pairs of the first three sets (13 brains, 13 abdomens, 12 hearts) in the last 1500 steps, made by
`python -m RAUSlicerLib.training.priors --references 2` (stopped there), and 35 to 67 before.
"""
}

_COMMAND = (
    "`python -m RAUSlicerLib.training.{stage} --data ../shared/data --output work/{stage} --steps {steps}{start}` ({done} steps done)."
)
_STAGES = {"matching": "matching", "vlm": "joint", "sam2": "joint", "refiner": "refining"}


def take(state: dict[str, Tensor], prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part of a training state, checked against the network they are for."""
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    network.load_state_dict(tensors)
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


def export(
    matching: Path | None, joint: Path | None, refiner: Path | None, output: Path, calibration: Path | None, bits: int | None = None
) -> None:
    """Write the checkpoint folders of the parts whose states are given; a model's other parts stay as they are."""
    parts = {}
    if matching is not None:
        state = torch.load(matching, weights_only=True)
        network = MatchingNet(MatchingConfig(labels=tuple(shipped().label_sets.values())))
        parts["matching"] = (network.config.to_dict(), take(state["ema"], "net.", network), state)
    if joint is not None:
        state = torch.load(joint, weights_only=True)
        parts["vlm"] = (VlmConfig().to_dict(), take(state["ema"], "vlm.", RauVlm()), state)
        parts["sam2"] = (Sam2Config().to_dict(), take(state["ema"], "segmenter.", MemorySegmenter()), state)
    if refiner is not None:
        state = torch.load(refiner, weights_only=True)
        parts["refiner"] = (RefinerConfig(heed=HEED).to_dict(), take(state["ema"], "net.", RefinerNet()), state)
    if calibration is not None and "matching" in parts:
        parts["matching"][0]["calibration"] = strict_json.load(calibration)
    for part, (config, tensors, state) in parts.items():
        start = f" --start {state['start']}" if state.get("start") else ""
        training = _COMMAND.format(stage=_STAGES[part], steps=state.get("steps", state["step"]), start=start, done=state["step"])
        if bits is not None:
            tensors = rounded(tensors, bits)
            training += f"\nRounded to {bits} bits a row."
        card = _CARD.format(part=part, what=_WHAT[part], seen=_SEEN.get(part, ""), training=training)
        save_checkpoint(output / part, config, tensors, card, name="embedded", kind=config["model_type"], licence=LICENCE)


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matching", type=Path, help="state of the matching network")
    parser.add_argument("--joint", type=Path, help="state of SAM 2 and the vision-language model")
    parser.add_argument("--refiner", type=Path, help="state of the mask refiner; a model can do without")
    parser.add_argument("--output", type=Path, default=Path("Resources/Models/embedded"))
    parser.add_argument(
        "--calibration", type=Path, help="JSON of the confidence model, from `RAUSlicerLib.training.calibration`; with --matching"
    )
    parser.add_argument("--bits", type=int, help="round weights to so many bits, for a smaller history of the repository")
    options = parser.parse_args()
    export(options.matching, options.joint, options.refiner, options.output, options.calibration, options.bits)


if __name__ == "__main__":
    main()
