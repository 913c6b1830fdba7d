"""That what a report says is what was measured, and that a wrong word or number is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from RAUSlicerLib.cli.demo import load_sample
from RAUSlicerLib.imaging.segmentation import Reference
from RAUSlicerLib.interpretation.evidence import Comparison, Measurement, Quantity, Report, Sentence, SentenceKind, StructureFindings
from RAUSlicerLib.interpretation.library import Library
from RAUSlicerLib.interpretation.measuring import measure, measure_annotated
from RAUSlicerLib.interpretation.report import write_report
from RAUSlicerLib.interpretation.segmented import load_reference
from RAUSlicerLib.results import Status, StructureResult

from .factuality import check
from .report_cases import GRAPHS, abdomen, found, gyri, volume


def _sentence(text: str) -> Sentence:
    """The sentence of the made-up abdomen's report with a text."""
    return next(sentence for sentence in write_report(abdomen(), {}, graphs=GRAPHS).sentences if sentence.text == text)


def _measured(report: Report) -> int:
    return sum(sentence.kind is SentenceKind.MEASURED for sentence in report.sentences)


VOLUME = (
    "Liver: the volume is 1533 mL, 12 % larger than in the reference case (1366 mL), "
    "and 0.7 standard deviations above the library's mean (1450 ± 120 mL, n = 12)."
)
EXTENT = "Liver: it extends 212 mm from right to left, 160 mm from front to back and 170 mm from top to bottom."
INTENSITY = "Liver: the mean intensity is −3 HU (standard deviation 14 HU), in the reference case 105 HU."
POSITION = "Liver: its middle lies 8.3 mm from where the reference case would place it."
CUT = "Spleen: the volume is at least 98.7 mL, because the border of the image cuts it; in the reference case it is 240 mL."
PAIR = (
    "Left kidney (171 mL) is larger than Right kidney (148 mL): they differ by 14 % of their mean, "
    "in the reference case by 6.3 % the other way round."
)
LESION = "Lesion 12: the volume is 0.05 mL."


def test_all_that_is_written_of_made_up_findings_is_right() -> None:
    for findings, graphs in ((abdomen(), GRAPHS), gyri(40, wrong=(3, 7, 8))):
        report = write_report(findings, {}, graphs=graphs)

        assert check(report.sentences, findings) == []
        assert _measured(report) > 9


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (VOLUME, "1533", "1534"),
        (VOLUME, "1533 mL", "1533 mm"),
        (VOLUME, "12 %", "13 %"),
        (VOLUME, "larger", "smaller"),
        (VOLUME, "(1366 mL)", "(1367 mL)"),
        (VOLUME, "0.7 standard", "0.8 standard"),
        (VOLUME, "above", "below"),
        (VOLUME, "1450", "1451"),
        (VOLUME, "120 mL", "121 mL"),
        (VOLUME, "n = 12", "n = 13"),
        (VOLUME, "is 1533", "is at least 1533"),
        (VOLUME, "12 % larger than", "about as large as"),
        (VOLUME, "12 % larger than", "1.2 times as large as"),
        (VOLUME, "0.7 standard deviations above", "at"),
        (VOLUME, "Liver:", "Spleen:"),
        (EXTENT, "212 mm from right", "160 mm from right"),
        (EXTENT, "160 mm from front to back and 170 mm from top", "170 mm from front to back and 160 mm from top"),
        (INTENSITY, "−3", "3"),
        (INTENSITY, "14 HU", "15 HU"),
        (INTENSITY, "105", "106"),
        (POSITION, "8.3", "8.4"),
        (CUT, "at least ", ""),
        (CUT, "240", "241"),
        (PAIR, "Left kidney (171 mL) is larger than Right kidney (148 mL)", "Left kidney (148 mL) is larger than Right kidney (171 mL)"),
        (PAIR, "Left kidney (171 mL) is larger than Right kidney (148 mL)", "Right kidney (148 mL) is larger than Left kidney (171 mL)"),
        (PAIR, "larger", "smaller"),
        (PAIR, "by 14 %", "by 15 %"),
        (PAIR, "6.3 %", "6.4 %"),
        (PAIR, " the other way round", ""),
        (LESION, "0.05", "0.06"),
        (LESION, "Lesion 12", "Lesion 13"),
        (LESION, "is 0.05 mL", "is 0.05 mL in 3 parts"),
    ],
)
def test_a_wrong_word_or_number_is_noticed(text: str, old: str, new: str) -> None:
    sentence = _sentence(text)
    assert check([sentence]) == []

    changed = replace(sentence, text=text.replace(old, new, 1))

    assert changed.text != text
    assert check([changed])


def test_a_wrong_sum_is_noticed() -> None:
    findings, graphs = gyri(45)
    report = write_report(findings, {}, graphs=graphs)
    sentence = report.sections[1].sentences[0]
    assert check([sentence], findings) == []

    # The text follows the evidence, but the evidence is not what was measured.
    (total,) = sentence.measurements
    invented = replace(total, value=700.0, comparison=Comparison())
    changed = replace(sentence, text=f"The 30 structures of “{report.sections[1].title}” together: the volume is 700 mL.")

    assert check([replace(changed, measurements=(invented,))]) == []
    assert check([replace(changed, measurements=(invented,))], findings)
    assert check([replace(sentence, text=sentence.text.replace("The 30", "The 31"))])


def test_evidence_that_was_never_measured_is_noticed() -> None:
    findings = abdomen()
    invented = Sentence(
        "Liver: the volume is 900 mL.", SentenceKind.MEASURED, ("Liver",), (Measurement(Quantity.VOLUME, 900.0, "mL", ("Liver",)),)
    )

    assert check([invented]) == []
    assert check([invented], findings)


@pytest.mark.parametrize(("text", "right"), [("3 of them", False), ("confidence 0.43", True), ("confidence 0.44", False)])
def test_numbers_of_other_sentences_are_confidences_scores_or_counts(text: str, right: bool) -> None:
    sentence = Sentence(f"Liver: {text}.", SentenceKind.STATUS, ("Liver",), confidence=0.43)

    assert (check([sentence]) == []) is right


def test_names_that_hold_numbers_units_and_other_names_are_read_as_names() -> None:
    findings = [
        found(name, volume(name, 10.0 + index, Comparison(reference=20.0)))
        for index, name in enumerate(("Area 44", "Area 44 mL", "the volume is 3 mL", "Gyrus (5 % larger)", "a|b*c", "左腎 2"))
    ]

    report = write_report(findings, {}, graphs={})

    assert check(report.sentences, findings) == [] and _measured(report) == 6


def _results(reference: Reference) -> list[StructureResult]:
    """Every third structure as uncertain, so that all kinds of sentences are there."""
    return [
        StructureResult(structure, Status.FOUND if index % 3 else Status.LOW_CONFIDENCE, 0.3 + index % 7 / 10, 0.0, 0.0)
        for index, structure in enumerate(reference.segmentation.structures)
    ]


def test_a_report_on_the_sample_brain_is_right_throughout() -> None:
    reference, target = load_sample()
    copied = [sitk.Resample(layer, target, sitk.Transform(), sitk.sitkNearestNeighbor) for layer in reference.segmentation.layers]

    findings = measure(target, reference.segmentation.map_layers(copied), _results(reference), reference)
    report = write_report(findings, {})

    assert check(report.sentences, findings) == [] and _measured(report) > 400


def test_reports_on_abdomens_with_a_library_are_right_throughout(data_folder: Path) -> None:
    train = json.loads((data_folder / "splits.json").read_text())["abdomen_ct"]["train"][:4]
    cases = [
        load_reference(data_folder / "abdomen_ct" / f"{name}.nii.gz", data_folder / "abdomen_ct" / f"{name}_seg.nii.gz") for name in train
    ]
    library = Library.of_cases("three", [measure_annotated(case) for case in cases[1:]])

    findings: tuple[StructureFindings, ...] = measure(cases[0].volume, cases[0].segmentation, _results(cases[0]), cases[1], library)
    report = write_report(findings, {})

    assert check(report.sentences, findings) == [] and _measured(report) > 30
