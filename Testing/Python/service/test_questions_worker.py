"""Reports and questions through a real worker process."""

import math
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from RAUSlicerLib.errors import InputError, OutputError
from RAUSlicerLib.interpretation.evidence import Quantity
from RAUSlicerLib.results import Localization, Status, StructureResult
from RAUSlicerLib.service import case_files
from RAUSlicerLib.service.requests import CaseRequest, RunRequest

from ..imaging.builders import write_enhanced
from .replies import answer, at_stage, wait_for, wait_for_log


@pytest.fixture
def asked(case):
    """What is asked about: two overlapping structures, one without voxels and of unknown confidence."""
    reference, target = case
    liver, tumor, gone = reference.segmentation.structures
    results = (
        StructureResult(liver, Status.FOUND, 0.9, 0.1, 0.2, Localization(liver, 0.8, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))),
        StructureResult(tumor, Status.LOW_CONFIDENCE, 0.2, 0.1, 0.2),
        StructureResult(gone, Status.NOT_FOUND, math.nan, 0.0, 0.2),
    )
    return CaseRequest(target, reference.segmentation, results, None, {"Model": "embedded"})


def renamed(asked, name):
    """The same case, whose first structure has a name that tells the scripted worker what to do."""
    first, *others = asked.results
    structure = replace(first.structure, name=name)
    segmentation = replace(asked.segmentation, structures=(structure, *asked.segmentation.structures[1:]))
    return replace(asked, segmentation=segmentation, results=(replace(first, structure=structure, localization=None), *others))


def ask(client, asked, question, **where):
    reply = answer(client, client.ask(client.new_run_folder(), asked, question, **where))
    assert reply["type"] == "result", reply
    return case_files.read_answer(case_files.Path(reply["answer"]))


def report(client, asked, **options):
    return answer(client, client.report(client.new_run_folder(), asked, **options))


def test_a_case_is_read_back_as_it_was_sent(tmp_path, case, asked):
    with_reference = replace(asked, reference=case[0])

    read = case_files.read_case(case_files.write_case(tmp_path, with_reference))

    assert read.segmentation.structures == asked.segmentation.structures
    assert read.source == asked.source
    assert [r.structure for r in read.results] == [r.structure for r in asked.results]
    assert [r.localization.presence if r.localization else None for r in read.results] == [0.8, None, None]
    assert math.isnan(read.results[2].confidence)
    for structure in asked.segmentation.structures:
        np.testing.assert_array_equal(read.segmentation.array(structure), asked.segmentation.array(structure))
    assert read.reference.segmentation.structures == case[0].segmentation.structures


def test_every_change_of_a_case_changes_its_fingerprint(case, asked):
    first, *others = asked.results
    erased = asked.segmentation.map_layers([asked.segmentation.labelmap * 0, *asked.segmentation.overlays])
    changed = [
        replace(asked, reference=case[0]),
        replace(asked, volume=asked.volume + 1),
        replace(asked, segmentation=erased),
        replace(asked, results=(replace(first, confidence=0.91), *others)),
        renamed(asked, "Spleen"),
    ]

    keys = [case_files.fingerprint_of_case(one) for one in (asked, *changed)]

    assert len(set(keys)) == len(keys)
    assert case_files.fingerprint_of_case(replace(asked)) == keys[0]


def test_a_damaged_description_is_an_input_error(tmp_path, asked):
    fields = case_files.write_case(tmp_path, asked)
    case_files.Path(fields["description"]).write_text("{")

    with pytest.raises(InputError, match=r"case\.json"):
        case_files.read_case(fields)


def test_a_report_comes_back_with_all_its_evidence(scripted, asked):
    reply = report(scripted, asked)

    assert (reply["type"], reply["of"]) == ("result", "report"), reply
    written = case_files.read_report(case_files.Path(reply["report"]))
    assert written.source == {"Model": "embedded"}
    volumes = [m for sentence in written.about("Leber, groß") for m in sentence.measurements if m.quantity is Quantity.VOLUME]
    expected = asked.segmentation.array(asked.results[0].structure).sum() * np.prod(asked.volume.GetSpacing()) / 1000
    assert volumes[0].value == pytest.approx(expected)
    assert volumes[0].comparison.reference == 0.2


def test_a_question_is_answered_and_the_case_is_measured_once(scripted, asked):
    index = np.argwhere(asked.segmentation.array(asked.results[0].structure))[0][::-1]
    point = asked.volume.TransformIndexToPhysicalPoint([int(i) for i in index])
    region = asked.segmentation.array(asked.results[1].structure)

    present = ask(scripted, asked, "Is the Leber, groß present?")
    here = ask(scripted, asked, "What is here?", point=point)
    marked = ask(scripted, asked, "What is the marked region?", region=region)
    unknown = ask(scripted, asked, "Is this dangerous?")

    assert present.is_known and present.sentences[1].scores[0].value == 0.8
    assert "Leber, groß" in {name for sentence in here.sentences for name in sentence.structures}
    assert "100 % of the marked region lie in Tumor" in marked.text
    assert not unknown.is_known
    assert wait_for_log(scripted, "measured", 1).count("measured") == 1


def test_a_changed_case_is_measured_anew(scripted, asked):
    report(scripted, asked)

    ask(scripted, renamed(asked, "Spleen"), "Where is the spleen?")

    assert wait_for_log(scripted, "measured", 2).count("measured") == 2


def test_after_a_run_the_case_is_sent_again(scripted, case, asked):
    report(scripted, asked)
    request = RunRequest(*case, localizer="copy", model="copy", device="cpu")
    answer(scripted, scripted.transfer(scripted.new_run_folder(), request))

    assert report(scripted, asked)["type"] == "result"
    assert wait_for_log(scripted, "measured", 2).count("measured") == 2


@pytest.mark.parametrize("form", ["md", "html", "json"])
def test_a_report_is_saved_in_the_form_that_its_name_says(scripted, asked, tmp_path, form):
    path = tmp_path / f"report.{form}"

    reply = report(scripted, asked, save=path)

    assert reply["saved"] == str(path)
    text = path.read_text(encoding="utf-8")
    assert "Leber" in text
    assert form != "html" or "data:image/png" in text
    assert [item for item in tmp_path.iterdir() if item.name.startswith(".rauslicer")] == []


def test_what_a_dicom_report_makes_up_for_is_in_the_answer(scripted, asked, tmp_path):
    target = write_enhanced(asked.volume, tmp_path / "target.dcm")
    dataset = pydicom.dcmread(target)
    del dataset.PatientID
    dataset.save_as(target)

    reply = report(scripted, asked, save=tmp_path / "r.dcm", dicom=target)

    assert reply["type"] == "result", reply
    assert ["PatientID" in sentence for sentence in reply["warnings"]] == [True]
    assert pydicom.dcmread(tmp_path / "r.dcm").Modality == "SR"
    assert report(scripted, asked, save=tmp_path / "r.md")["warnings"] == []


@pytest.mark.parametrize(("name", "problem"), [("r.docx", "no format"), ("r.dcm", "no DICOM series")])
def test_a_report_that_can_not_be_saved_is_explained_and_the_worker_lives_on(scripted, asked, tmp_path, name, problem):
    error = report(scripted, asked, save=tmp_path / name)

    assert (error["type"], error["code"]) == ("error", "output")
    assert problem in error["problem"] and str(tmp_path / name) in error["problem"]
    assert report(scripted, asked)["type"] == "result"


def test_a_report_is_not_begun_where_it_can_not_be_saved(scripted, asked, tmp_path):
    with pytest.raises(OutputError, match="can't be written"):
        scripted.report(scripted.new_run_folder(), asked, save=tmp_path / "no" / "r.md")


def test_a_report_that_can_no_longer_be_saved_when_it_is_ready_is_an_error(scripted, asked, tmp_path):
    folder = tmp_path / "soon gone"
    folder.mkdir()
    id_ = scripted.report(scripted.new_run_folder(), asked, save=folder / "r.md")
    folder.rmdir()

    error = answer(scripted, id_)

    assert (error["type"], error["code"]) == ("error", "output"), error
    assert report(scripted, asked)["type"] == "result"


def test_an_error_while_measuring_is_explained_and_the_worker_lives_on(scripted, asked):
    error = report(scripted, renamed(asked, "bug"))

    assert (error["type"], error["code"]) == ("error", "internal")
    wait_for_log(scripted, "ZeroDivisionError")
    assert "Jane Doe" not in scripted.log and "Jane" not in str(error)
    assert report(scripted, asked)["type"] == "result"


def test_a_crash_while_measuring_is_reported_and_the_next_question_gets_a_new_worker(scripted, asked):
    assert report(scripted, renamed(asked, "crash"))["code"] == "crash"
    assert report(scripted, asked)["type"] == "result"


def test_cancel_is_answered_while_it_measures_and_the_next_one_works(scripted, asked):
    id_ = scripted.report(scripted.new_run_folder(), renamed(asked, "slow"))
    wait_for(scripted, at_stage("measuring"))

    scripted.send("cancel")

    error = answer(scripted, id_)
    assert (error["code"], error["problem"]) == ("cancelled", "It was cancelled.")
    assert report(scripted, asked)["type"] == "result"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"case": "x", "output": 3, "question": "?"},
        {"case": "x", "output": "y"},
        {"case": "x", "output": "y", "question": "?", "point": [1, 2]},
        {"case": "x", "output": "y", "question": "?", "point": [1, 2, 1e300]},
        {"case": "x", "output": "y", "question": "?", "point": [1, 2, 10**18]},
        {"case": "x", "output": "y\0", "question": "?"},
        {"case": "x", "output": "y" * 6000, "question": "?"},
        {"case": "x", "output": "\ud800", "question": "?"},
        {"case": "x", "output": "y", "question": "?", "reference": "z"},
        {"case": "x", "output": "y", "question": "?", "target": "z"},
        {"case": "x", "output": "y", "question": "?", "dicom": ["z"]},
    ],
)
def test_a_question_with_missing_or_wrong_fields_gets_a_protocol_error(scripted, fields):
    assert answer(scripted, scripted.send("ask", **fields))["code"] == "protocol"


def test_a_question_about_a_case_that_is_not_kept_says_so(scripted):
    output = str(scripted.new_run_folder() / "answer.json")
    error = answer(scripted, scripted.send("ask", case="x", output=output, question="What is here?"))

    assert error["code"] == "protocol"
    assert "no longer kept" in error["problem"]


def test_a_question_imports_no_network_library(client, asked):
    """The worker of a Slicer without torch still answers; measuring is the real one here."""
    import os
    from pathlib import Path

    assert ask(client, asked, "How large is the Tumor?").is_known
    if Path("/proc").is_dir() and os.name != "nt":
        assert "libtorch" not in Path(f"/proc/{client.pid}/maps").read_text()
