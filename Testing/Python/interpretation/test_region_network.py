"""The region network: who sees whom, parents as means, and maps that depend on the phrase."""

import pytest
import torch

from RAUSlicerLib.interpretation.region.network import RegionConfig, RegionNet, leaf_shares
from RAUSlicerLib.interpretation.region.text import encode

NODES = (("g/chest", ""), ("g/lungs", "g/chest"), ("g/right", "g/lungs"), ("g/left", "g/lungs"), ("g/heart", "g/chest"), ("h/liver", ""))


@pytest.fixture(scope="module")
def net() -> RegionNet:
    torch.manual_seed(0)
    return RegionNet(RegionConfig(nodes=NODES, image_size=32, dim=16, heads=2, layers=1, embedding=12)).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_patches_never_see_queries(net: RegionNet, images: torch.Tensor) -> None:
    seen = net.see(images)
    for part in (seen.tokens, seen.local):
        gradient = torch.autograd.grad(part.sum(), net.queries, allow_unused=True, retain_graph=True)
        assert gradient == (None,)
    with torch.no_grad():
        kept = net.queries.clone()
        net.queries.add_(torch.linspace(-1, 1, net.config.dim))
        after = net.see(images)
        net.queries.copy_(kept)
    assert torch.equal(after.tokens, seen.tokens)


def test_a_query_changes_its_own_region_and_those_that_hold_it_only(net: RegionNet, images: torch.Tensor) -> None:
    with torch.no_grad():
        seen = net.see(images)
        before = net.ask(seen)
        kept = net.queries.clone()
        # Leaves in the order of the nodes: right, left, heart, liver.
        net.queries[0] += torch.linspace(-1, 1, net.config.dim)
        after = net.ask(seen)
        net.queries.copy_(kept)
    changed = [(after.boxes[:, n] - before.boxes[:, n]).abs().max() > 1e-6 for n in range(len(NODES))]
    assert changed == [True, True, True, False, False, False]


def test_a_parents_query_is_the_mean_of_its_childrens(net: RegionNet) -> None:
    chest, lungs, right, left, heart, _ = net.node_queries()
    torch.testing.assert_close(lungs, (right + left) / 2)
    torch.testing.assert_close(chest, (lungs + heart) / 2)
    assert net.queries.shape[0] == 4


def test_a_child_before_its_parent_is_refused() -> None:
    with pytest.raises(ValueError, match="g/right"):
        leaf_shares((("g/right", "g/lungs"), ("g/lungs", "")))


def test_answers_have_their_ranges(net: RegionNet, images: torch.Tensor) -> None:
    with torch.no_grad():
        found = net.ask(net.see(images))
    assert found.boxes.shape == (2, 6, 4) and ((found.boxes > 0) & (found.boxes < 1)).all()
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(2, 6))
    torch.testing.assert_close(found.embeddings.norm(dim=-1), torch.ones(2, 6))


def test_a_map_depends_on_the_phrase(net: RegionNet, images: torch.Tensor) -> None:
    with torch.no_grad():
        maps = net.ground(net.see(images), net.phrases(encode(["opacity", "no opacity", "right lung"])))
    assert maps.shape == (2, 3, 16)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (maps[:, first] - maps[:, second]).abs().max() > 0.05


def test_a_configuration_survives_its_file(net: RegionNet) -> None:
    import json

    assert RegionConfig.from_dict(json.loads(json.dumps(net.config.to_dict()))) == net.config


def test_patches_know_their_place(net: RegionNet) -> None:
    with torch.no_grad():
        tokens = net.see(torch.zeros(1, 1, 32, 32)).tokens[0] - net.encode(torch.zeros(1, 1, 32, 32))[0]
    distances = torch.cdist(tokens, tokens) + torch.eye(len(tokens)) * 9
    assert distances.min() > 0.2
