import pytest
import torch
from torch import Tensor

from RAUSlicerLib.rau.network import Answers, MatchEvidence, RauVlm, VlmConfig, boxes_of, matched_boxes

CELLS, WIDTH = 12, 16


@pytest.fixture(scope="module")
def vlm() -> RauVlm:
    torch.manual_seed(1)
    backbone = dict(VlmConfig().backbone, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    return RauVlm(VlmConfig(vision_dim=WIDTH, image_tokens=3, backbone=backbone)).eval()


@pytest.fixture(scope="module")
def slices() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(1, WIDTH, CELLS, CELLS), torch.randn(1, WIDTH, CELLS, CELLS)


def evidence(count: int) -> MatchEvidence:
    torch.manual_seed(3)
    region, heat = (torch.rand(count, CELLS, CELLS) > 0.7).float(), torch.rand(count, CELLS, CELLS)
    corner, size = torch.rand(count, 2) * 0.5, torch.rand(count, 2) * 0.4 + 0.05
    box = torch.cat([corner, corner + size], dim=1)
    return MatchEvidence(region, heat, box, box.flip(0) * 0.9)


def some(given: MatchEvidence, which: list[int]) -> MatchEvidence:
    return MatchEvidence(given.region[which], given.heat[which], given.region_box[which], given.matched_box[which])


@torch.no_grad()
def ask(vlm: RauVlm, slices: tuple[Tensor, Tensor], given: MatchEvidence) -> Answers:
    return vlm(*slices, given)


def test_an_answer_does_not_depend_on_what_else_is_asked_or_in_what_order(vlm: RauVlm, slices: tuple[Tensor, Tensor]) -> None:
    given = evidence(5)
    together = ask(vlm, slices, given)
    for which in ([2], [4, 0], [3, 2, 1, 0, 4]):
        apart = ask(vlm, slices, some(given, which))
        torch.testing.assert_close(apart.presence, together.presence[which], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(apart.boxes, together.boxes[which], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(apart.queries, together.queries[which], atol=1e-5, rtol=1e-5)


def test_the_answer_depends_on_target_reference_and_evidence(vlm: RauVlm, slices: tuple[Tensor, Tensor]) -> None:
    given = evidence(2)
    plain = ask(vlm, slices, given).queries
    for changed in (
        ask(vlm, (slices[0], -slices[1]), given),
        ask(vlm, (-slices[0], slices[1]), given),
        ask(vlm, slices, MatchEvidence(given.region, given.heat * 0.1, given.region_box, given.matched_box)),
    ):
        assert (changed.queries - plain).abs().max() > 1e-3


def test_an_untrained_box_head_answers_the_matched_box(vlm: RauVlm, slices: tuple[Tensor, Tensor]) -> None:
    given = evidence(4)
    torch.testing.assert_close(ask(vlm, slices, given).boxes, given.matched_box)


def test_a_box_offset_moves_and_resizes_in_box_sizes(slices: tuple[Tensor, Tensor], vlm: RauVlm) -> None:
    given = evidence(1)
    given = MatchEvidence(given.region, given.heat, given.region_box, torch.tensor([[0.2, 0.3, 0.4, 0.7]]))
    bias = vlm.box_head[-1].bias
    with torch.no_grad():
        bias.copy_(torch.tensor([0.5, -0.25, torch.log(torch.tensor(2.0)), 0.0]))
    try:
        torch.testing.assert_close(ask(vlm, slices, given).boxes, torch.tensor([[0.2, 0.2, 0.6, 0.6]]))
    finally:
        with torch.no_grad():
            bias.zero_()


def test_boxes_are_given_as_shares_from_edge_to_edge() -> None:
    masks = torch.zeros(3, 20, 40, dtype=torch.bool)
    masks[0, 5:10, 8:32] = True
    masks[1, 19, 0] = True
    torch.testing.assert_close(boxes_of(masks), torch.tensor([[0.2, 0.25, 0.8, 0.5], [0.0, 0.95, 0.025, 1.0], [0.0, 0.0, 0.0, 0.0]]))


def test_matched_boxes_are_taken_at_half_of_the_peak_and_fall_back_where_nothing_matched() -> None:
    heat = torch.zeros(2, 10, 10)
    heat[0, 2:8, 2:8] = 0.3
    heat[0, 4:6, 3:7] = 0.8
    heat[1, 0, 0] = 0.05
    fallback = torch.full((2, 4), 0.5)
    torch.testing.assert_close(matched_boxes(heat, fallback), torch.tensor([[0.3, 0.4, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5]]))
    assert matched_boxes(heat[:0], fallback[:0]).shape == (0, 4)


def test_configuration_survives_its_json_form() -> None:
    config = VlmConfig(vision_dim=7)
    assert VlmConfig.from_dict(config.to_dict()) == config
