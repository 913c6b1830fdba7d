"""What the panel says: the button, the reasons why not, stages and states, in a clinician's words."""

from __future__ import annotations

from slicer.i18n import tr as _

_LONGEST_NAME = 18

# Keys are the values of results.Status, which is not imported here because it loads SimpleITK.
_STATUSES = {"found": _("found"), "low confidence": _("uncertain"), "not found": _("not found")}


def shortened(name: str) -> str:
    """A name that fits on a button at 350 pixels; series names of DICOM can be long."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def button(count: int, target_name: str) -> str:
    """What the primary button will do."""
    noun = _("structure") if count == 1 else _("structures")
    return _("Transfer {count} {noun} to {target}").format(count=count, noun=noun, target=shortened(target_name))


def why_not(reference_volume, reference_segmentation, target_volume, segments: int, ticked: int) -> str | None:
    """Why a run can't start, and what to do about it; None where it can."""
    if reference_volume is None:
        return _("Choose the reference volume: the case that has been segmented already.")
    if reference_segmentation is None:
        return _("Choose the segmentation of the reference volume.")
    if segments == 0:
        return _("The reference segmentation has no segments. Draw or load at least one.")
    if target_volume is None:
        return _("Choose the target volume: the case to be segmented.")
    if ticked == 0:
        return _("Tick at least one structure.")
    return None


def same_volume() -> str:
    """A note, not an error: some people test like this."""
    return _("Reference and target are the same volume. That is allowed, but only useful as a test.")


def status(value: str) -> str:
    """A status as the table shows it."""
    return _STATUSES.get(value, value)


def confidence(value: float, status_value: str) -> str:
    """Confidence as a percentage; nothing was measured on a structure that is not there."""
    return "–" if status_value == "not found" else f"{round(100 * value)} %"


def volume(millilitres: float) -> str:
    """A volume with as many decimals as make sense."""
    return f"{millilitres:.1f}" if millilitres >= 1 else f"{millilitres:.2f}"


def progress(stage: str, structure: str | None) -> str:
    """The line under the progress bar."""
    stage = stage[:1].upper() + stage[1:]
    return f"{stage}: {structure}" if structure else f"{stage}…"


def summary(statuses: list[str], cancelled: bool, node_name: str | None, seconds: float | None) -> str:
    """One or two sentences on a finished run. Nothing found is said plainly."""
    found = sum(value != "not found" for value in statuses)
    uncertain = sum(value == "low confidence" for value in statuses)
    if found == 0:
        text = _("Nothing was found.") if not cancelled else _("The run was cancelled before a structure was finished.")
        return text + " " + _("The scene was not changed.")
    text = _("{found} of {all} structures found").format(found=found, all=len(statuses))
    if uncertain:
        text += _(", {uncertain} of them uncertain").format(uncertain=uncertain)
    text += _(", written to “{node}” as drafts").format(node=node_name)
    if seconds is not None:
        text += _(" in {seconds} s").format(seconds=round(seconds))
    return text + "." + (" " + _("The run was cancelled; what was finished is kept.") if cancelled else "")
