"""The bars that the model has to pass, and what recorded runs say of each: reached, or short by how much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..imaging.variants import NATURAL
from .methods import COPY, DEMONS, MEMORY, OURS
from .metrics import rank_correlation
from .records import Run, StructureScore

# Dice that a domain must reach, and what is aimed for.
MUST_REACH = {"brain_t1": (0.80, 0.88), "abdomen_ct": (0.45, 0.70), "heart_mr": (0.65, 0.85)}
# How many times demons' Dice ours must exceed.
_TIMES_DEMONS = {"brain_t1": 1.0, "abdomen_ct": 1.5}
_STEADY = {"brain_t1": ("rotated", "half")}
_FEWEST_FOR_RANKS = 20

Value = Callable[[StructureScore], float | None]


@dataclass(frozen=True)
class Verdict:
    """What is known of a bar. ``value`` is None where it was not measured; ``pairs`` are those it rests on. ``below``: less is better."""

    bar: str
    domain: str
    must: float
    aim: float | None
    value: float | None
    pairs: int
    note: str = ""
    below: bool = False
    # Whether the bar itself is not enough.
    strictly: bool = False

    @property
    def margin(self) -> float | None:
        """How far beyond the bar, negative if short of it."""
        return None if self.value is None else (self.must - self.value if self.below else self.value - self.must)

    @property
    def reached(self) -> bool | None:
        if self.margin is None:
            return None
        # Not by the last bit of a sum.
        return self.margin > 1e-9 if self.strictly else self.margin >= -1e-9

    @property
    def words(self) -> str:
        """``reached``, ``short by 0.05`` or ``not measured``."""
        if self.margin is None:
            return "not measured"
        return f"reached (by {self.margin:.3f})" if self.reached else f"short by {-self.margin:.3f}"


def verdicts(runs: Sequence[Run], *, unseen: Collection[int] = ()) -> list[Verdict]:
    """ConfidenceScorer every bar by the runs that are there; means are over pairs, of the mean over a pair's structures.

    Args:
        runs: Of any methods, variants and domains.
        unseen: Labels of ``brain_t1`` that were left out of training.
    """
    right = [run for run in runs if not run.wrong_part]
    out: list[Verdict] = []
    for domain in sorted({run.domain for run in right}):
        own = _Runs([run for run in right if run.domain == domain])
        out += [*_accuracy(domain, own), *_steadiness(domain, own), *_alone(domain, own), *_boxes(domain, own), *_time(domain, own)]
        out += [*_several(domain, own), *_unseen(domain, own, unseen)]
    out += _confidence(right)
    return out


class _Runs:
    """Runs of a domain by method and variant, one reference a run."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.all = runs

    def of(self, method: str, variant: str = NATURAL) -> dict[tuple[str, ...], Run]:
        return {run.pair: run for run in self.all if run.method == method and run.variant == variant and len(run.references) == 1}


def dice_of(score: StructureScore) -> float | None:
    """The value most bars are about."""
    return score.dice


def mean_of(runs: Mapping[tuple[str, ...], Run], value: Value) -> tuple[float | None, int]:
    """Mean over runs of the mean over their structures that have the value, and over how many runs."""
    means = [fmean(known) for run in runs.values() if (known := [v for s in run.structures if (v := value(s)) is not None])]
    return (fmean(means) if means else None), len(means)


def gain(
    first: Mapping[tuple[str, ...], Run],
    second: Mapping[tuple[str, ...], Run],
    value: Value,
    other: Value | None = None,
    times: float = 1.0,
) -> tuple[float | None, int]:
    """Mean of ``value`` in the first minus ``times`` that of ``other`` in the second, on the same pairs and structures."""
    differences = []
    for pair in first.keys() & second.keys():
        theirs = {score.label: (other or value)(score) for score in second[pair].structures}
        known = [
            mine - times * his
            for score in first[pair].structures
            if (mine := value(score)) is not None and (his := theirs.get(score.label)) is not None
        ]
        if known:
            differences.append(fmean(known))
    return (fmean(differences) if differences else None), len(differences)


def _accuracy(domain: str, runs: _Runs) -> Iterator[Verdict]:
    ours, demons = runs.of(OURS), runs.of(DEMONS)
    if domain in MUST_REACH:
        must, aim = MUST_REACH[domain]
        yield Verdict("Dice", domain, must, aim, *mean_of(ours, dice_of))
    if domain in _TIMES_DEMONS:
        times = _TIMES_DEMONS[domain]
        text = "Dice above demons" if times == 1 else f"Dice above {times:g} x demons"
        value, pairs = gain(ours, demons, dice_of, times=times)
        yield Verdict(text, domain, 0.0, None, value, pairs, _beside("demons", demons), strictly=True)


def _steadiness(domain: str, runs: _Runs) -> Iterator[Verdict]:
    for variant in _STEADY.get(domain, ()):
        changed = runs.of(OURS, variant)
        value, pairs = gain(changed, runs.of(OURS), dice_of)
        note = _beside(variant, changed)
        yield Verdict(f"Dice {variant} against natural, visible structures", domain, -0.05, -0.02, value, pairs, note)


def _alone(domain: str, runs: _Runs) -> Iterator[Verdict]:
    # Nothing but the learned model is in the default way: no registration is asked.
    ours, memory = runs.of(OURS), runs.of(MEMORY)
    value, pairs = gain(ours, memory, dice_of)
    yield Verdict("Dice minus SAM2 memory", domain, 0.10, 0.20, value, pairs, _beside("SAM2 memory", memory))


def _boxes(domain: str, runs: _Runs) -> Iterator[Verdict]:
    def own(score: StructureScore) -> float | None:
        return score.box_iou

    def of_mask(score: StructureScore) -> float | None:
        return score.mask_box_iou

    for variant in (NATURAL, "rotated"):
        ours = runs.of(OURS, variant)
        value, pairs = gain(ours, runs.of(COPY, variant), own)
        level, _ = mean_of(ours, own)
        note = "" if level is None else f"its box {level:.3f}"
        yield Verdict(f"box IoU minus copy-with-rescale, {variant}", domain, 0.0, 0.10, value, pairs, note, strictly=True)
        value, pairs = gain(ours, runs.of(MEMORY, variant), own, of_mask)
        yield Verdict(f"box IoU minus SAM2 memory's mask's box, {variant}", domain, 0.0, 0.10, value, pairs, note, strictly=True)


def _time(domain: str, runs: _Runs) -> Iterator[Verdict]:
    ours, demons = runs.of(OURS), runs.of(DEMONS)
    times = [(ours[pair].seconds, demons[pair].seconds) for pair in ours.keys() & demons.keys()]
    known = [(mine, theirs) for mine, theirs in times if mine is not None and theirs is not None]
    mine, theirs = sum(pair[0] for pair in known), sum(pair[1] for pair in known)
    note = f"{mine / len(known):.0f} s against {theirs / len(known):.0f} s" if known else ""
    value = mine / theirs if theirs else None
    yield Verdict("time, times affine + demons", domain, 1.0, 0.3, value, len(known), note, below=True)


def _several(domain: str, runs: _Runs) -> Iterator[Verdict]:
    single: dict[str, dict[int, list[float]]] = {}
    for run in runs.of(OURS).values():
        for score in run.structures:
            if score.dice is not None:
                single.setdefault(run.target, {}).setdefault(score.label, []).append(score.dice)
    differences = []
    for run in runs.all:
        if run.method == OURS and run.variant == NATURAL and len(run.references) == 3:
            own = single.get(run.target, {})
            known = [s.dice - fmean(own[s.label]) for s in run.structures if s.dice is not None and s.label in own]
            if known:
                differences.append(fmean(known))
    value = fmean(differences) if differences else None
    yield Verdict("Dice with 3 references minus mean of the single ones", domain, 0.02, None, value, len(differences))


def _unseen(domain: str, runs: _Runs, unseen: Collection[int]) -> Iterator[Verdict]:
    if domain != "brain_t1":
        return

    def left_out(score: StructureScore) -> float | None:
        return score.dice if score.label in unseen else None

    def trained(score: StructureScore) -> float | None:
        return None if score.label in unseen else score.dice

    def short(method: str) -> tuple[float | None, int]:
        (seen, pairs), (new, _) = mean_of(runs.of(method), trained), mean_of(runs.of(method), left_out)
        return (None if seen is None or new is None else seen - new), pairs

    value, pairs = short(OURS)
    theirs = short(DEMONS)[0]
    # Structures differ in how hard they are: a method that never trained shows by how much.
    note = "labels not named (--unseen)" if not unseen else "" if theirs is None else f"demons: {theirs:.3f}"
    yield Verdict("Dice of seen minus unseen structures", domain, 0.08, None, value, pairs, note, below=True)


def _confidence(runs: Sequence[Run]) -> Iterator[Verdict]:
    ours = [run for run in runs if run.method == OURS and run.variant == NATURAL and len(run.references) == 1]
    whole = confidence_against_dice(ours)
    notes = []
    for domain in sorted({run.domain for run in ours}):
        value = confidence_against_dice([run for run in ours if run.domain == domain])
        notes.append(f"{domain} {'-' if value is None else f'{value:.2f}'}")
    yield Verdict("Spearman of confidence with Dice", "all", 0.6, None, whole, len(ours), ", ".join(notes))


def confidence_against_dice(runs: Sequence[Run]) -> float | None:
    """Spearman's correlation over all structures of some runs; None with too few to say."""
    known = [(s.confidence, s.dice) for run in runs for s in run.structures if s.confidence is not None and s.dice is not None]
    if len(known) < _FEWEST_FOR_RANKS:
        return None
    return rank_correlation([pair[0] for pair in known], [pair[1] for pair in known])


def _beside(name: str, runs: Mapping[tuple[str, ...], Run]) -> str:
    level, _ = mean_of(runs, dice_of)
    return "" if level is None else f"{name} {level:.3f}"
