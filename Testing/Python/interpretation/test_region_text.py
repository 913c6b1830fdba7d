"""The fixed text encoder: what is denied is far from what is said, and every process makes the same vectors."""

import subprocess
import sys

import pytest
import torch

from RAUSlicerLib.interpretation.region.phrases import load_knowledge
from RAUSlicerLib.interpretation.region.text import WIDTH, encode, is_negated, negated_parts, negation


@pytest.mark.parametrize("phrase", ["consolidation", "ground glass opacity", "large for the body", "tubes or leads"])
def test_a_phrase_and_its_negation_differ_clearly(phrase: str) -> None:
    said, denied, reworded = encode([phrase, negation(phrase), f"{phrase}s"])
    assert said @ denied < 0.3 < said @ reworded


@pytest.mark.parametrize(
    "phrase",
    [
        "no opacity in the left lung",
        "the left lung is free of opacity",
        "opacity is not seen in the left lung",
        "without opacity in the left lung",
    ],
)
def test_denials_are_found_and_spare_the_place(phrase: str) -> None:
    assert is_negated(phrase)
    denied = " ".join(part for part, is_denied in negated_parts(phrase) if is_denied)
    assert "opacity" in denied and "left" not in denied


def test_negating_twice_gives_the_phrase_back() -> None:
    for phrase in ("opacity in the left lung", "consolidation"):
        assert negation(negation(phrase)) == phrase


def test_a_denial_ends_with_its_clause() -> None:
    parts = dict((part.strip(), denied) for part, denied in negated_parts("no effusion but dense opacity"))
    assert parts == {"effusion": True, "dense opacity": False}


def test_sides_differ() -> None:
    left, right, again = encode(["opacity in the left lung", "opacity in the right lung", "Opacity  in the left lung"])
    assert left @ right < 0.85
    torch.testing.assert_close(left, again)


def test_every_process_makes_the_same_vectors() -> None:
    code = "from RAUSlicerLib.interpretation.region.text import encode; print(encode(['dense opacity']).nonzero()[:, 1].tolist())"
    environment = {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == str(encode(["dense opacity"]).nonzero()[:, 1].tolist())


def test_vectors_have_length_one_and_no_words_none() -> None:
    vectors = encode(["consolidation", "?!"])
    assert vectors.shape == (2, WIDTH)
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("graph", ["chest_xray", "abdomen"])
def test_the_knowledge_says_present_and_absent_in_words_the_encoder_takes_so(graph: str) -> None:
    for finding in load_knowledge(graph).findings.values():
        assert not any(is_negated(phrase) for phrase in finding.present)
        assert all(is_negated(phrase) for phrase in finding.absent)
        assert set(finding.confused_with) <= set(load_knowledge(graph).findings)
        assert not set(finding.unseen) & {*finding.present, *finding.absent}


def test_the_knowledge_names_regions_of_its_graph() -> None:
    from RAUSlicerLib.anatomy.terms import load_graph

    for graph in ("chest_xray", "abdomen"):
        named = {region for finding in load_knowledge(graph).findings.values() for region in finding.regions} - {"*"}
        assert named <= set(load_graph(graph).nodes)
