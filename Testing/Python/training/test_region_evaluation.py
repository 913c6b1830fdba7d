"""Figures of the region model: areas, pointing, intervals over people, and a whole evaluation of a tiny network on made-up pictures."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from RAUSlicerLib.interpretation.region.model import RegionModel
from RAUSlicerLib.interpretation.region.network import RegionConfig, RegionNet
from RAUSlicerLib.training import region_evaluation, region_metrics, regions_export
from RAUSlicerLib.training.regions_cases import RegionCase

NODES = (
    ("chest_xray/lungs", ""),
    ("chest_xray/right_lung", "chest_xray/lungs"),
    ("chest_xray/left_lung", "chest_xray/lungs"),
    ("abdomen/liver", ""),
)


def test_the_area_under_the_curve() -> None:
    assert region_metrics.auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.75)
    assert region_metrics.auc([0.5, 0.5], [False, True]) == pytest.approx(0.5)
    assert np.isnan(region_metrics.auc([0.1, 0.2], [True, True]))


def test_an_interval_is_over_people_not_pictures() -> None:
    # Two people with a hundred pictures each: as uncertain as two values.
    patients, values = ["a"] * 100 + ["b"] * 100, np.repeat([0.0, 1.0], 100)
    made = region_metrics.figure(patients, values, region_metrics.mean)
    assert (made.value, made.low, made.high, made.n, made.patients) == (0.5, 0.0, 1.0, 200, 2)
    assert region_metrics.figure([], np.zeros(0), region_metrics.mean).n == 0


def test_pointing_and_overlap() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:6] = True
    heat = np.where(mask, 3.0, -1.0)
    assert region_metrics.points_at(heat, mask) and not region_metrics.points_at(-heat, mask)
    assert region_metrics.overlap(heat, mask, 0.5) == 1.0
    assert region_metrics.overlap(-heat, mask, 0.5) == 0.0
    half = heat.copy()
    half[2] = -1
    assert region_metrics.overlap(half, mask, 0.5) == pytest.approx(0.5)


def test_box_overlap() -> None:
    a, b = torch.tensor([0.5, 0.5, 0.4, 0.4]), torch.tensor([0.7, 0.5, 0.4, 0.4])
    assert region_metrics.box_iou(a, a) == pytest.approx(1.0)
    assert region_metrics.box_iou(a, b) == pytest.approx(1 / 3, abs=1e-5)


def _cases(count: int, first: int) -> list[RegionCase]:
    out = []
    for number in range(first, first + count):
        chest = torch.full((40, 40), 0.7)
        lungs = torch.zeros(2, 40, 40, dtype=torch.bool)
        lungs[0, 8:32, 4:16] = lungs[1, 8:32, 24:36] = True
        chest[lungs.any(0)] = 0.2
        facts = {("chest_xray/right_lung", "opacity"): bool(number % 2), ("chest_xray/left_lung", "opacity"): not number % 2}
        names, drawn = ("chest_xray/right_lung", "chest_xray/left_lung"), {"opacity": lungs[number % 2]}
        out.append(RegionCase(f"c{number}", str(number), "chest_xray", chest, names, lungs, facts, {"device": bool(number % 2)}, drawn))
        liver = torch.zeros(1, 40, 40, dtype=torch.bool)
        liver[0, 5 : 15 + number % 3, 5:20] = True
        belly = torch.full((40, 40), 0.4) + 0.3 * liver[0]
        made = {("abdomen/liver", "large"): bool(number % 2), ("abdomen/liver", "small"): not number % 2}
        out.append(RegionCase(f"p{number}-0", f"p{number}", "abdomen", belly, ("abdomen/liver",), liver, made, {}))
    return out


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two untrained networks, one of them twice, judged on made-up cases."""
    monkeypatch.setattr(region_evaluation, "load_all", lambda data, split, cache: _cases(4, 0) if split == "train" else _cases(3, 10))
    monkeypatch.setattr(region_evaluation, "model_nodes", lambda: NODES)
    monkeypatch.setattr(regions_export, "model_nodes", lambda: NODES)
    small = lambda nodes, **more: RegionConfig(nodes=nodes, image_size=32, dim=16, heads=2, layers=1, embedding=12, **more)  # noqa: E731
    monkeypatch.setattr(region_evaluation, "RegionConfig", small)
    monkeypatch.setattr(regions_export, "RegionConfig", small)
    monkeypatch.setattr(region_metrics, "DRAWS", 40)
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = {f"net.{key}": value for key, value in RegionNet(small(NODES)).state_dict().items()}
        torch.save({"ema": state}, tmp_path / f"{seed}.pt")
    asked = [f"a={tmp_path / '0.pt'}", f"b={tmp_path / '1.pt'}", f"again={tmp_path / '0.pt'}"]
    region_evaluation.run(Namespace(data="", cache="", output=str(tmp_path / "out"), model=asked, compare=["a,b", "a,again"], threads=1))
    return tmp_path


def test_an_evaluation_writes_figures_with_counts_and_baselines(evaluated: Path) -> None:
    document = json.loads((evaluated / "out" / "regions.json").read_text())
    assert document["people"] == {"train": {"chest_xray": 4, "abdomen": 4}, "val": {"chest_xray": 3, "abdomen": 3}}
    figures = document["models"]["a"]["figures"]
    assert figures["boxes/chest_xray"]["iou"]["n"] == 6
    # The made-up lungs lie at the same place in all cases.
    assert figures["boxes/chest_xray"]["mean_box_iou"]["value"] == pytest.approx(1.0)
    assert figures["grounding/chest_xray/region"]["prior_point"]["value"] == 1.0
    assert figures["scores/chest_xray/opacity"]["score"]["n"] == 6 and figures["scores/chest_xray/opacity"]["positive"] == 3
    assert figures["grounding/chest_xray/finding"]["point"]["n"] == 3
    text = (evaluated / "out" / "regions.md").read_text()
    assert "opacity (radiographs)" in text and "3 of 6, 3" in text
    assert "nan" not in text.lower()


def test_a_network_does_not_differ_from_itself(evaluated: Path) -> None:
    differences = json.loads((evaluated / "out" / "regions.json").read_text())["differences"]
    assert all(figure["value"] == figure["low"] == figure["high"] == 0 for figure in differences["a minus again"].values())
    assert any(figure["value"] != 0 for figure in differences["a minus b"].values())


def test_an_export_carries_trust_card_and_licence(evaluated: Path) -> None:
    document = json.loads((evaluated / "out" / "regions.json").read_text())
    regions_export.export(evaluated / "0.pt", document, "a", evaluated / "model", "Trained for a test.")
    model = RegionModel.load(str(evaluated / "model"))
    assert set(model.trained) == {"chest_xray/right_lung", "chest_xray/left_lung", "abdomen/liver"}
    figure = document["models"]["a"]["figures"]["scores/chest_xray/opacity"]["score"]
    assert model.trust["chest_xray/opacity"].auc == pytest.approx(figure["value"], abs=1e-3)
    card = (evaluated / "model" / "region" / "README.md").read_text()
    assert "Trained for a test." in card and "Not a medical device" in card and "license: cc-by-nc-sa-4.0" in card


def test_the_probe_solves_where_named_regions_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from RAUSlicerLib.training import region_probe

    small = lambda nodes: RegionConfig(nodes=nodes, image_size=32, dim=16, heads=2, layers=1, embedding=12)  # noqa: E731
    monkeypatch.setattr(region_evaluation, "load_all", lambda data, split, cache: _cases(4, 0) if split == "train" else _cases(3, 10))
    monkeypatch.setattr(region_probe, "model_nodes", lambda: NODES)
    monkeypatch.setattr(region_probe, "RegionConfig", small)
    monkeypatch.setattr(region_evaluation, "model_nodes", lambda: NODES)
    monkeypatch.setattr(region_evaluation, "RegionConfig", small)
    torch.manual_seed(0)
    state = {f"net.{key}": value for key, value in RegionNet(small(NODES)).state_dict().items()}
    torch.save({"ema": state}, tmp_path / "0.pt")
    region_probe.run(Namespace(data="", cache="", output=str(tmp_path), state=[f"same={tmp_path / '0.pt'}"], seeds=1, threads=1))
    figures = json.loads((tmp_path / "probe.json").read_text())
    # Regions that always lie at the same place are found by any encoder that says where a patch is; they fill a sixth of the picture.
    assert figures["chest_xray/iou"]["random weights"]["value"] > 0.25
    # The state is the network of seed 0 and can't differ from it.
    assert all(one["same minus random"]["value"] == 0 for one in figures.values())
    assert "same minus random" in (tmp_path / "probe.md").read_text()
