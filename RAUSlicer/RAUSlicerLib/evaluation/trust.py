"""Does it know when it is wrong? Runs what must not be trusted, and counts what is called "not found" or "low confidence"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

from ..imaging.variants import NATURAL, WITHOUT
from ..results import Status
from ..support.outputs import write_text
from .benchmark import Plan
from .methods import OURS
from .pairs import Case, Trial, choose_trials, wrong_part_trials
from .records import Run, StructureScore
from .report import completeness, markdown_table

# Taken out of the target for want of a case that lacks it: the structure that operations take out most often.
_REMOVED = "gallbladder"
_CHANGED = (NATURAL, "mirrored", "half", "rotated20", "scaled")
# A mask that overlaps its own structure by less shows something else.
_RIGHT = 0.3
_FEWEST_FOR_RANKS = 20
COLUMNS = ("Data", "Case", "Runs", "Structures", "Not found", "Low confidence", "Found", "Found but wrong", "Dice", "Spearman")
SIDE_COLUMNS = ("Mirrored, lateralised", "Structures", "Follows the anatomy", "Doubted", "Follows the coordinates")
LEGEND = (
    "Shares of the structures of a case. Wrong part: the reference shows another part of the body. Absent: structures that the "
    f"reference has and the target lacks, by nature or because its {_REMOVED} was taken out. Left the field: structures that the "
    f"missing half held. Found but wrong: called found, with a Dice below {_RIGHT}. Dice and Spearman (of confidence with Dice) are "
    "over the structures that are there. Mirrored, lateralised: structures with a left and a right; of those, follows the anatomy: "
    "overlaps its own anatomy, which the mirror has moved to the other side, more than its counterpart's; follows the coordinates: "
    "is called found and does not, which no brain can avoid."
)


def plan_trust(
    data: Path, *, split: str = "val", domains: Sequence[str] | None = None, limit: int | None = None, model: str, device: str
) -> Plan:
    """What is run: the changed frames of every target with its first reference, wrong parts of the body, and an organ taken out.

    Runs in the natural frame and half of it are those of the benchmark: in the same folder they are not run twice.

    Raises:
        InputError: there is no such data, domain or split.
    """
    listed = choose_trials(data, split, domains, limit, _CHANGED)
    first: dict[Case, Trial] = {}
    for trial in listed:
        first.setdefault(trial.target, trial)
    trials = wrong_part_trials(data, split, domains, limit)
    for trial in first.values():
        label = next((label for label, name in trial.target.structure_names().items() if name.casefold() == _REMOVED), None)
        if label is not None:
            trials.append(Trial(trial.target, trial.references, f"{WITHOUT}{label}"))
    trials += [trial for trial in listed if trial.references == first[trial.target].references]
    return Plan(tuple((trial, (OURS,)) for trial in trials), model, device)


def doubted(score: StructureScore) -> bool:
    """Whether the user is told that it isn't there or can't be trusted. A run that failed has told nothing."""
    return score.status in (Status.NOT_FOUND, Status.LOW_CONFIDENCE)


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row for every data set and case, in the order of ``COLUMNS``."""
    out = []
    for domain in sorted({run.domain for run in runs}):
        own = [run for run in runs if run.domain == domain]
        right = [run for run in own if not run.wrong_part]
        cases: dict[str, list[tuple[Run, StructureScore]]] = {
            "wrong part": [(run, s) for run in own if run.wrong_part for s in run.structures]
        }
        for variant in dict.fromkeys(run.variant for run in right):
            if not variant.startswith(WITHOUT):
                cases[variant] = [(run, s) for run in right if run.variant == variant for s in run.structures if s.is_present]
        cases["absent"] = [(run, s) for run in right for s in run.structures if run.variant != "half" and _gone(run, s)]
        cases["left the field"] = [(run, s) for run in right for s in run.structures if run.variant == "half" and _gone(run, s)]
        out += [_row(domain, name, case) for name, case in cases.items() if case]
    return out


def side_rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row for every data set with lateralised structures in mirrored targets, in the order of ``SIDE_COLUMNS``."""
    out = []
    for domain in sorted({run.domain for run in runs}):
        of_domain = [run for run in runs if run.domain == domain and run.variant == "mirrored"]
        known = [s for run in of_domain for s in run.structures if s.mirror_dice is not None]
        if known:
            follows = fmean(not doubted(s) and (s.dice or 0.0) > (s.mirror_dice or 0.0) for s in known)
            unsure = fmean(doubted(s) for s in known)
            out.append([domain, str(len(known)), *(f"{share:.2f}" for share in (follows, unsure, 1 - follows - unsure))])
    return out


def confidence_against_dice(runs: Sequence[Run]) -> float | None:
    """Spearman's correlation over all structures of some runs; None with too few to say, or where either is the same for all."""
    known = [(s.confidence, s.dice) for run in runs for s in run.structures if s.confidence is not None and s.dice is not None]
    if len(known) < _FEWEST_FOR_RANKS or any(len(set(values)) < 2 for values in zip(*known, strict=True)):
        return None
    return float(spearmanr(*zip(*known, strict=True)).statistic)


def write_trust(runs: Sequence[Run], missing: int, output: Path) -> None:
    """Write ``trust.md``."""
    lines = [LEGEND, "", completeness(missing), ""]
    for columns, cells in ((COLUMNS, rows(runs)), (SIDE_COLUMNS, side_rows(runs))):
        lines += [*markdown_table(columns, cells), ""]
    write_text(output / "trust.md", "table", "\n".join(lines))


def _gone(run: Run, score: StructureScore) -> bool:
    # In a target whose organ was taken out only that one is the question: the rest is the natural frame again.
    return score.is_present is False and (not run.variant.startswith(WITHOUT) or run.variant == f"{WITHOUT}{score.label}")


def _row(domain: str, name: str, case: Sequence[tuple[Run, StructureScore]]) -> list[str]:
    scores = [score for _, score in case]
    dice = [score.dice for score in scores if score.dice is not None]
    pairs = {(run.pair, run.variant): run for run, _ in case}
    ranks = confidence_against_dice(list(pairs.values())) if dice else None
    wrong = fmean(not doubted(score) and (score.dice or 0.0) < _RIGHT for score in scores)
    shares = [fmean(score.status == status for score in scores) for status in (Status.NOT_FOUND, Status.LOW_CONFIDENCE, Status.FOUND)]
    known = [f"{fmean(dice):.3f}" if dice else "-", "-" if ranks is None else f"{ranks:.2f}"]
    return [domain, name, str(len(pairs)), str(len(scores)), *(f"{share:.2f}" for share in (*shares, wrong)), *known]
