"""Answers about a small made case: two kidneys, a cyst over the left one, a spleen that was not found, a liver at the border."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RAUSlicerLib.anatomy.graph import AnatomyGraph, Node
from RAUSlicerLib.imaging.segmentation import Segmentation, Structure
from RAUSlicerLib.interpretation.evidence import Comparison, Measurement, Quantity, SentenceKind, StructureFindings
from RAUSlicerLib.interpretation.factuality import check_sentences
from RAUSlicerLib.interpretation.questions import answer
from RAUSlicerLib.results import Localization, Status, StructureResult

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
    """ask(question, point=, region=): the answer about the made case."""
    return lambda question, **where: answer(question, *case, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__, **where)


def test_a_point_names_all_structures_that_overlap_there_and_what_holds_them(ask):
    found = ask("What is here?", point=_world((23, 9, 9)))

    assert found.is_known
    assert [sentence.structures for sentence in found.sentences] == [("Left kidney",), ("Cyst",), ()]
    assert "in the urinary tract of the abdomen" in found.sentences[0].text
    assert found.sentences[0].confidence == 0.9
    assert "uncertain" in found.sentences[1].text
    assert "overlap" in found.sentences[2].text


def test_a_point_beside_every_structure_gets_the_nearest_and_its_distance(ask):
    # Two voxels of 1 mm in front of the right kidney; the left one is farther.
    found = ask("what is this?", point=_world((12, 2, 7)))

    assert not found.is_known
    assert found.text.startswith("I can't tell what is at this point")
    assert "nearest to it is Right kidney, 2.0 mm away" in found.text


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


def test_a_point_outside_of_the_image_is_said_to_be_so(ask):
    found = ask("What is here?", point=(ORIGIN[0] - 41.0, ORIGIN[1], ORIGIN[2]))

    assert not found.is_known
    assert "40 mm outside of the image" in found.text


def test_a_point_in_the_question_goes_before_the_one_that_was_marked(ask):
    x, y, z = _world((12, 8, 7))

    found = ask(f"What is at RAS {-x} {-y} {z}?", point=_world((0, 0, 19)))

    assert found.sentences[0].structures == ("Right kidney",)


def test_here_without_a_place_is_not_guessed(ask):
    found = ask("What is here?")

    assert not found.is_known
    assert "no point and no region" in found.text


def test_a_region_is_told_by_the_shares_of_it_that_structures_hold(ask):
    region = np.zeros(SHAPE, bool)
    region[5:9, 4:12, 12:16] = True  # three of four columns are the right kidney's

    found = ask("What is the marked region?", region=region)

    assert found.is_known
    assert "75 % of the marked region lie in Right kidney" in found.text
    assert [sentence.structures for sentence in found.sentences] == [("Right kidney",)]


@pytest.mark.parametrize(("voxel", "said"), [(None, "empty"), ((12, 2, 7), "nearest to the middle of the region is Right kidney, 2.0 mm")])
def test_a_region_that_holds_nothing_is_said_to_be_so(ask, voxel, said):
    region = np.zeros(SHAPE, bool)
    if voxel is not None:
        region[voxel[::-1]] = True

    found = ask("what is in this region", region=region)

    assert not found.is_known
    assert said in found.text


def test_presence_rests_on_the_mask_and_on_the_localizers_word(ask):
    found = ask("Is the left kidney present?")

    assert found.is_known
    assert "Left kidney is present" in found.text and "0.97, which is high" in found.text
    assert found.sentences[0].measurements[0].quantity is Quantity.VOLUME
    assert [score.value for score in found.sentences[1].scores] == [0.97]


def test_a_structure_that_was_not_found_and_that_the_localizer_denies_is_not_found(ask):
    found = ask("Is the spleen present?")

    assert found.is_known
    assert found.text == "Spleen was not found. The localizer's own estimate that Spleen is there is 0.05, which is low."


def test_a_structure_that_was_not_found_without_any_further_word_can_not_be_told(case):
    findings, results, segmentation = case
    silent = tuple(StructureResult(r.structure, r.status, r.confidence, r.volume_ml, r.reference_volume_ml) for r in results)

    found = answer("Is the spleen there?", findings, silent, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)

    assert not found.is_known
    assert found.text.startswith("I can't tell whether Spleen is present")


def test_a_structure_of_low_confidence_can_not_be_told_for_sure(ask):
    found = ask("is there a cyst")

    assert not found.is_known
    assert "low confidence (confidence 0.30)" in found.text


def test_a_structure_that_the_border_cuts_may_go_on_outside(ask):
    found = ask("is the liver visible")

    assert "touches the border" in found.text


def test_where_gives_the_middle_of_the_voxels_and_the_region_of_the_body(ask):
    found = ask("Where is the left kidney?")

    # x 20 to 25, y 4 to 11, z 5 to 9: the middles in LPS are (15, 17.5, 121).
    assert "lies at L 15.0, P 17.5, S 121.0 mm, in the urinary tract of the abdomen" in found.text
    assert found.sentences[0].structures == ("Left kidney",)


def test_what_holds_a_structure_is_not_said_twice(case):
    findings, results, segmentation = case
    lobes = (Node("head", "head"), Node("brain", "brain", "head"), Node("lobes", "temporal lobes", "brain"))
    lobes += (Node("lobe", "left temporal lobe", "lobes", "left"), Node("gyrus", "gyrus", "lobe", "left"))
    graph = AnatomyGraph("abdomen", "brain", {node.id: node for node in lobes})
    placed = (replace(findings[0], node="gyrus"), *(replace(found, graph=None, node=None) for found in findings[1:]))

    found = answer("Where is the left kidney?", placed, results, segmentation, graphs=("abdomen",), load=lambda _name: graph)

    assert "mm, in the left temporal lobe of the brain." in found.text


def test_where_of_a_structure_that_was_not_found_says_where_it_was_looked_for(ask):
    found = ask("where is the spleen")

    assert not found.is_known
    assert "around L 1.0, P 2.0, I 3.0 mm" in found.text


def test_size_is_the_measured_one(ask, case):
    found = ask("How large is the right kidney?")

    volume = case[0][1].measured(Quantity.VOLUME)
    assert found.sentences[0].measurements == (volume,)
    assert f"{volume.value:.2f} mL" in found.text


def test_a_size_that_the_border_cuts_is_a_lower_bound(ask):
    assert "at least" in ask("how big is the liver?").text


def test_a_structure_is_compared_with_the_references_and_with_its_pair(ask):
    found = ask("Compare the left kidney with the reference")

    assert found.is_known
    assert "44 % larger than in the reference case (1.00 mL)" in found.text
    assert any(m.quantity is Quantity.ASYMMETRY for sentence in found.sentences for m in sentence.measurements)


def test_a_structure_without_a_reference_is_not_compared(ask):
    found = ask("compare the cyst with the reference")

    assert not found.is_known
    assert "no reference is known" in found.text


def test_without_the_reference_itself_the_volumes_that_the_run_noted_are_compared(case):
    findings, results, segmentation = case
    bare = tuple(replace(f, measurements=tuple(replace(m, comparison=Comparison()) for m in f.measurements)) for f in findings)

    found = answer("compare the left kidney", bare, results, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)

    assert "44 % larger than in the reference case (1.00 mL)" in found.text
    unknown = tuple(replace(result, reference_volume_ml=0.0) for result in results)
    assert not answer("compare all", bare, unknown, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__).is_known


def test_two_structures_are_compared_by_their_volumes(ask):
    found = ask("Is the left kidney larger than the right one?")

    assert found.is_known
    assert "Left kidney (1.44 mL) is larger than Right kidney" in found.text


def test_what_is_doubted_or_lost_is_listed_the_least_sure_first(ask, case):
    found = ask("Which structures are uncertain?")
    assert found.is_known
    assert [sentence.text for sentence in found.sentences] == ["Found with low confidence: Cyst (confidence 0.30).", "Not found: Spleen."]
    findings, results, segmentation = case
    doubted = tuple(replace(one, status=Status.LOW_CONFIDENCE) if one.status is Status.FOUND else one for one in findings)
    said = answer("What should I check first?", doubted, results, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)
    assert said.sentences[0].structures[0] == "Cyst" and len(said.sentences[0].structures) == 4


def test_where_nothing_is_doubted_the_lowest_confidence_is_said_and_without_any_nothing_is(case):
    findings, results, segmentation = case
    sure = tuple(replace(one, status=Status.FOUND, confidence=0.5 + number / 10) for number, one in enumerate(findings) if one.measurements)
    own = tuple(result for one, result in zip(findings, results, strict=True) if one.measurements)

    def said(findings):
        return answer("What is uncertain?", findings, own, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)

    assert said(sure).is_known and "lowest confidence is Left kidney (confidence 0.50)" in said(sure).text
    unknown = said(tuple(replace(one, confidence=math.nan) for one in sure))
    assert not unknown.is_known and unknown.text.startswith("I can't tell")


def test_a_region_of_which_one_part_was_segmented_is_that_part(case):
    findings, results, segmentation = case
    alone = tuple(replace(one, graph=None, node=None) if one.name == "Right kidney" else one for one in findings)
    said = answer("How large is the urinary tract?", alone, results, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)
    assert said.is_known and said.text.startswith("Of Urinary tract, only Left kidney was looked for.")
    assert "1.44 mL" in said.text and "All 1" not in said.text


def test_an_abbreviation_is_understood_in_a_question(case):
    findings, results, segmentation = case
    nodes = {**GRAPHS["abdomen"].nodes, "liver": Node("liver", "Liver", "abdomen", abbreviations=("LVR",))}
    graph = AnatomyGraph("abdomen", "abdomen", nodes)
    said = answer("Is there an LVR?", findings, results, segmentation, graphs=("abdomen",), load=lambda _name: graph)
    assert said.is_known and said.sentences[0].structures == ("Liver (whole)",)


def test_a_structure_that_the_border_cuts_is_not_compared_and_the_border_is_said_to_be_why(case):
    findings, results, segmentation = case
    cut = tuple(replace(f, measurements=tuple(replace(m, comparison=Comparison(), is_cut=True) for m in f.measurements)) for f in findings)
    unknown = tuple(replace(result, reference_volume_ml=0.0) for result in results)
    for question in ("compare the left kidney", "compare all"):
        said = answer(question, cut, unknown, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)
        assert not said.is_known and "the border of the image cuts" in said.text


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


def test_what_the_graph_knows_and_nobody_segmented_is_told_apart_from_the_unknown(ask):
    assert "Urinary bladder (abdomen) is none of the 5 structures" in ask("where is the urinary bladder").text
    elsewhere = ask("how large is the left putamen?")
    assert not elsewhere.is_known
    assert "Left putamen (brain) is none of" in elsewhere.text


def test_a_side_is_never_taken_for_the_other(case):
    findings, results, segmentation = ([item[0]] if isinstance(item, tuple) else item for item in case)

    found = answer("Where is the right kidney?", findings, results, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)

    assert not found.is_known
    assert "Right kidney (abdomen) is none of" in found.text
    alone = answer("Where is the right kidney?", findings, results, segmentation, graphs=("brain",), load=GRAPHS.__getitem__)
    assert not alone.is_known


def test_a_region_of_the_body_stands_for_the_structures_in_it(ask, case):
    together = sum(case[0][number].measured(Quantity.VOLUME).value for number in (0, 1))

    found = ask("How large is the urinary tract?")

    assert found.is_known
    assert found.sentences[0].structures == ("Left kidney", "Right kidney")
    assert found.text.startswith("All 2 structures of Urinary tract")
    assert f"together they have {together:.2f} mL" in found.text


def test_a_region_without_a_side_is_answered_side_by_side(case):
    findings, results, segmentation = case
    tracts = (Node("abdomen", "Abdomen"), Node("tracts", "Tracts", "abdomen"), Node("left", "Left tract", "tracts", "left"))
    tracts += (
        Node("right", "Right tract", "tracts", "right"),
        Node("kl", "left k", "left", "left"),
        Node("kr", "right k", "right", "right"),
    )
    graph = AnatomyGraph("abdomen", "abdomen", {node.id: node for node in tracts})
    nodes = {"Left kidney": "kl", "Right kidney": "kr"}
    placed = tuple(replace(f, graph="abdomen" if f.name in nodes else None, node=nodes.get(f.name)) for f in findings)

    found = answer("How large is the tract?", placed, results, segmentation, graphs=("abdomen",), load=lambda _name: graph)

    assert [sentence.structures for sentence in found.sentences if sentence.kind is not SentenceKind.LIMIT] == [
        ("Left kidney",),
        ("Right kidney",),
    ]


def test_a_question_that_is_not_understood_is_answered_with_examples_that_are(ask):
    found = ask("Is this patient ill?")

    assert not found.is_known
    assert found.text.startswith("I did not understand the question.")
    examples = [text.split("”")[0] for text in found.text.split("“")[1:]]
    assert len(examples) >= 5
    assert all("did not understand" not in ask(example).text for example in examples)


def test_what_is_of_unknown_confidence_claims_none(case):
    findings, results, segmentation = case
    unsure = tuple(StructureFindings(f.name, f.status, math.nan, f.measurements, f.graph, f.node) for f in findings)

    found = answer("Is the left kidney present?", unsure, results, segmentation, graphs=tuple(GRAPHS), load=GRAPHS.__getitem__)

    assert "confidence" not in found.text
    assert all(sentence.confidence is None for sentence in found.sentences)


def test_what_a_measured_answer_says_can_be_read_back_from_its_evidence(ask):
    sentences = [
        sentence
        for question in ("How large is the left kidney?", "How large is the liver?", "compare the right kidney")
        for sentence in ask(question).sentences
        if sentence.kind is SentenceKind.MEASURED
    ]

    checked = check_sentences(sentences)

    assert len(sentences) >= 4 and all(sentence.measurements for sentence in sentences)
    assert (checked.right, checked.checked) == (len(sentences), len(sentences)), checked


@pytest.mark.parametrize(
    "question",
    (
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
    region = np.zeros(SHAPE, bool)
    region[5:12, 4:12, 10:26] = True
    said = ask(question, region=region)
    sentences = [sentence for sentence in said.sentences if sentence.kind is SentenceKind.MEASURED]

    checked = check_sentences(sentences)

    assert sentences
    assert all(sentence.measurements for sentence in sentences)
    assert checked.share == 1, checked.problems


@pytest.mark.parametrize(
    ("question", "where", "quantities"),
    (
        ("Where is the left kidney?", {}, {Quantity.CENTRE_LEFT, Quantity.CENTRE_POSTERIOR, Quantity.CENTRE_SUPERIOR}),
        ("What is here?", {"point": _world((12, 2, 7))}, {Quantity.DISTANCE}),
    ),
)
def test_a_changed_number_of_an_answer_is_noticed(ask, question, where, quantities):
    sentence = next(one for one in ask(question, **where).sentences if one.kind is SentenceKind.MEASURED)
    changed = replace(sentence, text=sentence.text.replace(".0", ".7").replace(".5", ".1"))

    assert {measurement.quantity for measurement in sentence.measurements} == quantities
    assert check_sentences([sentence]).share == 1
    assert changed.text != sentence.text
    assert check_sentences([changed]).share == 0
