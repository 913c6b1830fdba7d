"""Runs the questions on the targets of a split, keeps the answers of every pair as they come, and reports accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ..imaging.image_file import read_image
from ..imaging.segmentation import Segmentation, Structure
from ..inputs import load_inputs
from ..progress import CancelToken, ProgressCallback, ProgressEvent, part
from ..support.outputs import make_folder, write_text
from .methods import fingerprint
from .pairs import Case, Trial, choose_trials, scored_labels
from .records import add_line, read_lines
from .report import markdown_table
from .scoring import FEWEST_VOXELS
from .vqa import Answered, answer

if TYPE_CHECKING:
    from ..pipeline import Pipeline

LOG = "vqa.jsonl"
NAMING = ("Data", "Pairs", "Questions", "Model", "its boxes alone", "its evidence alone", "Nearest reference box", "Chance")
PRESENCE = ("Data", "Pairs", "Questions", "Model", "Nearest reference box", "Chance")
_NAMED = ("named", "named_by_box", "named_by_evidence", "named_by_rule")
LEGEND = (
    "Accuracies on slices of the target. Naming: what is the marked region called, among all structures of the reference; the model "
    "answers with the best sum of its box's and its matched evidence's fit. Presence: is X in this slice, asked of each structure on "
    "as many slices with it as without. The rule is the reference mapped through the foreground boxes of both volumes. Chance: one of"
    " the reference's structures at random; the more frequent of yes and no."
)


@dataclass(frozen=True)
class Sheet:
    """The answered questions of one target with one reference; ``choices`` is how many names there were to choose from."""

    domain: str
    reference: str
    target: str
    model: str
    choices: int
    answers: tuple[Answered, ...]

    @property
    def key(self) -> tuple[str, ...]:
        return self.model, self.domain, self.target, self.reference

    @classmethod
    def from_dict(cls, values: dict) -> Sheet:
        return cls(**{**values, "answers": tuple(Answered(**one) for one in values["answers"])})


def run_vqa(
    data: Path,
    output: Path,
    *,
    split: str = "val",
    domains: Sequence[str] | None = None,
    limit: int | None = None,
    model: str = "embedded",
    device: str = "auto",
    progress: ProgressCallback,
    cancel: CancelToken,
) -> list[Sheet]:
    """Ask about every target of a split, with its first reference; what is in the output folder already is not asked again.

    Writes ``vqa.jsonl`` as it goes and ``vqa.md`` after every pair.

    Raises:
        InputError: there is no such data, domain or split.
        ModelError: there is no such model.
        OutputError: the output folder can't be created.
    """
    weights = fingerprint(model)
    first: dict[Case, Trial] = {}
    for trial in choose_trials(data, split, domains, limit):
        first.setdefault(trial.target, trial)
    make_folder(output)
    known = {sheet.key: sheet for sheet in read_lines(output / LOG, Sheet.from_dict)}
    ask = _Asker(model, device)
    sheets = []
    for number, trial in enumerate(first.values()):
        key = (weights, trial.domain, trial.target.name, trial.references[0].name)
        if key not in known:
            if cancel.cancelled:
                continue
            share = part(progress, number / len(first), (number + 1) / len(first))
            answered = ask(trial, weights, share, cancel)
            if answered is None:
                continue
            known[key] = answered
            add_line(output / LOG, asdict(answered))
        sheets.append(known[key])
        _write_report(sheets, output / "vqa.md")
    progress(ProgressEvent("done", 1.0))
    return sheets


def naming_rows(sheets: Sequence[Sheet]) -> list[list[str]]:
    """A row a data set, in the order of ``NAMING``."""
    out = []
    for domain, own in _by_domain(sheets):
        asked = [one for sheet in own for one in sheet.answers if one.naming]
        if not asked:
            continue
        shares = [fmean(one.name == getattr(one, said) for one in asked) for said in _NAMED]
        chance = fmean(1 / sheet.choices for sheet in own for one in sheet.answers if one.naming)
        out.append([domain, str(len(own)), str(len(asked)), *(f"{share:.3f}" for share in (*shares, chance))])
    return out


def presence_rows(sheets: Sequence[Sheet]) -> list[list[str]]:
    """A row a data set, in the order of ``PRESENCE``."""
    out = []
    for domain, own in _by_domain(sheets):
        asked = [one for sheet in own for one in sheet.answers if not one.naming]
        if not asked:
            continue
        there = fmean(one.present for one in asked)
        shares = (
            fmean(one.said_present == one.present for one in asked),
            fmean(one.rule_present == one.present for one in asked),
            max(there, 1 - there),
        )
        out.append([domain, str(len(own)), str(len(asked)), *(f"{share:.3f}" for share in shares)])
    return out


class _Asker:
    """Localizes with a model that is opened when it is first needed."""

    def __init__(self, model: str, device: str) -> None:
        self._model, self._device = model, device
        self._pipeline: Pipeline | None = None

    def __call__(self, trial: Trial, weights: str, progress: ProgressCallback, cancel: CancelToken) -> Sheet | None:
        """The answers of a pair; None after a cancel."""
        case = trial.references[0]
        inputs = load_inputs([(case.volume, case.segmentation)], trial.target.volume)
        reference, known = inputs.references[0], case.structure_names()
        own = reference.segmentation.structures
        enough = {structure.label for structure in own if reference.segmentation.array(structure).sum() >= FEWEST_VOXELS}
        asked = set(scored_labels(trial.domain, sorted(enough)))
        structures = [structure for structure in own if structure.label in asked]
        labels = read_image(trial.target.segmentation)
        present = np.unique(sitk.GetArrayViewFromImage(labels)).tolist()
        truth = Segmentation(labels, tuple(Structure(label, name) for label, name in known.items() if label in present))
        if self._pipeline is None:
            from ..pipeline import Pipeline

            self._pipeline = Pipeline(self._model, self._device)
        found = self._pipeline.locate(inputs, structures, progress=progress, cancel=cancel)
        if cancel.cancelled or not found:
            return None
        answers = answer(reference, inputs.target, truth, found, f"{trial.domain} {trial.target.name}")
        return Sheet(trial.domain, case.name, trial.target.name, weights, len(structures), tuple(answers))


def _by_domain(sheets: Sequence[Sheet]) -> list[tuple[str, list[Sheet]]]:
    domains = sorted({sheet.domain for sheet in sheets if sheet.answers})
    return [(domain, [sheet for sheet in sheets if sheet.domain == domain and sheet.answers]) for domain in domains]


def _write_report(sheets: Sequence[Sheet], path: Path) -> None:
    lines = [LEGEND, "", "## Name a marked region", "", *markdown_table(NAMING, naming_rows(sheets))]
    lines += ["", "## Is X present in this slice", "", *markdown_table(PRESENCE, presence_rows(sheets)), ""]
    write_text(path, "table", "\n".join(lines))
