import numpy as np

from RAUSlicerLib.rau.assignment import assign


def test_each_structure_gets_the_box_that_holds_it() -> None:
    evidence = np.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.0, 0.1, 0.7]])
    assert assign(evidence, np.ones(3)) == [1, 0, 2]


def test_two_structures_never_share_a_box() -> None:
    # Both lie best in the first box; together they do best apart.
    assert assign(np.array([[0.9, 0.2], [0.95, 0.85]]), np.ones(2)) == [0, 1]


def test_a_structure_inside_of_another_keeps_its_own_box() -> None:
    # The organ's box holds all of its lesion, but only a part of the organ lies in the lesion's.
    assert assign(np.array([[0.95, 0.1], [1.0, 0.9]]), np.ones(2)) == [0, 1]


def test_an_absent_structure_leaves_its_box_to_another() -> None:
    assert assign(np.array([[0.9], [0.8]]), np.array([0.05, 0.95])) == [None, 0]
    assert assign(np.array([[0.9]]), np.array([0.05])) == [None]


def test_a_box_that_holds_next_to_nothing_is_left() -> None:
    assert assign(np.array([[0.02]]), np.array([0.9])) == [None]


def test_the_order_of_asking_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    evidence, presence = rng.random((6, 5)), rng.random(6)
    chosen = assign(evidence, presence)
    order = rng.permutation(6)
    assert assign(evidence[order], presence[order]) == [chosen[n] for n in order]


def test_nothing_to_assign() -> None:
    assert assign(np.zeros((0, 0)), np.zeros(0)) == []
    assert assign(np.zeros((2, 0)), np.ones(2)) == [None, None]
