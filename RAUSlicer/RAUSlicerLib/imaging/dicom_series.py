"""Chooses among the DICOM files of a folder the series to read: all of its slices, of one patient, or none."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from .dicom_planes import DicomFile, Plane, look_into, text
from .image_file import unreadable

_LONGEST_SHOWN = 64
_MOST_SHOWN = 3

_NUMBER = re.compile(r"\d+")

_log = logging.getLogger(__name__)


def find_series(folder: Path) -> list[Plane]:
    """All planes of the largest series of a folder, in no order.

    Of several series, the one with most voxels is taken, with a warning that describes it. If the folder itself holds images, the
    series is one of theirs, and slices of it that lie in subfolders belong to it.

    Raises:
        InputError: no images, images of several patients, or a damaged file that is, or may be, a slice of the series.
    """
    try:
        here = look_through(folder.iterdir())
        below = look_through(path for path in folder.rglob("*") if path.parent != folder)
    except OSError as error:
        raise unreadable(folder, error.strerror or "The operating system refuses to open the folder.") from error
    candidates = [file for file in (here if any(file.planes for file in here) else here + below) if file.planes]
    damaged = [file for file in here + below if file.fault is not None]
    if not candidates:
        if damaged and damaged[0].fault is not None:
            raise damaged[0].fault
        raise InputError(
            f"The folder {str(folder)!r} holds no DICOM images.",
            "A folder is read as a DICOM series; other formats are read file by file.",
            "Give the folder that holds the slices, or the path of one image file.",
        )
    _require_one_patient(candidates, folder)
    every = [file for file in here + below if file.planes]
    series: dict[str, list[Plane]] = defaultdict(list)
    for uid in dict.fromkeys(file.series for file in candidates):
        series[uid] = _distinct([plane for file in every if file.series == uid for plane in file.planes])
    ranked = sorted(series.items(), key=lambda one: sum(plane.size[0] * plane.size[1] for plane in one[1]), reverse=True)
    uid, planes = ranked[0]
    if len(ranked) > 1:
        _require_slices_together(ranked, folder)
        others = [_described(others) for _, others in ranked[1:]]
        more = f" and {len(others) - _MOST_SHOWN} more" if len(others) > _MOST_SHOWN else ""
        _log.warning(
            "The folder holds %d image series; the largest one, %s, is read. Not read: %s%s.",
            len(ranked),
            _described(planes),
            "; ".join(others[:_MOST_SHOWN]),
            more,
        )
    _require_whole(uid, planes, damaged, folder)
    _require_no_remains(planes, here + below)
    return _without_scouts(planes)


def look_through(paths: Iterable[Path]) -> list[DicomFile]:
    """The DICOM files among ``paths``, those that can't be read among them."""
    files = (look_into(path) for path in sorted(path for path in paths if path.is_file()))
    return [file for file in files if file is not None]


def _distinct(planes: Sequence[Plane]) -> list[Plane]:
    """A file may have been exported twice under two names. Anonymizers give all slices of a series the same UID: their places differ."""
    seen: dict[object, Plane] = {}
    for plane in planes:
        uid = text(plane.header, "SOPInstanceUID") or plane.path
        seen.setdefault((uid, plane.frame, None if plane.position is None else tuple(plane.position)), plane)
    return list(seen.values())


def _described(planes: Sequence[Plane]) -> str:
    header = planes[0].header
    description = text(header, "SeriesDescription")[:_LONGEST_SHOWN]
    known = [repr(description) if description else "without description"]
    known += [f"{word} {said}".strip() for word, key in (("series", "SeriesNumber"), ("", "Modality")) if (said := text(header, key)[:16])]
    files = len({plane.path for plane in planes})
    return f"{', '.join(known)}, of {files} file{'' if files == 1 else 's'}"


def _require_one_patient(files: Sequence[DicomFile], folder: Path) -> None:
    """Names are compared only as far as they are written out everywhere: archives shorten and recase them."""
    ids = {said for file in files if (said := text(file.header, "PatientID"))}
    names = {
        tuple(re.split(r"[\s^]+", said.casefold().strip("^ ")))
        for file in files
        if (said := text(file.header, "PatientName").split("=")[0])
    }
    longest = max(names, key=len, default=())
    others = {name for name in names if name != longest[: len(name)]}
    births = {said for file in files if (said := text(file.header, "PatientBirthDate"))}
    if len(ids) > 1 or others or len(births) > 1:
        raise InputError(
            f"The folder {str(folder)!r} holds images of more than one patient.",
            f"Their headers differ in {'the ID' if len(ids) > 1 else 'the name' if others else 'the birth date'} of the patient.",
            "Give the folder of one patient's series alone.",
        )


def _require_slices_together(ranked: Sequence[tuple[str, Sequence[Plane]]], folder: Path) -> None:
    """A program that gives every slice a series of its own has taken the volume apart."""
    if len(ranked) > 2 and all(len(planes) == 1 and planes[0].position is not None for _, planes in ranked):
        raise InputError(
            f"The {len(ranked)} images in the folder {str(folder)!r} are {len(ranked)} series of one image each.",
            "A program has given each slice a series UID of its own, so which of them form a volume can't be told.",
            "Export the series again from the archive, or load it in 3D Slicer and save the volume as a file.",
        )


def _require_whole(uid: str, planes: Sequence[Plane], damaged: Sequence[DicomFile], folder: Path) -> None:
    """Refuse a series of which a file is damaged or was not copied; a damaged file that belongs elsewhere is left out."""
    elsewhere = []
    for file in damaged:
        if _may_belong(file, uid, planes) and file.fault is not None:
            raise InputError(
                file.fault.problem,
                f"{file.fault.explanation} It is or may be a slice of the series in the folder {str(folder)!r}.",
                "Copy or export it again; if it does not belong to the series, move it out of the folder.",
            )
        elsewhere.append(file.path.name)
    if elsewhere:
        _log.warning("%d damaged files in the folder are left out, for instance %r.", len(elsewhere), elsewhere[0])
    parts: dict[str, set[int]] = defaultdict(set)
    totals: dict[str, int] = defaultdict(int)
    for plane in planes:
        number, total = (text(plane.header, f"InConcatenation{word}Number") for word in ("", "Total"))
        if (concatenation := text(plane.header, "ConcatenationUID")) and number.isdigit():
            parts[concatenation].add(int(number))
            totals[concatenation] = max(totals[concatenation], int(number), int(total) if total.isdigit() else 0)
    for concatenation, there in parts.items():
        if len(there) < totals[concatenation]:
            raise InputError(
                f"The series in the folder {str(folder)!r} lacks files: {len(there)} of the {totals[concatenation]} parts of an image "
                "are there.",
                "An image may be stored in several files (a concatenation), and a part of it is no whole volume.",
                "Copy or export the series again completely.",
            )


def _may_belong(file: DicomFile, uid: str, planes: Sequence[Plane]) -> bool:
    """Whether a damaged file may be a slice of a series: by its series UID or, where that can't be read, by its name or content."""
    if (instance := text(file.header, "SOPInstanceUID")) and instance in {text(plane.header, "SOPInstanceUID") for plane in planes}:
        # A damaged copy of a slice that is there.
        return False
    if file.series:
        return file.series == uid
    if _named_alike(file.path, planes):
        return True
    try:
        return bool(uid) and uid.encode() in file.path.read_bytes()
    except OSError:
        return False


def _require_no_remains(planes: Sequence[Plane], files: Sequence[DicomFile]) -> None:
    """A copy that was interrupted leaves files of a slice's name with nothing or zeros in them."""
    known = {file.path for file in files}
    for folder in {plane.path.parent for plane in planes}:
        for path in sorted(folder.iterdir()):
            if path not in known and path.is_file() and _named_alike(path, planes):
                raise InputError(
                    f"The file {str(path)!r} can't be read.",
                    "It is named like the slices of the series beside it, but is empty or no DICOM file, so a slice may be missing.",
                    "Copy or export the series again; if the file does not belong to it, move it out of the folder.",
                )


def _named_alike(path: Path, planes: Sequence[Plane]) -> bool:
    """Whether a file's name differs from that of a slice in its folder by numbers alone."""
    pattern = _NUMBER.sub("#", path.name)
    return "#" in pattern and any(path.parent == plane.path.parent and pattern == _NUMBER.sub("#", plane.path.name) for plane in planes)


def _without_scouts(planes: list[Plane]) -> list[Plane]:
    """Some scanners file the scout image in the series that was planned on it."""
    slices = [plane for plane in planes if "LOCALIZER" not in text(plane.header, "ImageType")]
    if slices and len(slices) < len(planes):
        _log.warning("%d scout images of the series are left out.", len(planes) - len(slices))
        return slices
    return planes
