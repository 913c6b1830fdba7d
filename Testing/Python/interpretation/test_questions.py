"""Answers about a small made case: two kidneys, a cyst over the left one, a spleen that was not found, a liver at the border."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.anatomy.graph import AnatomyGraph, Node
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.interpretation.evidence import Comparison, Measurement, Quantity, SentenceKind, StructureFindings
from RAUSlicerLib.interpretation.questions import answer
from RAUSlicerLib.results import Localization, Status, StructureResult

from .factuality import check

SHAPE = (20, 24, 30)  # z, y, x
SPACING = (2.0, 1.0, 3.0)
ORIGIN = (-30.0, 10.0, 100.0)

_NODES = (
    Node("trunk", "Trunk"),
    Node("abdomen", "Abdomen", "trunk"),
    Node("urinary", "Urinary tract", "abdomen"),
    Node("kidney_l", "Left kidney", "urinary", "left", ("left ren",)),
    Node("kidney_r", "Right kidney", "urinary", "right", ("right ren",)),
    Node("bladder", "Urinary bladder", "urinary"),
    Node("spleen", "Spleen", "abdomen", None, ("lien",)),
    Node("liver", "Liver", "abdomen"),
)
_BRAIN = (Node("brain", "Brain"), Node("putamen", "Left putamen", "brain", "left"))
GRAPHS = {
    "abdomen": AnatomyGraph("abdomen", "abdomen", {node.id: node for node in _NODES}),
    "brain": AnatomyGraph("brain", "brain", {node.id: node for node in _BRAIN}),
}

LEFT, RIGHT = Structure(1, "Left kidney", id="a"), Structure(2, "Right kidney", id="b")
CYST = Structure(1, "Cyst", layer=1, id="c")
SPLEEN, LIVER = Structure(3, "Spleen", id="d"), Structure(4, "Liver (whole)", id="e")
BOXES = {  # z, y, x
    LEFT: ((5, 10), (4, 12), (20, 26)),
    RIGHT: ((5, 9), (4, 12), (10, 15)),
    CYST: ((8, 12), (8, 12), (22, 25)),
    LIVER: ((0, 4), (14, 24), (0, 12)),
}
STATUS = {SPLEEN: Status.NOT_FOUND, CYST: Status.LOW_CONFIDENCE}
PRESENCE = {LEFT: 0.97, SPLEEN: 0.05}
NODES = {LEFT: "kidney_l", RIGHT: "kidney_r", SPLEEN: "spleen", LIVER: "liver"}
REFERENCE_ML = {LEFT: 1.0, RIGHT: 1.0, LIVER: 6.0}


def _slices(box):
    return tuple(slice(low, high) for low, high in box)


def _world(index):
    return tuple(o + s * i for o, s, i in zip(ORIGIN, SPACING, index, strict=True))


@pytest.fixture(scope="module")
def case():
    layers = [np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)]
    for structure, box in BOXES.items():
        layers[structure.layer][_slices(box)] = structure.label
    images = [sitk.GetImageFromArray(layer) for layer in layers]
    for image in images:
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
    structures = (LEFT, RIGHT, CYST, SPLEEN, LIVER)
    segmentation = Segmentation(images[0], structures, (images[1],))
    volumes = {one: float(segmentation.array(one).sum() * np.prod(SPACING) / 1000) for one in structures}
    asymmetry = 100 * (volumes[LEFT] - volumes[RIGHT]) / (volumes[LEFT] + volumes[RIGHT]) * 2
    pair = Measurement(Quantity.ASYMMETRY, asymmetry, "%", ("Left kidney", "Right kidney"))
    results, findings = [], []
    for one in structures:
        presence = PRESENCE.get(one)
        place = None if presence is None else Localization(one, presence, ((0.0, 0.0, 0.0), (2.0, 4.0, -6.0)))
        status = STATUS.get(one, Status.FOUND)
        confidence = {Status.FOUND: 0.9, Status.LOW_CONFIDENCE: 0.3, Status.NOT_FOUND: 0.0}[status]
        results.append(StructureResult(one, status, confidence, volumes[one], REFERENCE_ML.get(one, 0.0), place))
        compared = Comparison(REFERENCE_ML.get(one))
        measurements = (Measurement(Quantity.VOLUME, volumes[one], "mL", (one.name,), compared, is_cut=one is LIVER),)
        measurements += (pair,) if one in (LEFT, RIGHT) else ()
        graph = "abdomen" if one in NODES else None
        held = () if status is Status.NOT_FOUND else measurements
        findings.append(StructureFindings(one.name, status, confidence, held, graph, NODES.get(one)))
    return tuple(findings), tuple(results), segmentation


@pytest.fixture
def ask(case):
    """ask(question, findings=, results=, graphs=, point=, region=): the answer about the made case, or one changed from it."""

    def asked(question, findings=case[0], results=case[1], graphs=GRAPHS, **where):
        return answer(question, findings, results, case[2], graphs=tuple(graphs), load={**GRAPHS, **graphs}.__getitem__, **where)

    return asked


def _region(*box):
    region = np.zeros(SHAPE, bool)
    region[_slices(box)] = True
    return region


def test_a_point_names_all_structures_that_overlap_there_and_what_holds_them(ask):
    found = ask("What is here?", point=_world((23, 9, 9)))
    assert found.is_known
    assert [sentence.structures for sentence in found.sentences] == [("Left kidney",), ("Cyst",), ()]
    assert "in the urinary tract of the abdomen" in found.sentences[0].text
    assert found.sentences[0].confidence == 0.9
    assert "uncertain" in found.sentences[1].text
    assert "overlap" in found.sentences[2].text


def test_the_nearest_structure_is_found_far_away_as_by_looking_at_every_voxel(ask, case):
    _findings, results, segmentation = case
    for index in ((29, 23, 19), (0, 0, 19), (29, 0, 0)):
        point = np.array(_world(index))
        distances = {}
        for result in results:
            voxels = np.argwhere(segmentation.array(result.structure))[:, ::-1]
            if len(voxels):
                distances[result.structure.name] = np.linalg.norm(voxels * SPACING + ORIGIN - point, axis=1).min()
        nearest = min(distances, key=distances.get)
        assert f"{nearest}, {distances[nearest]:.1f} mm" in ask("what is here", point=tuple(point)).text


def test_a_point_in_the_question_goes_before_the_one_that_was_marked(ask):
    x, y, z = _world((12, 8, 7))
    found = ask(f"What is at RAS {-x} {-y} {z}?", point=_world((0, 0, 19)))
    assert found.sentences[0].structures == ("Right kidney",)


def test_a_region_is_told_by_the_shares_of_it_that_structures_hold(ask):
    # Three of four columns are the right kidney's.
    found = ask("What is the marked region?", region=_region((5, 9), (4, 12), (12, 16)))
    assert found.is_known
    assert "75 % of the marked region lie in Right kidney" in found.text
    assert [sentence.structures for sentence in found.sentences] == [("Right kidney",)]


BESIDE = "nearest to {} is Right kidney, 2.0 mm"
# Two voxels of 1 mm in front of the right kidney; the left one is farther.
NEAR = (12, 2, 7)


@pytest.mark.parametrize(
    ("question", "where", "known", "said"),
    [
        ("what is this?", {"point": _world(NEAR)}, False, ["I can't tell what is at this point", BESIDE.format("it") + " away"]),
        ("What is here?", {"point": (ORIGIN[0] - 41.0, ORIGIN[1], ORIGIN[2])}, False, ["40 mm outside of the image"]),
        ("What is here?", {}, False, ["no point and no region"]),
        ("what is in this region", {"region": _region((0, 0), (0, 0), (0, 0))}, False, ["empty"]),
        ("what is in this region", {"region": _region((7, 8), (2, 3), (12, 13))}, False, [BESIDE.format("the middle of the region")]),
        (
            "Is the spleen present?",
            {},
            True,
            ["Spleen was not found. The localizer's own estimate that Spleen is there is 0.05, which is low."],
        ),
        ("is there a cyst", {}, False, ["low confidence (confidence 0.30)"]),
        ("is the liver visible", {}, True, ["touches the border"]),
        ("where is the spleen", {}, False, ["around L 1.0, P 2.0, I 3.0 mm"]),
        ("how big is the liver?", {}, True, ["at least"]),
        ("compare the cyst with the reference", {}, False, ["no reference is known"]),
        ("Is the left kidney larger than the right one?", {}, True, ["Left kidney (1.44 mL) is larger than Right kidney"]),
        ("Is the urinary bladder and the liver present?", {}, True, ["is none of the 5 structures", "Liver (whole) is present"]),
        ("where is the urinary bladder", {}, False, ["Urinary bladder (abdomen) is none of the 5 structures"]),
        ("how large is the left putamen?", {}, False, ["Left putamen (brain) is none of"]),
    ],
    ids=[
        "a point beside every structure gets the nearest one",
        "a point outside of the image",
        "here without a place is not guessed",
        "an empty region",
        "a region beside every structure gets the nearest one",
        "not found, and denied by the localizer",
        "low confidence can't be told for sure",
        "what the border cuts may go on outside",
        "where it was looked for",
        "a size that the border cuts is a lower bound",
        "no reference to compare with",
        "two structures by their volumes",
        "one of several is known",
        "the graph knows it and nobody segmented it",
        "another graph knows it",
    ],
)
def test_what_is_known_is_told_and_what_is_not_is_said_to_be_so(ask, question, where, known, said):
    found = ask(question, **where)
    assert found.is_known is known
    assert all(words in found.text for words in said)


def test_presence_rests_on_the_mask_and_on_the_localizers_word(ask):
    found = ask("Is the left kidney present?")
    assert found.is_known
    assert "Left kidney is present" in found.text and "0.97, which is high" in found.text
    assert found.sentences[0].measurements[0].quantity is Quantity.VOLUME
    assert [score.value for score in found.sentences[1].scores] == [0.97]


@pytest.mark.parametrize("localization", [None, Localization(SPLEEN, 0.9, None)], ids=["no further word", "not denied by the localizer"])
def test_a_structure_that_was_not_found_can_not_be_told(ask, case, localization):
    found = ask("Is the spleen there?", results=tuple(replace(result, localization=localization) for result in case[1]))
    assert not found.is_known
    assert found.text.startswith("I can't tell whether Spleen is present")


def test_where_gives_the_middle_of_the_voxels_and_the_region_of_the_body(ask):
    found = ask("Where is the left kidney?")
    # x 20 to 25, y 4 to 11, z 5 to 9: the middles in LPS are (15, 17.5, 121).
    assert "lies at L 15.0, P 17.5, S 121.0 mm, in the urinary tract of the abdomen" in found.text
    assert found.sentences[0].structures == ("Left kidney",)


def _graph(*nodes):
    return {"abdomen": AnatomyGraph("abdomen", "abdomen", {node.id: node for node in nodes})}


def test_what_holds_a_structure_is_not_said_twice(ask, case):
    lobes = (Node("head", "head"), Node("brain", "brain", "head"), Node("lobes", "temporal lobes", "brain"))
    lobes += (Node("lobe", "left temporal lobe", "lobes", "left"), Node("gyrus", "gyrus", "lobe", "left"))
    placed = (replace(case[0][0], node="gyrus"), *(replace(found, graph=None, node=None) for found in case[0][1:]))
    assert "mm, in the left temporal lobe of the brain." in ask("Where is the left kidney?", placed, graphs=_graph(*lobes)).text


def test_size_is_the_measured_one(ask, case):
    found = ask("How large is the right kidney?")
    volume = case[0][1].measured(Quantity.VOLUME)
    assert found.sentences[0].measurements == (volume,)
    assert f"{volume.value:.2f} mL" in found.text


def test_a_structure_is_compared_with_the_references_and_with_its_pair(ask):
    found = ask("Compare the left kidney with the reference")
    assert found.is_known
    assert "44 % larger than in the reference case (1.00 mL)" in found.text
    assert any(m.quantity is Quantity.ASYMMETRY for sentence in found.sentences for m in sentence.measurements)


def _changed_measurements(findings, **changes):
    return tuple(replace(found, measurements=tuple(replace(m, **changes) for m in found.measurements)) for found in findings)


def test_without_the_reference_itself_the_volumes_that_the_run_noted_are_compared(ask, case):
    bare = _changed_measurements(case[0], comparison=Comparison())
    assert "44 % larger than in the reference case (1.00 mL)" in ask("compare the left kidney", bare).text
    unknown = tuple(replace(result, reference_volume_ml=0.0) for result in case[1])
    assert not ask("compare all", bare, unknown).is_known


@pytest.mark.parametrize("question", ["compare the left kidney", "compare all"])
def test_a_structure_that_the_border_cuts_is_not_compared_and_the_border_is_said_to_be_why(ask, case, question):
    cut = _changed_measurements(case[0], comparison=Comparison(), is_cut=True)
    said = ask(question, cut, tuple(replace(result, reference_volume_ml=0.0) for result in case[1]))
    assert not said.is_known and "the border of the image cuts" in said.text


def test_what_is_doubted_or_lost_is_listed_the_least_sure_first(ask, case):
    found = ask("Which structures are uncertain?")
    assert found.is_known
    assert [sentence.text for sentence in found.sentences] == ["Found with low confidence: Cyst (confidence 0.30).", "Not found: Spleen."]
    doubted = tuple(replace(one, status=Status.LOW_CONFIDENCE) if one.status is Status.FOUND else one for one in case[0])
    said = ask("What should I check first?", doubted)
    assert said.sentences[0].structures[0] == "Cyst" and len(said.sentences[0].structures) == 4


def test_where_nothing_is_doubted_the_lowest_confidence_is_said_and_without_any_nothing_is(ask, case):
    findings, results, _ = case
    sure = tuple(replace(one, status=Status.FOUND, confidence=0.5 + number / 10) for number, one in enumerate(findings) if one.measurements)
    own = tuple(result for one, result in zip(findings, results, strict=True) if one.measurements)
    said = ask("What is uncertain?", sure, own)
    assert said.is_known and "lowest confidence is Left kidney (confidence 0.50)" in said.text
    unknown = ask("What is uncertain?", tuple(replace(one, confidence=math.nan) for one in sure), own)
    assert not unknown.is_known and unknown.text.startswith("I can't tell")


def test_a_region_of_which_one_part_was_segmented_is_that_part(ask, case):
    alone = tuple(replace(one, graph=None, node=None) if one.name == "Right kidney" else one for one in case[0])
    said = ask("How large is the urinary tract?", alone)
    assert said.is_known and said.text.startswith("Of Urinary tract, only Left kidney was looked for.")
    assert "1.44 mL" in said.text and "All 1" not in said.text


def test_an_abbreviation_is_understood_in_a_question(ask):
    nodes = {**GRAPHS["abdomen"].nodes, "liver": Node("liver", "Liver", "abdomen", abbreviations=("LVR",))}
    said = ask("Is there an LVR?", graphs=_graph(*nodes.values()))
    assert said.is_known and said.sentences[0].structures == ("Liver (whole)",)


def test_everything_is_compared_at_once(ask):
    found = ask("Compare all with the reference")
    assert found.is_known
    assert found.sentences[0].text == "4 of 5 structures were found."
    assert found.sentences[1].structures == ("Spleen",)
    assert "No volume is less than half" in found.sentences[2].text


@pytest.mark.parametrize(
    ("name", "structures"),
    [
        ("LEFT  kidney", ["Left kidney"]),
        ("kidney, left", ["Left kidney"]),
        ("Kidney_L", ["Left kidney"]),
        ("left ren", ["Left kidney"]),
        ("lien", ["Spleen"]),
        ("liver", ["Liver (whole)"]),
        ("kidneys", ["Left kidney", "Right kidney"]),
        ("both kidneys", ["Left kidney", "Right kidney"]),
        ("cyst and the liver", ["Cyst", "Liver (whole)"]),
        ("left and right kidney", ["Left kidney", "Right kidney"]),
    ],
)
def test_names_are_understood_by_side_synonym_and_plural(ask, name, structures):
    found = ask(f"Is the {name} present?")

    assert sorted({one for sentence in found.sentences for one in sentence.structures}) == structures
    assert "I took" not in found.text


@pytest.mark.parametrize(("written", "taken", "structure"), [("left kidny", "Left kidney", "Left kidney"), ("splean", "Spleen", "Spleen")])
def test_a_misspelt_name_is_said_to_be_taken_for_another(ask, written, taken, structure):
    found = ask(f"Is the {written} present?")

    assert found.sentences[0].text == f"I took “{written}” for {taken}."
    assert found.sentences[1].structures == (structure,)


@pytest.mark.parametrize("name", ["perispleen", "hypoliver", "cystic"])
def test_a_word_that_holds_another_is_not_taken_for_it(ask, name):
    """As the hypothalamus is no thalamus."""
    found = ask(f"Is the {name} present?")

    assert not found.is_known
    assert "I took" not in found.text


@pytest.mark.parametrize("name", ["tumour", "way to be happy", "xyz", "left spleen", "it"])
def test_an_unknown_name_can_not_be_told(ask, name):
    found = ask(f"Is the {name} present?")

    assert not found.is_known
    assert f"I know no structure called “{name}”" in found.text
    assert all(not sentence.structures for sentence in found.sentences)


def test_a_side_is_never_taken_for_the_other(ask, case):
    one = {"findings": case[0][:1], "results": case[1][:1]}
    found = ask("Where is the right kidney?", **one)
    assert not found.is_known
    assert "Right kidney (abdomen) is none of" in found.text
    assert not ask("Where is the right kidney?", **one, graphs={"brain": GRAPHS["brain"]}).is_known


def test_a_region_of_the_body_stands_for_the_structures_in_it(ask, case):
    together = sum(case[0][number].measured(Quantity.VOLUME).value for number in (0, 1))
    found = ask("How large is the urinary tract?")
    assert found.is_known
    assert found.sentences[0].structures == ("Left kidney", "Right kidney")
    assert found.text.startswith("All 2 structures of Urinary tract")
    assert f"together they have {together:.2f} mL" in found.text


def test_a_region_without_a_side_is_answered_side_by_side(ask, case):
    tracts = (Node("abdomen", "Abdomen"), Node("tracts", "Tracts", "abdomen"))
    tracts += (Node("left", "Left tract", "tracts", "left"), Node("kl", "left k", "left", "left"))
    tracts += (Node("right", "Right tract", "tracts", "right"), Node("kr", "right k", "right", "right"))
    nodes = {"Left kidney": "kl", "Right kidney": "kr"}
    placed = tuple(replace(f, graph="abdomen" if f.name in nodes else None, node=nodes.get(f.name)) for f in case[0])
    said = [
        one.structures
        for one in ask("How large is the tract?", placed, graphs=_graph(*tracts)).sentences
        if one.kind is not SentenceKind.LIMIT
    ]
    assert said == [("Left kidney",), ("Right kidney",)]


def test_a_question_that_is_not_understood_is_answered_with_examples_that_are(ask):
    found = ask("Is this patient ill?")

    assert not found.is_known
    assert found.text.startswith("I did not understand the question.")
    examples = [text.split("”")[0] for text in found.text.split("“")[1:]]
    assert len(examples) >= 5
    assert all("did not understand" not in ask(example).text for example in examples)


def test_what_is_of_unknown_confidence_claims_none(ask, case):
    found = ask("Is the left kidney present?", tuple(replace(one, confidence=math.nan) for one in case[0]))
    assert "confidence" not in found.text
    assert all(sentence.confidence is None for sentence in found.sentences)


@pytest.mark.parametrize(
    "question",
    (
        "How large is the left kidney?",
        "How large is the liver?",
        "compare the right kidney",
        "Where is the left kidney?",
        "Where is the cyst?",
        "Where are the kidneys?",
        "Where is the urinary tract?",
        "How large is the urinary tract?",
        "Compare the left kidney with the right kidney",
        "Compare the left kidney with the cyst",
        "Compare all with the reference",
        "Compare the liver with the reference",
        "What is the marked region?",
    ),
)
def test_every_measured_sentence_of_an_answer_says_what_its_evidence_says(ask, question):
    said = ask(question, region=_region((5, 12), (4, 12), (10, 26)))
    sentences = [sentence for sentence in said.sentences if sentence.kind is SentenceKind.MEASURED]
    assert sentences
    assert all(sentence.measurements for sentence in sentences)
    assert check(sentences) == []


@pytest.mark.parametrize(
    ("question", "where", "quantities"),
    (
        ("Where is the left kidney?", {}, {Quantity.CENTRE_LEFT, Quantity.CENTRE_POSTERIOR, Quantity.CENTRE_SUPERIOR}),
        ("What is here?", {"point": _world(NEAR)}, {Quantity.DISTANCE}),
    ),
)
def test_a_changed_number_of_an_answer_is_noticed(ask, question, where, quantities):
    sentence = next(one for one in ask(question, **where).sentences if one.kind is SentenceKind.MEASURED)
    changed = replace(sentence, text=sentence.text.replace(".0", ".7").replace(".5", ".1"))
    assert {measurement.quantity for measurement in sentence.measurements} == quantities
    assert check([sentence]) == []
    assert changed.text != sentence.text
    assert check([changed])
