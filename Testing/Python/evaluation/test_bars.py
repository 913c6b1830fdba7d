import pytest

from RAUSlicerLib.evaluation.bars import Verdict, verdicts


def by_bar(runs, **options) -> dict[tuple[str, str], Verdict]:
    return {(verdict.bar, verdict.domain): verdict for verdict in verdicts(runs, **options)}


def test_dice_is_the_mean_over_pairs_of_the_mean_over_structures(make_run) -> None:
    runs = [make_run(target="x", dice=(0.9, 0.9, 0.9)), make_run(target="y", dice=(0.5, None))]
    verdict = by_bar(runs)["Dice", "brain_t1"]
    assert (verdict.value, verdict.pairs, verdict.words) == (pytest.approx(0.7), 2, "short by 0.100")


def test_demons_must_be_beaten_on_the_same_pairs(make_run) -> None:
    runs = [make_run(dice=(0.8,)), make_run("demons", dice=(0.75,)), make_run("demons", target="y", dice=(0.1,))]
    verdict = by_bar(runs)["Dice above demons", "brain_t1"]
    assert (verdict.value, verdict.pairs, verdict.reached) == (pytest.approx(0.05), 1, True)
    equal = by_bar([make_run(dice=(0.8,)), make_run("demons", dice=(0.8,))])["Dice above demons", "brain_t1"]
    assert equal.reached is False


def test_abdomens_must_be_half_as_good_again_as_demons(make_run) -> None:
    runs = [make_run(domain="abdomen_ct", dice=(0.5,)), make_run("demons", domain="abdomen_ct", dice=(0.4,))]
    verdict = by_bar(runs)["Dice above 1.5 x demons", "abdomen_ct"]
    assert verdict.value == pytest.approx(-0.1) and verdict.words == "short by 0.100"


def test_variants_are_compared_on_visible_structures_of_the_same_pair(make_run) -> None:
    runs = [make_run(dice=(0.8, 0.2)), make_run(target="y", dice=(0.1, 0.1)), make_run(variant="half", dice=(0.77, None))]
    verdict = by_bar(runs)["Dice half against natural, visible structures", "brain_t1"]
    assert (verdict.value, verdict.pairs, verdict.reached) == (pytest.approx(-0.03), 1, True)
    assert by_bar(runs)["Dice rotated against natural, visible structures", "brain_t1"].words == "not measured"


def test_the_box_is_compared_with_the_rule_and_with_the_mask_of_the_memory(make_run, make_score) -> None:
    runs = [
        make_run(structures=[make_score(1, 0.5, box_iou=0.6)]),
        make_run("copy", structures=[make_score(1, 0.2, box_iou=0.5, mask_box_iou=0.9)]),
        make_run("sam2-memory", structures=[make_score(1, 0.2, mask_box_iou=0.65)]),
    ]
    judged = by_bar(runs)
    assert judged["box IoU minus copy-with-rescale, natural", "brain_t1"].value == pytest.approx(0.1)
    assert judged["box IoU minus SAM2 memory's mask's box, natural", "brain_t1"].value == pytest.approx(-0.05)


def test_time_is_of_the_same_pairs_and_less_is_better(make_run) -> None:
    runs = [make_run(seconds=30.0), make_run("demons", seconds=20.0), make_run("demons", target="y", seconds=500.0)]
    verdict = by_bar(runs)["time, times affine + demons", "brain_t1"]
    assert (verdict.value, verdict.words) == (pytest.approx(1.5), "short by 0.500")


def test_several_references_are_judged_against_the_mean_of_the_single_ones(make_run) -> None:
    runs = [make_run(references=(name,), dice=(dice,)) for name, dice in (("a", 0.5), ("b", 0.6), ("c", 0.7))]
    verdict = by_bar([*runs, make_run(references=("a", "b", "c"), dice=(0.63,))])
    assert verdict["Dice with 3 references minus mean of the single ones", "brain_t1"].value == pytest.approx(0.03)
    assert verdict["Dice", "brain_t1"].pairs == 3


def test_unseen_structures_are_judged_where_they_are_named(make_run) -> None:
    runs = [make_run(dice=(0.8, 0.7)), make_run("demons", dice=(0.6, 0.6))]
    verdict = by_bar(runs, unseen=[2])["Dice of seen minus unseen structures", "brain_t1"]
    assert (verdict.value, verdict.reached) == (pytest.approx(0.1), False)
    assert by_bar(runs)["Dice of seen minus unseen structures", "brain_t1"].value is None


def test_confidence_is_ranked_against_dice_over_all_domains(make_run, make_score) -> None:
    def run(domain: str, sign: int):
        scores = [make_score(n, 0.02 * n, confidence=0.5 + sign * 0.01 * n) for n in range(30)]
        return make_run(domain=domain, structures=scores)

    assert by_bar([run("brain_t1", 1)])["Spearman of confidence with Dice", "all"].value == pytest.approx(1.0)
    verdict = by_bar([run("brain_t1", 1), run("heart_mr", -1)])["Spearman of confidence with Dice", "all"]
    assert verdict.value == pytest.approx(0.0, abs=0.05) and "heart_mr -1.00" in verdict.note


def test_a_reference_of_another_part_of_the_body_is_no_pair_of_the_bars(make_run) -> None:
    runs = [make_run(dice=(0.9,)), make_run(references=("heart_mr/a",), dice=(0.0,))]
    assert by_bar(runs)["Dice", "brain_t1"].value == pytest.approx(0.9)
