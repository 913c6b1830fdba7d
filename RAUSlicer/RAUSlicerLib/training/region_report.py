"""The region model's figures as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .region_metrics import DRAWS

_GRAPHS = {"chest_xray": "radiographs", "abdomen": "projections"}


def write_tables(document: Mapping[str, Any]) -> str:
    """Markdown of what `RAUSlicerLib.training.region_evaluation` has found out; brackets hold 95 % intervals over people."""
    people, models = document["people"], document["models"]
    lines = ["# Region model on held-out people", ""]
    for split, counts in people.items():
        lines.append(f"- {split}: " + ", ".join(f"{_GRAPHS[graph]} of {count} people" for graph, count in counts.items()))
    lines += [
        "",
        f"Brackets: 95 % interval from drawing the people anew {DRAWS} times. With so few people it is wide, and itself a rough one.",
        "",
    ]
    lines += _means("Boxes (IoU)", "boxes", models, {"iou": "model", "mean_box_iou": "mean box of the train cases"})
    grounding = {"point": "pointing", "iou": "IoU", "prior_point": "pointing, mean mask", "prior_iou": "IoU, mean mask"}
    grounding |= {"chance": "pointing, chance", "patch_point": "pointing, patches alone", "attention_point": "pointing, query's attention"}
    lines += _means("Grounding: the map of a phrase against the mask of what it names", "grounding", models, grounding)
    areas = {"score": "model", "unseen": "model, unseen phrase", "prior": "how often in train", "brightness": "brightness in the box"}
    lines += _areas("Phrases on regions (area under the ROC curve)", "scores", models, areas)
    lines += _areas("Phrases on whole pictures (area under the ROC curve)", "images", models, {"score": "model"})
    lines += ["## Maps depend on the phrase", ""]
    lines += _table(
        ("model", "mean correlation of maps of different regions", "right lies left of left in the picture"),
        ((name, f"{one['dependence']['correlation']:.2f}", f"{one['dependence']['right_left_order']:.0%}") for name, one in models.items()),
    )
    if document["differences"]:
        lines += ["## Differences of grounding on the same pictures", ""]
        rows = [
            (which, key, _number(figure)) for which, differences in document["differences"].items() for key, figure in differences.items()
        ]
        lines += _table(("models", "what", "difference"), rows)
    return "\n".join(lines) + "\n"


def _means(title: str, prefix: str, models: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    rows = []
    for name, one in models.items():
        for key, figures in one["figures"].items():
            if key.split("/")[0] == prefix:
                first = next(iter(figures.values()))
                what = " ".join(_GRAPHS.get(part, f"{part}s") for part in key.split("/")[1:])
                numbers = [_number(figures.get(column)) for column in columns]
                rows.append((name, what, f"{first['n']} of {first['patients']}", *numbers))
    return [f"## {title}", "", *_table(("model", "of", "n, people", *columns.values()), rows)]


def _areas(title: str, prefix: str, models: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    rows = []
    for name, one in models.items():
        for key, figures in one["figures"].items():
            if key.split("/")[0] == prefix:
                first, graph = figures["score"], _GRAPHS[key.split("/")[1]]
                counted = f"{figures['positive']} of {first['n']}, {first['patients']}"
                rows.append((name, f"{key.split('/')[2]} ({graph})", counted, *(_number(figures.get(column)) for column in columns)))
    return [f"## {title}", "", *_table(("model", "finding", "true of n, people", *columns.values()), rows)]


def _number(figure: Mapping[str, float] | None) -> str:
    if figure is None or math.isnan(figure["value"]):
        return "-"
    if math.isnan(figure["low"]):
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows), ""]
