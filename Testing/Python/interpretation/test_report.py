"""What a report says: order, grounds, uncertainty, comparisons, and how long ones stay readable."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from RAUSlicerLib.interpretation.evidence import Comparison, Quantity, Report, Section, SentenceKind
from RAUSlicerLib.interpretation.report import LIMITS, OVERVIEW, write_report
from RAUSlicerLib.results import Status

from .report_cases import GRAPHS, HU, abdomen, found, gyri, volume


def _report() -> Report:
    return write_report(abdomen(), {"Model": "embedded"}, graphs=GRAPHS)


def _section(report: Report, title: str) -> Section:
    return next(section for section in report.sections if section.title == title)


def _texts(report: Report, name: str) -> list[str]:
    return [sentence.text for sentence in report.about(name) if sentence.structures in ((name,), ("Left kidney", "Right kidney"))]


def test_sections_follow_the_graph_and_the_unattached_come_last() -> None:
    report = _report()

    assert [section.title for section in report.sections] == [OVERVIEW, "Abdomen", "Other structures", LIMITS]
    order = [found.name for found in report.findings]
    assert order == ["Liver", "Spleen", "Right kidney", "Left kidney", "Gallbladder", "Lesion 12"]


def test_every_sentence_but_the_limits_names_its_structures_and_the_least_confidence() -> None:
    report = _report()
    confidences = {found.name: found.confidence for found in report.findings}

    for sentence in report.sentences:
        if sentence.kind is not SentenceKind.LIMIT:
            assert sentence.structures
            assert sentence.confidence == min(confidences[name] for name in sentence.structures)
        if sentence.kind is SentenceKind.MEASURED:
            assert sentence.measurements


def test_numbers_stand_beside_the_reference_and_the_library() -> None:
    assert _texts(_report(), "Liver") == [
        "Liver: the volume is 1533 mL, 12 % larger than in the reference case (1366 mL), "
        "and 0.7 standard deviations above the library's mean (1450 ± 120 mL, n = 12).",
        "Liver: it extends 212 mm from right to left, 160 mm from front to back and 170 mm from top to bottom.",
        "Liver: the mean intensity is −3 HU (standard deviation 14 HU), in the reference case 105 HU.",
        "Liver: its middle lies 8.3 mm from where the reference case would place it.",
    ]


def test_a_structure_that_the_border_cuts_has_lower_bounds_and_no_comparison() -> None:
    texts = _texts(_report(), "Spleen")

    bound = "Spleen: the volume is at least 98.7 mL, because the border of the image cuts it; in the reference case it is 240 mL."
    assert bound in texts
    assert "Spleen: it extends at least 61 mm from top to bottom." in texts
    assert not any("smaller" in text for text in texts)


def test_what_is_not_plausible_is_said() -> None:
    assert "Most of Spleen lies outside of Abdomen." in _texts(_report(), "Spleen")


def test_an_uncertain_structure_is_said_to_be_uncertain_before_its_numbers() -> None:
    first, second, *_ = _texts(_report(), "Left kidney")[1:]

    assert "uncertain" in first and "may be wrong" in first
    assert second.startswith("Left kidney: the volume is 171 mL")


def test_of_a_structure_that_was_not_found_nothing_else_is_said() -> None:
    about = [sentence for sentence in _report().about("Gallbladder") if sentence.structures == ("Gallbladder",)]

    assert [sentence.kind for sentence in about] == [SentenceKind.STATUS, SentenceKind.STATUS]
    assert about[1].text == "Gallbladder: not found; it may be absent, lie outside of the image, or have been missed."


def test_measurements_of_a_structure_that_was_not_found_are_left_out() -> None:
    odd = found("Liver", volume("Liver", 3.0), status=Status.NOT_FOUND, node="liver")

    report = write_report([odd], {}, graphs=GRAPHS)

    assert not [sentence for sentence in report.sentences if sentence.kind is SentenceKind.MEASURED]


def test_a_pair_has_one_sentence_on_its_asymmetry_after_both() -> None:
    section = _section(_report(), "Abdomen")
    about_both = [(index, s) for index, s in enumerate(section.sentences) if s.structures == ("Left kidney", "Right kidney")]

    ((index, sentence),) = about_both
    assert sentence.text == (
        "Left kidney (171 mL) is larger than Right kidney (148 mL): they differ by 14 % of their mean, "
        "in the reference case by 6.3 % the other way round."
    )
    assert sentence.confidence == 0.43
    assert all(not s.structures or s.structures[0] not in sentence.structures for s in section.sentences[index + 1 :])


def test_the_asymmetry_of_a_cut_pair_is_not_reported() -> None:
    findings = [
        replace(one, measurements=tuple(replace(m, is_cut=m.quantity is Quantity.VOLUME) for m in one.measurements)) for one in abdomen()
    ]

    report = write_report(findings, {}, graphs=GRAPHS)

    assert not any(s.structures == ("Left kidney", "Right kidney") and s.measurements for s in report.sentences)


@pytest.mark.parametrize(
    ("value", "words"),
    [(101.0, "about as large as in the reference case (100 mL)"), (260.0, "2.6 times as large as in the reference case (100 mL)")],
)
def test_small_and_great_differences_have_their_own_words(value: float, words: str) -> None:
    report = write_report([found("Liver", volume("Liver", value, Comparison(reference=100.0)))], {}, graphs={})

    assert words in report.sections[1].sentences[0].text


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (Comparison(mean=8.0, spread=1.0, z_score=2.0, n=5), "2.0 standard deviations above the library's mean (8.00 ± 1.00 mL, n = 5)"),
        (Comparison(mean=10.0, spread=1.0, z_score=-0.01, n=5), "at the library's mean (10.0 ± 1.00 mL, n = 5)"),
        (Comparison(mean=8.0, n=2), "beside the library's mean of 8.00 mL (n = 2)"),
    ],
)
def test_a_library_is_named_with_its_number_of_cases(comparison: Comparison, words: str) -> None:
    report = write_report([found("Liver", volume("Liver", 10.0, comparison))], {}, graphs={})

    assert words in report.sections[1].sentences[0].text


def test_intensities_without_a_unit_are_compared_with_nothing() -> None:
    report = write_report(_with_unit("1"), {}, graphs=GRAPHS)

    (text,) = [s.text for s in report.about("Liver") if "mean intensity" in s.text]
    assert text == "Liver: the mean intensity is −3.20 (standard deviation 14.4)."
    assert any("without a unit" in sentence.text for sentence in _section(report, LIMITS).sentences)


def _with_unit(unit: str) -> list:
    return [replace(one, measurements=tuple(replace(m, unit=unit) if m.unit == HU else m for m in one.measurements)) for one in abdomen()]


def test_unknown_confidence_is_said_to_be_unknown() -> None:
    report = write_report([replace(one, confidence=math.nan, status=Status.FOUND) for one in abdomen()], {}, graphs=GRAPHS)

    overview = [sentence.text for sentence in report.sections[0].sentences]
    assert overview[0] == "6 structures are in the segmentation."
    assert "All 6 structures have no known confidence: what drew them did not say how sure it was." in overview
    assert {sentence.confidence for sentence in report.sentences} == {None}


def test_it_always_says_that_it_is_for_research_and_no_diagnosis() -> None:
    texts = [sentence.text for sentence in _section(write_report([found("Liver")], {}, graphs={}), LIMITS).sentences]

    assert any("research use only and no diagnosis" in text for text in texts)


def test_a_long_report_summarizes_its_sections_and_keeps_the_details() -> None:
    findings, graphs = gyri(40, wrong=(7,))

    report = write_report(findings, {}, graphs=graphs)

    front = _section(report, "Frontal lobe")
    assert [section.title for section in report.sections] == [OVERVIEW, "Frontal lobe", "Occipital lobe", LIMITS]
    assert front.sentences[0].text.startswith("The 26 structures of “Frontal lobe” together: the volume is ")
    (total,) = front.sentences[0].measurements
    own = [found for found in findings if found.name in total.structures]
    assert total.value == pytest.approx(sum(found.measurements[0].value for found in own)) and len(own) == 26
    assert front.sentences[1].text == "Furthest from the reference case in volume: Gyrus 7 (3.0 times as large)."
    assert {sentence.structures for sentence in front.details} == {(found.name,) for found in own}


def test_volumes_of_structures_inside_of_each_other_are_not_added() -> None:
    findings, graphs = gyri(40)
    lobe = found("Whole lobe", volume("Whole lobe", 900.0), node="front", graph="brain")

    report = write_report([*findings, lobe], {}, graphs=graphs)

    assert not any("together" in sentence.text for sentence in _section(report, "Frontal lobe").sentences)
    assert any("together" in sentence.text for sentence in _section(report, "Occipital lobe").sentences)


def test_a_sum_with_a_cut_part_is_a_lower_bound() -> None:
    findings, graphs = gyri(45)
    cut = replace(findings[1], measurements=(replace(findings[1].measurements[0], is_cut=True),))

    report = write_report([findings[0], cut, *findings[2:]], {}, graphs=graphs)

    text = _section(report, "Frontal lobe").sentences[0].text
    assert "the volume is at least" in text and "reference" not in text


def test_many_names_are_not_listed_one_by_one() -> None:
    findings, graphs = gyri(60)
    findings = tuple(replace(found, status=Status.LOW_CONFIDENCE) if index < 40 else found for index, found in enumerate(findings))

    overview = write_report(findings, {}, graphs=graphs).sections[0].sentences

    (uncertain,) = [sentence for sentence in overview if "low confidence" in sentence.text]
    assert len(uncertain.structures) == 40 and uncertain.text.endswith(" and 25 more.")
