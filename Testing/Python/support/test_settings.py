from dataclasses import dataclass

import pytest

from RAUSlicerLib.confidence.calibration import Calibration
from RAUSlicerLib.errors import ModelError
from RAUSlicerLib.matching.network import MatchingConfig
from RAUSlicerLib.rau.sam2 import Sam2Config
from RAUSlicerLib.refinement.network import RefinerConfig
from RAUSlicerLib.support.settings import changed, settings_from


@dataclass(frozen=True)
class Shape:
    corners: int = 4
    sides: tuple[tuple[int, float], ...] = ((1, 0.5),)


def test_what_a_file_leaves_out_keeps_its_default_and_lists_become_tuples() -> None:
    assert settings_from(Shape, {"sides": [[2, 0.1], [3, 0.2]]}, "x") == Shape(4, ((2, 0.1), (3, 0.2)))
    assert settings_from(Shape, {}, "x") == Shape()


def test_only_what_differs_is_written() -> None:
    assert changed(Shape()) == {} and changed(Shape(corners=5)) == {"corners": 5}


def test_an_unknown_setting_is_refused_with_what_may_be_meant() -> None:
    with pytest.raises(ModelError, match="corner") as error:
        settings_from(Shape, {"corner": 3}, "The settings of the model")
    assert "The settings of the model" in str(error.value.problem) and "Did you mean 'corners'?" in error.value.explanation


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [(MatchingConfig, "finer", 0.7), (RefinerConfig, "located", 0.2), (Sam2Config, "doubt", 0.5)],
)
def test_a_networks_configuration_overrides_the_settings_of_its_room(config, name: str, value: float) -> None:
    own = config.from_dict({"settings": {name: value}})
    assert getattr(own.settings, name) == value and own == config.from_dict(own.to_dict())
    assert "settings" not in config().to_dict()
    with pytest.raises(ModelError, match="fine_tuned"):
        config.from_dict({"settings": {"fine_tuned": 1}})


def test_a_models_calibration_overrides_how_sides_are_told() -> None:
    assert Calibration.from_dict({"laterality": {"unsure": 0.01}}).laterality.unsure == 0.01
    with pytest.raises(ModelError, match="handedness"):
        Calibration.from_dict({"laterality": {"handedness": 1}})
