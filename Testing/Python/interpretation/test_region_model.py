"""Asking the region model: boxes in the picture's pixels, scores of any phrase, maps that depend on it, and files that can't run code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.errors import InputError, ModelError
from RAUSlicerLib.interpretation.region.model import PART, RegionModel, Trust
from RAUSlicerLib.interpretation.region.network import RegionConfig, RegionNet
from RAUSlicerLib.interpretation.region.pictures import Letterbox, prepare
from RAUSlicerLib.interpretation.region.text import negation
from RAUSlicerLib.models.checkpoint import save_checkpoint
from RAUSlicerLib.support.resources import resource_path

NODES = (
    ("chest_xray/chest", ""),
    ("chest_xray/right_lung", "chest_xray/chest"),
    ("chest_xray/left_lung", "chest_xray/chest"),
    ("chest_xray/carina", "chest_xray/chest"),
    ("abdomen/abdomen", ""),
    *((f"abdomen/{organ}", "abdomen/abdomen") for organ in ("liver", "spleen", "stomach")),
)
LUNGS = ("chest_xray/right_lung", "chest_xray/left_lung")
TRAINED = (*LUNGS, "abdomen/liver", "abdomen/spleen", "abdomen/stomach")


@pytest.fixture(scope="module")
def model() -> RegionModel:
    torch.manual_seed(0)
    net = RegionNet(RegionConfig(nodes=NODES, image_size=32, dim=16, heads=2, layers=1, embedding=12)).eval()
    good, poor = Trust(0.9, 0.7, 1.0, 40, 8), Trust(0.6, 0.4, 0.8, 40, 8)
    return RegionModel(net, TRAINED, {"chest_xray/opacity": good, "chest_xray/consolidation": poor, "abdomen/large": good})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).random((60, 80)).astype(np.float32)


def test_a_score_and_its_negations_sum_to_one(model: RegionModel, picture: np.ndarray) -> None:
    look = model.look(picture)
    phrases = ["opacity", "dense opacity in the left lung", "no consolidation"]
    said = model.scores(look, phrases, LUNGS)
    denied = model.scores(look, [negation(phrase) for phrase in phrases], LUNGS)
    assert [score.region for score in said] == ["right lung"] * 3 + ["left lung"] * 3
    assert [score.phrase for score in said] == phrases * 2
    for one, other in zip(said, denied, strict=True):
        assert 0 < one.value < 1 and one.value + other.value == pytest.approx(1)


def test_a_region_scores_the_same_whichever_others_are_asked(model: RegionModel, picture: np.ndarray) -> None:
    look = model.look(picture)
    alone, among = model.scores(look, ["opacity"], LUNGS[1:]), model.scores(look, ["opacity"])
    assert alone[0] == among[1]
    assert len(among) == len(TRAINED)


def test_another_phrase_gives_another_map_on_the_pictures_pixels(model: RegionModel, picture: np.ndarray) -> None:
    look = model.look(picture)
    maps = [model.ground(look, phrase) for phrase in ("opacity", "no opacity", "right lung", "left lung")]
    assert all(one.shape == picture.shape for one in maps)
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert np.abs(one - other).max() > 1e-3
    assert all(one.min() >= 0 and one.max() <= 1 for one in maps)
    assert np.array_equal(maps[0], model.ground(look, "Opacity"))


def test_boxes_come_back_in_the_pictures_pixels(model: RegionModel, picture: np.ndarray) -> None:
    box = Letterbox(60, 80, 32)
    assert box.size == (24, 32) and box.corner == (4, 0)
    # The whole picture, given as fractions of the square.
    assert box.box_back((0.5, 0.5, 1.0, 24 / 32)) == pytest.approx((0, 0, 80, 60))
    found = model.locate(model.look(picture))
    assert [one.region for one in found] == list(TRAINED)
    assert all(0 < one.visible < 1 and one.box[2] > 0 for one in found)


def test_brightness_and_size_of_a_picture_do_not_matter(picture: np.ndarray) -> None:
    plain, _ = prepare(picture, 32)
    brighter, _ = prepare(picture * 900 + 40, 32)
    torch.testing.assert_close(plain, brighter, atol=1e-3, rtol=0)
    blank, _ = prepare(np.full((20, 20), 7.0), 32)
    assert torch.equal(blank, torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("phrase", ["", "??", "of the"])
def test_a_phrase_without_words_is_refused(model: RegionModel, picture: np.ndarray, phrase: str) -> None:
    with pytest.raises(InputError, match="can't be scored"):
        model.scores(model.look(picture), [phrase])


def test_what_it_can_not_look_at_is_refused(model: RegionModel, picture: np.ndarray) -> None:
    with pytest.raises(InputError, match="no region 'chest_xray/liver'"):
        model.scores(model.look(picture), ["opacity"], ["chest_xray/liver"])
    with pytest.raises(InputError, match=r"\(3, 20, 20\)"):
        model.look(np.zeros((3, 20, 20)))


def test_only_findings_told_better_than_by_chance_are_trusted(model: RegionModel) -> None:
    assert [finding.id for finding in model.trusted(LUNGS[0])] == ["opacity"]


def _saved(model: RegionModel, folder: Path) -> Path:
    config = model.net.config.to_dict() | {
        "trained": list(TRAINED),
        "trust": {"chest_xray/opacity": vars(model.trust["chest_xray/opacity"])},
    }
    save_checkpoint(folder / PART, config, model.net.state_dict(), "A card.", name="mine", kind="rau_region", licence="none")
    return folder


def test_a_saved_model_opens_as_it_was(model: RegionModel, picture: np.ndarray, tmp_path: Path) -> None:
    opened = RegionModel.load(str(_saved(model, tmp_path / "mine")))
    assert opened.trained == TRAINED and opened.trust == {"chest_xray/opacity": model.trust["chest_xray/opacity"]}
    ours, theirs = (one.scores(one.look(picture), ["opacity"]) for one in (model, opened))
    assert [score.value for score in theirs] == pytest.approx([score.value for score in ours], abs=1e-2)


def test_pickled_or_changed_weights_are_refused(model: RegionModel, tmp_path: Path) -> None:
    folder = _saved(model, tmp_path / "mine")
    weights = folder / PART / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="checksum"):
        RegionModel.load(str(folder))
    weights.unlink()
    torch.save(model.net.state_dict(), folder / PART / "model.pt")
    with pytest.raises(ModelError):
        RegionModel.load(str(folder))


@pytest.fixture(scope="module")
def shipped() -> RegionModel:
    if not (resource_path("Models") / "regions").is_dir():
        pytest.skip("the region model is not in Resources/Models")
    return RegionModel.load()


def test_the_shipped_model_is_small_and_fits_the_graphs(shipped: RegionModel) -> None:
    from RAUSlicerLib.anatomy.terms import load_graph

    weights = resource_path("Models", "regions", PART, "model.safetensors")
    assert weights.stat().st_size <= 2 * 2**20
    for name, parent in shipped.net.config.nodes:
        graph, node = name.split("/")
        above = load_graph(graph).nodes[node].parent
        assert parent == (f"{graph}/{above}" if above else "")
    assert set(shipped.trained) <= set(shipped.regions)


@pytest.mark.data
def test_the_shipped_model_finds_the_lungs_of_held_out_radiographs(shipped: RegionModel, data_folder: Path) -> None:
    from RAUSlicerLib.training.regions_cases import load_radiographs

    held = load_radiographs(data_folder, "val")
    for case in held:
        look = shipped.look(case.image.numpy())
        right, left = (one.box for one in shipped.locate(look, LUNGS))
        assert right[0] + right[2] / 2 < left[0] + left[2] / 2
        maps = [shipped.ground(look, phrase) for phrase in ("right lung", "left lung")]
        assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] < 0.9
