"""Runs everything that a GPU can do on it and on the CPU, and says whether both come to the same.

    make gpu-check
    python Testing/Benchmarks/gpu_check.py --structures Hippocampus_L,Thalamus_L,Caudate_L
    python Testing/Benchmarks/gpu_check.py --device pretended --data made   # tries the runs where there is no GPU

It prints seconds and peak memory of every run. A GPU computes in bfloat16 where many a CPU computes in float32, so results agree up to
rounding: see the bounds below. Exit code 0: all runs agree; 1: something differs or stops; 3: there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from RAUSlicerLib.cli.demo import load_sample
from RAUSlicerLib.confidence.calibration import Calibration
from RAUSlicerLib.correction.edits import Correction
from RAUSlicerLib.imaging.grids import same_grid
from RAUSlicerLib.imaging.segmentation import Reference, Segmentation, Structure
from RAUSlicerLib.matching.correspondence import similarity
from RAUSlicerLib.matching.matcher import Match
from RAUSlicerLib.pipeline import Pipeline
from RAUSlicerLib.progress import CancelToken, ignore
from RAUSlicerLib.results import Transfer

# Least Dice between both results of a structure, and of the mean over all; smaller structures say little and only count in the mean.
LEAST_DICE, LEAST_MEAN, SMALLEST = 0.95, 0.98, 200
# Most that a confidence may differ. Where it lies so near to a limit that rounding decides, a structure may be found on one device alone.
MOST_CONFIDENCE = 0.05
ABSENT = Calibration().absent
# Least mean cosine of both devices' embeddings of a voxel, and most that similarity and losses may differ, as a share.
LEAST_COSINE, MOST_SHARE = 0.995, 0.05
NO_GPU = 3
# Without a choice so many structures, evenly spread, are corrected and carried from several references.
_FEW = 4


@dataclass
class Case:
    """An annotated reference, a target, and the structures that are asked for."""

    reference: Reference
    target: sitk.Image
    structures: list[str]


@dataclass
class Done:
    """What a run came to on a device."""

    result: Any
    seconds: float
    peak: int


@dataclass
class Line:
    """A run on both devices; ``wrong`` says what differs, nothing if all is well."""

    name: str
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    wrong: list[str] = field(default_factory=list)
    note: str = ""


def transfers_differ(one: Transfer, other: Transfer) -> tuple[list[str], str]:
    """What is beyond rounding between two results, and what the rest comes to in words."""
    wrong = []
    for result in (one, other):
        if not all(same_grid(layer, one.segmentation.layers[0]) for layer in result.segmentation.layers):
            wrong.append("the grids differ")
    names = [{item.structure.name for item in result.results} for result in (one, other)]
    if names[0] != names[1]:
        return [*wrong, f"one of them lacks {sorted(names[0] ^ names[1])}"], ""
    known = {item.structure.name: item for item in other.results}
    scores = []
    for item in one.results:
        name, theirs = item.structure.name, known[item.structure.name]
        if abs(item.confidence - theirs.confidence) > MOST_CONFIDENCE:
            wrong.append(f"{name}: confidence {item.confidence:.3f} and {theirs.confidence:.3f}")
        first, second = (result.segmentation.array(structure) for result, structure in ((one, item.structure), (other, theirs.structure)))
        sizes = int(first.sum()), int(second.sum())
        if 0 in sizes and sizes != (0, 0) and near_the_limit(item.confidence, theirs.confidence):
            # Which of two confidences that are nearly the same lies above the limit is a matter of rounding.
            continue
        score = 2 * int((first & second).sum()) / sum(sizes) if sum(sizes) else 1.0
        scores.append(score)
        if max(sizes) >= SMALLEST and score < LEAST_DICE:
            wrong.append(f"{name}: Dice {score:.3f}")
    mean = float(np.mean(scores)) if scores else 1.0
    if mean < LEAST_MEAN:
        wrong.append(f"mean Dice {mean:.3f}")
    return wrong, f"Dice {mean:.4f}, least {min(scores, default=1.0):.3f}"


def near_the_limit(*confidences: float) -> bool:
    """Whether rounding may decide that a structure is not there."""
    return all(abs(confidence - ABSENT) <= MOST_CONFIDENCE for confidence in confidences)


def matches_differ(one: Match, other: Match) -> tuple[list[str], str]:
    """The same of two matches: their embeddings, and how alike both volumes look."""
    wrong, cosines = [], []
    for name in ("target_view", "reference_view"):
        first, second = (getattr(match, name).embedded.fine.cpu() for match in (one, other))
        if first.shape != second.shape:
            return [f"{name}: {tuple(first.shape)} and {tuple(second.shape)}"], ""
        cosines.append(float((first * second).sum(0).mean()))
        if cosines[-1] < LEAST_COSINE:
            wrong.append(f"{name}: mean cosine {cosines[-1]:.4f}")
    alike = [similarity(match.target_view.embedded, match.reference_view.embedded) for match in (one, other)]
    if abs(alike[0] - alike[1]) > MOST_SHARE * max(alike):
        wrong.append(f"similarity {alike[0]:.3f} and {alike[1]:.3f}")
    return wrong, f"mean cosine {min(cosines):.4f}"


def losses_differ(one: dict[str, float], other: dict[str, float]) -> tuple[list[str], str]:
    """The same of a training step's losses."""
    wrong = [
        f"{name}: {value:.4f} and {other[name]:.4f}"
        for name, value in one.items()
        if not (np.isfinite(value) and abs(value - other[name]) <= MOST_SHARE * max(abs(value), abs(other[name]), 1e-3))
    ]
    return wrong, f"{len(one)} losses"


def made_case() -> Case:
    """Three ellipsoids, and a target that is a little wider."""

    def made(wide: float, seed: int) -> Reference:
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in ((20, 3.6), (46, 2.4), (40, 2.4))]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        labels = np.zeros(x.shape, np.uint8)
        places = (((0, 0, 0), (36, 44, 30)), ((15, 5, 2), (9, 14, 10)), ((-16, -8, -4), (8, 10, 12)))
        for label, (centre, radii) in enumerate(places, start=1):
            labels[sum(((w - c) / r) ** 2 for w, c, r in zip((x / wide, y, z), centre, radii, strict=True)) < 1] = label
        noise = np.random.default_rng(seed).normal(0, 3, x.shape)
        volume = sitk.GetImageFromArray((np.array([0, 100, 180, 40])[labels] + noise * (labels > 0)).astype(np.float32))
        labelmap = sitk.GetImageFromArray(labels)
        for image in (volume, labelmap):
            image.SetSpacing((2.4, 2.4, 3.6))
        return Reference(volume, Segmentation(labelmap, (Structure(1, "body"), Structure(2, "left organ"), Structure(3, "right organ"))))

    reference = made(1.0, 0)
    return Case(reference, made(1.04, 1).volume, [structure.name for structure in reference.segmentation.structures])


def sample_case(names: list[str] | None) -> Case:
    """What comes with RAUSlicer."""
    reference, target = load_sample()
    every = [structure.name for structure in reference.segmentation.structures]
    return Case(reference, target, names or every)


def moved(reference: Reference) -> Reference:
    """The reference as another patient: turned and stretched a little."""
    transform = sitk.AffineTransform(3)
    transform.SetCenter(reference.volume.TransformContinuousIndexToPhysicalPoint([n / 2 for n in reference.volume.GetSize()]))
    transform.Rotate(0, 1, 0.06)
    transform.Scale((1.03, 0.98, 1.0))

    def resampled(image: sitk.Image, how: int) -> sitk.Image:
        return sitk.Resample(image, image, transform, how, 0)

    segmentation = reference.segmentation.map_layers(
        [resampled(layer, sitk.sitkNearestNeighbor) for layer in reference.segmentation.layers]
    )
    return Reference(resampled(reference.volume, sitk.sitkLinear), segmentation)


class Runs:
    """Every kind of run, each on one device."""

    def __init__(self, case: Case, model: str) -> None:
        self.case, self.model = case, model
        every = case.structures
        self.few = every[:: max(len(every) // _FEW, 1)][:_FEW]

    def transfer(self, device: str) -> Transfer:
        return Pipeline(self.model, device).transfer(self.case.reference, self.case.target, self.case.structures)

    def several_references(self, device: str) -> Transfer:
        references = [self.case.reference, moved(self.case.reference)]
        return Pipeline(self.model, device).transfer(references, self.case.target, self.few)

    def registration_localizer(self, device: str) -> Transfer:
        return Pipeline(self.model, device).transfer(self.case.reference, self.case.target, self.few, localizer="registration")

    def correction_by_slice(self, device: str) -> Transfer:
        pipeline = Pipeline(self.model, device)
        first = pipeline.transfer(self.case.reference, self.case.target, self.few, keep_mb=1e6)
        structure = first.segmentation.structures[0]
        inside = first.segmentation.array(structure)
        # The same stroke on both devices: a square in the middle slice.
        painted = np.zeros(inside.shape, np.uint8)
        painted[tuple(slice(n // 2 - n // 8, n // 2 + n // 8) for n in inside.shape)] = 1
        mask = sitk.GetImageFromArray(painted)
        mask.CopyInformation(self.case.target)
        return pipeline.correct(Correction(structure.name, mask, slices=((2, inside.shape[0] // 2),)))

    def correction_by_box(self, device: str) -> Transfer:
        pipeline = Pipeline(self.model, device)
        size = self.case.target.GetSize()
        ends = [self.case.target.TransformIndexToPhysicalPoint([int(n * share) for n in size]) for share in (0.35, 0.65)]
        return pipeline.correct(Correction(self.few[0], box_mm=(ends[0], ends[1])), self.case.reference, self.case.target)

    def embeddings(self, device: str) -> Match:
        match = Pipeline(self.model, device).matcher.match(self.case.reference, self.case.target, ignore, CancelToken())
        assert match is not None
        return match

    def large_model(self, kind: str, device: str) -> Transfer:
        """A tiny one with the architecture of a large language model and of SAM2.1. Made of chance, it answers alike only in one type."""
        case = made_case()
        with made_large_model(kind) as name:
            return Pipeline(name, device).transfer(case.reference, case.target)

    def training_of_matching(self, device: str) -> dict[str, float]:
        from RAUSlicerLib.training import matching
        from RAUSlicerLib.training.augment import Patch
        from RAUSlicerLib.training.datasets import shipped

        torch.manual_seed(0)
        datasets = shipped(Path("."))
        trainee = matching.Trainee(matching.MatchingConfig(labels=tuple(datasets.label_sets.values())), datasets)
        rng = np.random.default_rng(0)
        labels = torch.zeros(32, 48, 48, dtype=torch.long)
        labels[8:24, 8:40, 8:40], labels[12:20, 14:22, 20:30] = 1, 2
        image = torch.from_numpy(rng.random(labels.shape, np.float32)) * 0.2 + labels * 0.3
        patch = Patch(image, labels, np.eye(3, 4))
        return trained_once(trainee, (patch, patch, "heart_mr", True, rng), trainee.settings.weights, device)

    def training_of_the_refiner(self, device: str) -> dict[str, float]:
        from RAUSlicerLib.refinement.network import RefinerConfig
        from RAUSlicerLib.training import refiner

        torch.manual_seed(0)
        trainee = refiner.Trainee(RefinerConfig())
        truth = torch.zeros(2, 24, 24, 24)
        truth[:, 6:18, 6:18, 6:18] = 1
        given = torch.rand(2, 6, 24, 24, 24), torch.rand(2, 12, 12, 12), truth, torch.tensor([16])
        return trained_once(trainee, given, refiner.WEIGHTS, device)


def trained_once(trainee: torch.nn.Module, given: tuple[Any, ...], weights: Mapping[str, float], device: str) -> dict[str, float]:
    """The losses of a step on a device; where there is a way back, it is gone, and the optimizer takes a step."""
    trainee.to("cpu" if device == "cpu" else "cuda")
    parts = trainee(*given)
    named = {name: value for name, value in parts.items() if name in weights}
    if device == "cpu" or not is_pretended():
        optimizer = torch.optim.AdamW(trainee.parameters(), 1e-3)
        torch.stack([weights[name] * value for name, value in named.items()]).sum().backward()
        optimizer.step()
        if not all(torch.isfinite(parameter).all() for parameter in trainee.parameters()):
            raise ArithmeticError("a parameter is not finite after a step")
    return {name: float(value.detach()) for name, value in named.items()}


def is_pretended() -> bool:
    return "pretended_cuda" in sys.modules


@contextlib.contextmanager
def made_large_model(kind: str) -> Iterator[str]:
    """The name of a tiny model of random weights, of which the language model computes in float32."""
    from unittest import mock

    from RAUSlicerLib.full_size import adding, composing, sam2_checkpoints
    from RAUSlicerLib.models.folders import FOLDER_VARIABLE
    from RAUSlicerLib.models.opening import PRECISION_VARIABLE
    from RAUSlicerLib.rau.sam2 import Sam2Config, build_sam2
    from RAUSlicerLib.training.tiny_backbone import make_tiny_backbone

    shape: dict[str, Any] = {"image_size": 64, "encoder_size": 128, "embed_dim": 16, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}
    shape |= {"window_spec": (8, 4, 4, 2), "window_pos_embed_bkg_spatial_size": (4, 4), "d_model": 32, "memory_dim": 16}
    shape |= {"memory_layers": 1, "feedforward": 64, "patch_stride": 4, "as_published": True, "residual": False}
    sizes = {"sam2.1-hiera-tiny": Sam2Config(**shape)}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        home = Path(scratch)
        changed = {FOLDER_VARIABLE: str(home / "models"), PRECISION_VARIABLE: "fp32"}
        stack.enter_context(mock.patch.dict(os.environ, changed))
        for module in (composing, sam2_checkpoints):
            stack.enter_context(mock.patch.object(module, "SIZES", sizes))
        adding.add(make_tiny_backbone(home / kind, kind))
        torch.manual_seed(1)
        torch.save({"model": build_sam2(sizes["sam2.1-hiera-tiny"]).state_dict()}, home / "sam2.pt")
        adding.add(home / "sam2.pt", "sam2.1")
        composing.compose("tiny", kind, "sam2.1", picture=128, regions=2)
        yield "tiny"


def done_on(run: Callable[[str], Any], device: str) -> Done:
    """A run with its time and the most memory of the GPU that it held."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = run("cuda" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.synchronize()
    return Done(result, time.perf_counter() - start, torch.cuda.max_memory_allocated() if on_gpu else 0)


def check(name: str, run: Callable[[str], Any], differ: Callable[[Any, Any], tuple[list[str], str]], device: str) -> Line:
    """One run on the device and on the CPU."""
    line = Line(name)
    done = []
    for where in (device, "cpu"):
        try:
            done.append(done_on(run, where))
        except Exception as error:
            # Whatever stops one run, the others are tried, and all that is wrong is told at once.
            traceback.print_exc()
            line.wrong.append(f"stopped on {where}: {type(error).__name__}: {str(error)[:200]}")
    line.seconds, line.peak = [one.seconds for one in done], max((one.peak for one in done), default=0)
    if len(done) == 2:
        line.wrong, line.note = differ(done[0].result, done[1].result)
    return line


def runs_of(runs: Runs) -> list[tuple[str, Callable[[str], Any], Callable[[Any, Any], tuple[list[str], str]]]]:
    """Names, what is run, and how two of its results are compared."""
    from RAUSlicerLib.training.tiny_backbone import KINDS

    return [
        ("transfer", runs.transfer, transfers_differ),
        ("several references", runs.several_references, transfers_differ),
        ("registration localizer", runs.registration_localizer, transfers_differ),
        ("correction by slice", runs.correction_by_slice, transfers_differ),
        ("correction by box", runs.correction_by_box, transfers_differ),
        ("embeddings", runs.embeddings, matches_differ),
        *((f"large model {kind}", lambda device, kind=kind: runs.large_model(kind, device), transfers_differ) for kind in KINDS),
        ("training of matching", runs.training_of_matching, losses_differ),
        ("training of the refiner", runs.training_of_the_refiner, losses_differ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Check what the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "pretended", "cpu"), default="cuda", help="what is compared with the CPU")
    parser.add_argument("--data", choices=("sample", "made"), default="sample", help="the brains that come with RAUSlicer, or ellipsoids")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--structures", metavar="NAMES", help="of the sample, separated by commas; default: all")
    parser.add_argument("--only", metavar="NAMES", help="runs, separated by commas; default: all")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that torch can use: nothing was checked.", file=sys.stderr)
        return NO_GPU
    names = options.structures.split(",") if options.structures else None
    runs = Runs(made_case() if options.data == "made" else sample_case(names), options.model)
    wanted = [one for one in runs_of(runs) if options.only is None or one[0] in options.only.split(",")]
    with contextlib.ExitStack() as stack:
        if options.device == "pretended":
            sys.path.insert(0, str(Path(__file__).parents[1] / "Python" / "devices"))
            from pretended_cuda import pretended_cuda

            stack.enter_context(pretended_cuda())
        print(f"On {torch.cuda.get_device_name() if options.device != 'cpu' else 'the CPU'} and on the CPU:")
        lines = []
        for name, run, differ in wanted:
            line = check(name, run, differ, options.device)
            seconds = " / ".join(f"{one:7.1f}" for one in line.seconds)
            print(f"{name:26s} {seconds} s  {line.peak / 1e9:6.2f} GB  {'; '.join(line.wrong) or 'agrees'}  {line.note}", flush=True)
            lines.append(line)
    wrong = [line.name for line in lines if line.wrong]
    print(f"Beyond rounding: {', '.join(wrong)}." if wrong else "All runs agree.")
    return 1 if wrong or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
