"""What the panel says: the button, the reasons why not, stages and states, in a clinician's words."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..support.decimals import volume_text
from ..support.text import printable

_LONGEST_NAME = 18
_MOST_NAMED = 8
# A structure this much smaller or larger than the reference's is worth a look.
_SMALL, _LARGE = 0.5, 2.0

# Keys are the values of results.Status, which is not imported here because it loads SimpleITK.
_STATUSES = {"found": _("found"), "low confidence": _("uncertain"), "not found": _("not found")}
_SYMBOLS = {"found": "✓", "low confidence": "?", "not found": "✗"}
_STAGES = {
    "waiting": _("Waiting for the last run to end"),
    "starting": _("Starting"),
    "loading": _("Loading the model"),
    "matching": _("Matching the two volumes"),
    "registration": _("Matching the two volumes"),
    "localization": _("Finding the structures"),
    "segmentation": _("Drawing"),
    "correction": _("Updating"),
    "retrying with less memory": _("Starting again with less memory"),
    "confidence": _("Checking the result"),
    "done": _("Writing the result"),
    "reading the result": _("Reading the result"),
    "measuring": _("Measuring the structures"),
    "writing the report": _("Writing"),
}


def shortened(name: str) -> str:
    """A name that fits on a button at 350 pixels; series names of DICOM can be long."""
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def button(count: int, target_name: str) -> str:
    """What the primary button will do."""
    if count == 1:
        return _("Transfer 1 structure to {target}").format(target=shortened(target_name))
    return _("Transfer {count} structures to {target}").format(count=count, target=shortened(target_name))


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


def nothing_loaded() -> str:
    """The reason in an empty scene."""
    return _("Load two volumes and a segmentation of one of them, or try the sample data.")


def same_volume() -> str:
    """A note, not an error: some people test like this."""
    return _("Reference and target are the same volume. That is allowed, but only useful as a test.")


def status(row) -> str:
    """A row's status and how far it has been reviewed, with a sign that does not need colour."""
    text = f"{_SYMBOLS.get(row.status, '')} {_STATUSES.get(row.status, row.status)}"
    if row.accepted:
        return text + ", " + _("accepted")
    return text + ", " + _("draft") if row.present else text


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{round(100 * fraction)} %"


def volume(millilitres: float) -> str:
    """A volume with as many decimals as make sense."""
    if millilitres >= 100:
        return f"{millilitres:.0f}"
    return volume_text(millilitres, 1 if millilitres >= 1 else 2)


def ratio(value: float | None) -> str:
    """A volume over the reference's, marked where it is far from one."""
    if value is None:
        return "–"
    mark = "▼ " if value < _SMALL else "▲ " if value > _LARGE else ""
    return f"{mark}{value:.2f}"


def ratio_tool_tip(value: float | None) -> str:
    """What the mark of a ratio means."""
    if value is None:
        return _("There is nothing to compare.")
    if value < _SMALL:
        return _("Less than half of the reference's volume: look at it closely.")
    if value > _LARGE:
        return _("More than twice the reference's volume: look at it closely.")
    return _("Volume divided by the reference's volume.")


def progress(stage: str, structure: str | None, left: str = "") -> str:
    """The line under the progress bar: stage, structure, time left."""
    text = _STAGES.get(stage, stage[:1].upper() + stage[1:])
    text = f"{text}: {structure}" if structure else f"{text}…"
    return f"{text} ({left})" if left else text


def summary(rows) -> str:
    """What a result holds, in two sentences. Nothing found is said plainly."""
    found = [row for row in rows if row.present]
    if not found:
        return _("Nothing was found. The scene was not changed.")
    text = _("{found} of {all} structures found").format(found=len(found), all=len(rows))
    uncertain = sum(row.status == "low confidence" for row in found)
    if uncertain:
        text += ", " + _("{count} of them uncertain").format(count=uncertain)
    drafts = sum(not row.accepted for row in found)
    if drafts == 0:
        return text + ". " + _("All are accepted.")
    return text + ". " + _("{count} still drafts: check each one and accept it.").format(count=drafts)


def run_note(seconds: float | None, cancelled: bool, found: bool) -> str:
    """What is to be said of the run itself."""
    if cancelled and not found:
        return _("The run was cancelled before a structure was finished.")
    notes = []
    if cancelled:
        notes.append(_("The run was cancelled; what was finished is kept."))
    if seconds is not None:
        notes.append(_("The run took {seconds} s.").format(seconds=max(round(seconds), 1)))
    return " ".join(notes)


def still_coming() -> tuple[str, str]:
    """What is said where finished structures take longer than the user should wait."""
    return _("The run was cancelled."), _("What was finished is still being put together and appears here by itself.")


def matched_again() -> str:
    """Why an update took as long as a whole run."""
    return _("The two volumes had to be matched again for this update, so it took longer; the next update of this structure will be fast.")


def update_button(planes: int, box: bool) -> str:
    """What the Update button will do."""
    if planes == 0 and not box:
        return _("Update")
    if planes == 0:
        return _("Update from the moved box")
    if planes == 1:
        return _("Update from 1 painted slice")
    return _("Update from {count} painted slices").format(count=planes)


def why_no_report(result: bool, target: bool, running: bool) -> str | None:
    """Why there can be neither a report nor an answer now; None where there can."""
    if not result:
        return _("There is no result yet: transfer structures first.")
    if not target:
        return _("The target volume of this result is no longer in the scene.")
    if running:
        return _("Wait until what is under way has ended.")
    return None


def report_note(count: int, shown: int, stale: bool) -> str:
    """How many sentences there are, how many of them are listed, and whether they are still true."""
    text = _("{count} sentences").format(count=count)
    if shown < count:
        text = _("{shown} of {count} sentences, on the selected structures").format(shown=shown, count=count)
    if stale:
        return text + ". " + _("The segments have changed since: write the report again.")
    return text + ". " + _("Click one to see what it is about.")


def evidence(sentence) -> str:
    """What a sentence rests on."""
    lines = []
    if sentence.structures:
        lines.append(_("Rests on: {structures}").format(structures=_first_of(sentence.structures)))
    for measurement in sentence.measurements[:_MOST_NAMED]:
        lines.append(f"{', '.join(measurement.structures)}: {measurement.quantity} {measurement.value:.4g} {measurement.unit}")
    for score in sentence.scores[:_MOST_NAMED]:
        lines.append(f"{score.phrase}: {score.value:.2f}")
    if sentence.confidence:
        lines.append(_("Confidence of the segmentation: {confidence}").format(confidence=percent(sentence.confidence)))
    return "\n".join(lines) or _("A general remark, on no structure.")


def rests_on(sentences) -> str:
    """What an answer as a whole rests on; empty where that is nothing."""
    names = list(dict.fromkeys(name for sentence in sentences for name in sentence.structures))
    # That of a structure that was not found is 0 and says nothing.
    sure = [sentence.confidence for sentence in sentences if sentence.confidence]
    if not names:
        return ""
    if not sure:
        return _("Rests on: {structures}").format(structures=_first_of(names))
    return _("Rests on: {structures} (confidence {confidence})").format(structures=_first_of(names), confidence=percent(min(sure)))


def _first_of(names) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" + {more}" if more > 0 else "")


def here_question() -> str:
    """Questions are understood in English, whatever the panel's language is."""
    return "What is at the crosshair?"


def asks_about_region(question: str) -> bool:
    """Whether a question is about a marked region and not about a point."""
    return any(word in question.casefold() for word in ("region", "area"))


def question_tool_tip() -> str:
    """What can be asked."""
    return _(
        "In English, for example: Where is the left kidney? Is the spleen present? How large is the liver? "
        "Compare all with the reference. What is the marked region? (the ROI that was drawn last)"
    )


def report_forms(dicom: bool) -> str:
    """The file dialog's kinds of files."""
    forms = [_("Web page with pictures") + " (*.html)", "Markdown (*.md)", "JSON (*.json)"]
    return ";;".join([*forms, _("DICOM structured report") + " (*.dcm)"] if dicom else forms)
