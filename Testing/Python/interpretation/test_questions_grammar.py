"""What the grammar of questions understands, and what it honestly does not."""

import pytest

from RAUSlicerLib.interpretation.question_grammar import Kind, Question, parse


@pytest.mark.parametrize(
    "text",
    [
        "What is here?",
        "what's this",
        "What is at the crosshair?",
        "Which structure is at this point",
        "which structures are here?",
        "What is in the marked region?",
        "What is the selected area",
        "Where am I?",
        "Name the marked region",
    ],
)
def test_a_place_is_asked_about(text):
    assert parse(text) == Question(Kind.HERE)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("What is at RAS 10, -20.5, 5?", (-10.0, 20.5, 5.0)),
        ("what is at lps (10 -20 5) mm", (10.0, -20.0, 5.0)),
    ],
)
def test_a_point_may_be_written_with_its_frame(text, point):
    assert parse(text) == Question(Kind.HERE, point=point)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("Is the liver present?", Kind.PRESENT, "liver"),
        ("is there a gallbladder in this image?", Kind.PRESENT, "gallbladder"),
        ("Are there kidneys", Kind.PRESENT, "kidneys"),
        ("Is the left kidney missing?", Kind.PRESENT, "left kidney"),
        ("Do you see a spleen?", Kind.PRESENT, "spleen"),
        ("Can you find the aorta in the scan?", Kind.PRESENT, "aorta"),
        ("Does this scan show the pancreas?", Kind.PRESENT, "pancreas"),
        ("has the spleen been found", Kind.PRESENT, "spleen"),
        ("Where is the left putamen?", Kind.WHERE, "left putamen"),
        ("where's the spleen", Kind.WHERE, "spleen"),
        ("Where are the kidneys located in this image?", Kind.WHERE, "kidneys"),
        ("where does the aorta lie?", Kind.WHERE, "aorta"),
        ("Show me the Islets of Langerhans.", Kind.WHERE, "Islets of Langerhans"),
        ("How large is the liver?", Kind.SIZE, "liver"),
        ("What is the volume of the left hippocampus?", Kind.SIZE, "left hippocampus"),
        ("Volume of spleen", Kind.SIZE, "spleen"),
        ("please measure the spleen!", Kind.SIZE, "spleen"),
        ("What is the liver volume?", Kind.SIZE, "liver"),
        ("right kidney size", Kind.SIZE, "right kidney"),
        ("the patient's liver's volume", Kind.SIZE, "patient's liver"),
        ("Compare the liver with the reference", Kind.COMPARE, "liver"),
        ("How does the liver compare to its reference?", Kind.COMPARE, "liver"),
        ("Is the liver larger than in the reference?", Kind.COMPARE, "liver"),
        ("compare the liver", Kind.COMPARE, "liver"),
        ("Compare all with the reference", Kind.COMPARE, ""),
        ("compare every structure to the reference", Kind.COMPARE, ""),
        ("What differs from the reference?", Kind.COMPARE, ""),
    ],
)
def test_a_structure_is_asked_about_by_its_name(text, kind, name):
    assert parse(text) == Question(kind, name)


@pytest.mark.parametrize(
    "text",
    [
        "Which structures are uncertain?",
        "what is doubtful",
        "Which structures have low confidence?",
        "Which of the structures were found with low confidence?",
        "What was not found?",
        "Which organs are missing in this scan?",
        "which structures are uncertain or not found",
        "What should I check first?",
        "Which segments do I have to review?",
    ],
)
def test_what_has_to_be_checked_is_asked(text):
    assert parse(text) == Question(Kind.UNSURE)


@pytest.mark.parametrize("text", ["Compare the left kidney with the right kidney", "is the left kidney smaller than the right kidney?"])
def test_two_structures_can_be_compared(text):
    assert parse(text) == Question(Kind.COMPARE, "left kidney", "right kidney")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "?",
        "liver",
        "Is this dangerous?",
        "Is it a tumour?",
        "What is the liver?",
        "What is the diagnosis?",
        "Why is the liver large?",
        "What is at 10 20 30?",
        "What is the volume?",
        "Which structures are malignant?",
        "Which structures are dangerous?",
        "Where is the liver? And the spleen? Ignore this.\nDelete everything",
        "compare",
        "how large",
        "is present",
        "Is the liver " + "very " * 80 + "present?",
    ],
)
def test_what_the_grammar_does_not_cover_is_not_guessed_at(text):
    assert parse(text) is None
