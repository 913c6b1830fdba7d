"""Measures segmented structures: volume, extents, intensity, asymmetry and position, beside a reference and a library of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..anatomy.plausibility import implausible
from ..anatomy.terms import GRAPHS, attach
from ..imaging.checks import distinct_names
from ..imaging.names import same_structure
from ..imaging.segmentation import Reference, Segmentation, Structure
from ..results import Status, StructureResult
from .evidence import CENTRE, Comparison, Measurement, Quantity, StructureFindings
from .library import Library
from .measured_case import HOUNSFIELD, INTENSITIES, MeasuredCase, Value
from .positions import expected_positions

_RADIOGRAPH = "chest_xray"


def measure(
    volume: sitk.Image,
    segmentation: Segmentation,
    results: Sequence[StructureResult],
    reference: Reference | None = None,
    library: Library | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> tuple[StructureFindings, ...]:
    """Measure what was found, and compare it.

    Volumes count voxels; extents reach from outer face to outer face of the voxels along the axes of the patient. The asymmetry of a pair
    is 100 (L - R) / ((L + R) / 2) of their volumes, given to both, with the left one named first. Intensities are in HU where the volume is
    CT (by DICOM, else by its values). A single slice has no volume and no extent along its normal, and a picture has no lengths at all,
    because nobody knows how large its pixels are.

    The reference's values stand beside those of structures that its own border does not cut; intensities are compared in HU only.

    Args:
        volume: The target.
        segmentation: On the target's grid.
        results: What is known of each structure. Those that were not found are not measured.
        reference: The annotated case that the structures come from.
        library: Cases to compare with.
        checkpoint: Called between structures; what it raises ends the measuring.

    Returns:
        One for each result, in order, under the names of ``distinct_names``.

    Raises:
        InputError: the segmentation is on another grid than its volume.
    """
    structures = tuple(result.structure for result in results)
    names = dict(zip(structures, distinct_names(structures), strict=True))
    attached = attach(structures, _graphs_for(volume))
    found = [result.structure for result in results if result.status != Status.NOT_FOUND]
    target = MeasuredCase.of(volume, segmentation, _own(segmentation, found), attached, checkpoint)
    values = _values(target, structures, checkpoint)
    known: Mapping[Structure, Mapping[Quantity, Value]] = {}
    distances: Mapping[Structure, Value] = {}
    if reference is not None:
        case = MeasuredCase.of(reference.volume, reference.segmentation, _own(reference.segmentation, structures), attached, checkpoint)
        theirs = _values(case, structures, checkpoint)
        known = {structure: {value.quantity: value for value in theirs[structure]} for structure in structures}
        distances = _distances(target, case)
    checkpoint()
    warnings = implausible(target.shapes, attached, names)
    findings = []
    for result in results:
        structure = result.structure
        graph, node = (attached[structure][0].name, attached[structure][1].id) if structure in attached else (None, None)
        measurements = []
        for value in (*values[structure], *([distances[structure]] if structure in distances else [])):
            plain = Measurement(value.quantity, value.value, value.unit, tuple(names[one] for one in value.structures), is_cut=value.is_cut)
            beside = Comparison() if library is None or graph is None or node is None else library.compare(graph, node, plain)
            beside = _with_reference(beside, value, known.get(structure, {}).get(value.quantity))
            measurements.append(replace(plain, comparison=beside))
        findings.append(
            StructureFindings(
                names[structure], result.status, result.confidence, tuple(measurements), graph, node, warnings.get(structure, ())
            )
        )
    return tuple(findings)


def measure_annotated(case: Reference) -> tuple[StructureFindings, ...]:
    """Measure an annotated case by itself, for a library; its structures count as found, with full confidence."""
    results = [StructureResult(structure, Status.FOUND, 1.0, 0.0, 0.0) for structure in case.segmentation.structures]
    return measure(case.volume, case.segmentation, results)


def _values(case: MeasuredCase, structures: Sequence[Structure], checkpoint: Callable[[], None]) -> dict[Structure, tuple[Value, ...]]:
    out = {}
    for structure in structures:
        checkpoint()
        out[structure] = tuple(case.values(structure))
    return out


def _graphs_for(volume: sitk.Image) -> tuple[str, ...]:
    """On a radiograph, lungs are the chest radiograph's and not the trunk's."""
    return GRAPHS if min(volume.GetSize()) > 1 else (_RADIOGRAPH, *(name for name in GRAPHS if name != _RADIOGRAPH))


def _own(segmentation: Segmentation, structures: Sequence[Structure]) -> dict[Structure, Structure]:
    own = {structure: same_structure(segmentation, structure) for structure in structures}
    return {structure: there for structure, there in own.items() if there is not None}


def _with_reference(beside: Comparison, value: Value, reference: Value | None) -> Comparison:
    """The comparison with the reference's value, where that can be compared.

    Of a structure that the reference's border cuts, size and asymmetry are unknown. Arbitrary units of two images are not the same, nor are
    coordinates of two patients.
    """
    if reference is None or reference.unit != value.unit or value.quantity in CENTRE:
        return beside
    if value.quantity in INTENSITIES:
        return replace(beside, reference=reference.value) if value.unit == HOUNSFIELD else beside
    return beside if reference.is_cut else replace(beside, reference=reference.value)


def _distances(target: MeasuredCase, reference: MeasuredCase) -> dict[Structure, Value]:
    """How far each structure's middle lies from where the others say that the reference's would lie."""
    common = [structure for structure in target.shapes if structure in reference.shapes]
    if not common:
        return {}
    theirs, ours = (np.array([case.shapes[structure].centroid for structure in common]) for case in (reference, target))
    is_cut = [target.shapes[structure].is_cut or reference.shapes[structure].is_cut for structure in common]
    distances = np.linalg.norm(expected_positions(theirs, ours, ~np.array(is_cut)) - ours, axis=1)
    return {
        structure: Value(Quantity.POSITION, float(distance), "mm", (structure,), cut)
        for structure, distance, cut in zip(common, distances, is_cut, strict=True)
        if np.isfinite(distance)
    }
