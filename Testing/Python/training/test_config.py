"""The file of `rauslicer train`: what it may say, and how what it may not say is refused."""

from pathlib import Path

import pytest
import yaml

from RAUSlicerLib.errors import InputError
from RAUSlicerLib.training.config import TrainConfig, read_config
from RAUSlicerLib.training.datasets import SHIPPED
from RAUSlicerLib.training.settings import MatchingTraining


def read(tmp_path: Path, values: dict) -> TrainConfig:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": str(tmp_path), "output": "out", **values}))
    return read_config(tmp_path / "c.yaml")


def test_what_a_file_does_not_say_is_the_recipe_of_the_embedded_weights(tmp_path: Path) -> None:
    config = read(tmp_path, {"matching": {"steps": 5}, "refiner": {"sizes": [[24, 2]]}})
    assert config.matching == MatchingTraining(steps=5) and config.refiner.sizes == ((24, 2),) and config.refiner.far == 80
    assert next(iter(config.datasets.sets)) == "brain_t1" and config.regions.frozen.batches == 40
    how = config.settings("matching", config.matching)
    assert (how.output, how.steps, how.rate, how.ema, how.start) == (Path("out/matching"), 5, 1.5e-3, 0.998, "")
    assert read_config(tmp_path / "c.yaml", tmp_path).output == tmp_path


def test_data_sets_stand_in_the_file_or_in_another_one(tmp_path: Path) -> None:
    inside = read(tmp_path, {"datasets": {"mine": {}}, "label_sets": {"a": 3}, "invented": {"share": 0.2}})
    assert inside.datasets.invented_share == 0.2 and list(inside.datasets.label_sets) == ["a", "mine"]
    assert read(tmp_path, {"datasets": str(SHIPPED)}).datasets.invented_share == 0.43


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"mathcing": {}}, "Did you mean 'matching'"),
        ({"matching": {"step": 1}}, "Did you mean 'matching.steps'"),
        ({"matching": {"steps": 1.5}}, "no whole positive number"),
        ({"matching": {"rate": 0}}, "no positive number"),
        ({"matching": {"same": 1.5}}, "no share between 0 and 1"),
        ({"matching": [1]}, "no mapping"),
        ({"refiner": {"sizes": [[24]]}}, "list of 2"),
        ({"regions": {"image": {"steps": "all"}}}, "'regions.image.steps'"),
        ({"threads": True}, "'threads'"),
        ({"start": ["embedded"]}, "no text"),
        ({"source": "x"}, "'source'"),
        ({"label_sets": {"a": 3}}, "stand in another file"),
        ({"datasets": "none.yaml"}, "none.yaml"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(values: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, values)


def test_a_file_has_to_say_where_its_data_and_its_output_are(tmp_path: Path) -> None:
    for text, lacking in (("output: o", "data"), ("data: d", "output")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError, match=f"lacks '{lacking}'"):
            read_config(tmp_path / "c.yaml")
