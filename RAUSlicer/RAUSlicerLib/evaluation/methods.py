"""The methods that are compared: ours in several forms, and the peers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Structure
from ..matching.registration import align_boxes
from ..models.manifest import CHECKSUMS
from ..models.store import resolve as resolve_model
from ..progress import CancelToken, ignore
from ..protocols import Peer
from ..refinement.label_map import resolve
from ..results import Status
from .boxes import Box, box_around, mask_box

OURS, MEMORY, COPY, DEMONS = "rauslicer", "sam2-memory", "copy", "demons"


@dataclass(frozen=True)
class Method:
    """A way to segment a target.

    ``process``: methods of one name share a process, and with it what they have loaded; apart are those that bring a second copy of ITK.
    ``peer`` is its class by name, so that it costs nothing until it is used; without one it is the whole pipeline with a
    ``localizer``. ``package`` is what it needs beyond the library, ``weights`` whether the model makes a difference to it.
    """

    process: str
    peer: str | None = None
    localizer: str = "vlm"
    package: str | None = None
    weights: bool = False


METHODS = {
    COPY: Method("classical", "baselines.copy:CopyPeer"),
    "affine": Method("classical", "baselines.affine:AffinePeer"),
    DEMONS: Method("classical", "baselines.demons:DemonsPeer"),
    "elastix": Method("elastix", "baselines.elastix:ElastixPeer", package="itk"),
    "ants": Method("ants", "baselines.ants:AntsPeer", package="ants"),
    MEMORY: Method("model", "baselines.sam2_memory:Sam2MemoryPeer", weights=True),
    OURS: Method("model", weights=True),
    "rauslicer-registration": Method("model", localizer="registration", weights=True),
}
# What is run on a trial unless methods are named. Variants and further references need fewer; the pipeline with the
# registration localizer is not the default of anybody.
_ON_VARIANTS = (COPY, DEMONS, MEMORY, OURS)
_WITH_SEVERAL = (OURS,)
_NOT_BY_DEFAULT = ("rauslicer-registration",)


def default_methods(*, natural: bool, references: int) -> list[str]:
    """Methods that are run where none are named; optional peers only where they are installed."""
    if references > 1:
        return list(_WITH_SEVERAL)
    if not natural:
        return list(_ON_VARIANTS)
    return [name for name in METHODS if name not in _NOT_BY_DEFAULT and is_installed(name)]


def is_installed(method: str) -> bool:
    """Whether the package that a method needs is there."""
    package = METHODS[method].package
    return package is None or importlib.util.find_spec(package) is not None


def check_methods(names: Sequence[str]) -> None:
    """Refuse what can't be run before anything is.

    Raises:
        InputError: there is no such method.
        ResourceError: its package is not installed.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"There is no method named {name!r}.", f"Known ones: {', '.join(METHODS)}.", "Choose among these.")
        if not is_installed(name):
            _peer_class(METHODS[name]).require()


def fingerprint(model: str) -> str:
    """Tells a model's weights and settings from all others: the first digits of a hash over its parts' checksums.

    Raises:
        ModelError: there is no such model.
    """
    folder = resolve_model(model)
    parts = [(folder.part(part) / CHECKSUMS).read_bytes() for part in folder.parts]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


@dataclass(frozen=True)
class MethodAnswer:
    """What a method says of a structure, whose voxels are in the label map. All but ``present`` are None where it says nothing of it."""

    present: bool
    box_mm: Box | None = None
    presence: float | None = None
    confidence: float | None = None
    status: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a method made of a trial.

    ``labelmap`` is on the target's grid, ``answers`` are by label. ``seconds`` is the wall time of the method alone, ``load_seconds`` that
    of opening its model, None where it was open. ``gives_boxes`` says whether its boxes are its own and no copy of its masks'.
    """

    labelmap: sitk.Image
    answers: dict[int, MethodAnswer]
    seconds: float
    load_seconds: float | None = None
    gives_boxes: bool = False


class Bench:
    """Runs methods and keeps what they have loaded, a model or a peer, for the next trial."""

    def __init__(self, model: str = "embedded", device: str = "auto") -> None:
        self._model, self._device = model, device
        self._open: dict[Any, Any] = {}

    def run(self, name: str, references: Sequence[Reference], target: sitk.Image, structures: Sequence[Structure]) -> Outcome:
        """Segment structures of the first reference in a target.

        Raises:
            RAUSlicerError: whatever the method raises.
        """
        check_methods([name])
        method = METHODS[name]
        if method.peer is None:
            return self._run_pipeline(method, references, target, structures)
        peer, load = self._opened(name, lambda: self._new(method))
        start = time.perf_counter()
        masks = peer.segment(list(references), target, structures, ignore, CancelToken())
        labelmap = resolve(masks, structures, target).labelmap
        seconds = time.perf_counter() - start
        found = set(np.unique(sitk.GetArrayViewFromImage(labelmap)).tolist())
        boxes = rescaled_boxes(references[0], target, structures) if name == COPY else {}
        answers = {s.label: MethodAnswer(s.label in found, boxes.get(s)) for s in structures}
        return Outcome(labelmap, answers, seconds, load, name == COPY)

    def _run_pipeline(
        self, method: Method, references: Sequence[Reference], target: sitk.Image, structures: Sequence[Structure]
    ) -> Outcome:
        from ..pipeline import Pipeline

        pipeline, load = self._opened("pipeline", lambda: Pipeline(self._model, self._device))
        names = [structure.name for structure in structures]
        start = time.perf_counter()
        result = pipeline.transfer(list(references), target, names, localizer=method.localizer)
        seconds = time.perf_counter() - start
        answers = {}
        for one in result.results:
            where = one.localization
            box, presence = (where.box_mm, where.presence) if where is not None else (None, None)
            answers[one.structure.label] = MethodAnswer(one.status is not Status.NOT_FOUND, box, presence, one.confidence, str(one.status))
        return Outcome(result.segmentation.labelmap, answers, seconds, load, True)

    def _new(self, method: Method) -> Peer:
        kind = _peer_class(method)
        made: Peer = kind(self._model, self._device) if method.weights else kind()
        return made

    def _opened(self, key: str, make: Any) -> tuple[Any, float | None]:
        if key in self._open:
            return self._open[key], None
        start = time.perf_counter()
        self._open[key] = make()
        return self._open[key], time.perf_counter() - start


def rescaled_boxes(reference: Reference, target: sitk.Image, structures: Sequence[Structure]) -> dict[Structure, Box]:
    """Each structure's box in the reference, mapped by what lays the two foreground boxes over each other: the simplest guess of a box."""
    back = align_boxes(target, reference.volume).GetInverse()
    boxes = {}
    for structure in structures:
        own = same_structure(reference.segmentation, structure)
        box = None if own is None else mask_box(reference.segmentation.array(own), reference.volume)
        if box is not None:
            # Volumes that lie across their axes would need the corners in their own frame; a bounding box of the corners is close.
            boxes[structure] = box_around([back.TransformPoint(corner) for corner in product(*zip(*box, strict=True))])
    return boxes


def _peer_class(method: Method) -> Any:
    assert method.peer is not None
    room, name = method.peer.split(":")
    return getattr(importlib.import_module(f"..{room}", __package__), name)
