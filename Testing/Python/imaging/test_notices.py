"""Sentences that come up while files are read reach the run that reads them, and only that."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from RAUSlicerLib.imaging.notices import hushed, noticed

_log = logging.getLogger("RAUSlicerLib.imaging.somewhere")


def test_sentences_of_this_thread_are_collected() -> None:
    with noticed() as sentences:
        _log.warning("%d slices", 3)
        _log.info("nothing to tell")
        other = threading.Thread(target=_log.warning, args=("of another run",))
        other.start()
        other.join()
    _log.warning("too late")

    assert sentences == ["3 slices"]


def test_when_reading_fails_they_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="damaged"), noticed():
        _log.warning("the first of two series")
        caplog.clear()
        raise ValueError("damaged")

    assert "the first of two series" in caplog.text


def test_other_libraries_words_are_counted_and_not_shown(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with hushed(), hushed():
            warnings.warn("Invalid value for VR UI: 'Mustermann'", UserWarning, stacklevel=1)
            warnings.warn("Invalid value for VR UI: 'Musterfrau'", UserWarning, stacklevel=1)
            warnings.warn("this will go away", DeprecationWarning, stacklevel=1)
            logging.getLogger("pydicom").warning("Mustermann")
            logging.getLogger("highdicom.seg.sop").warning("Mustermann")

    assert [str(warning.message) for warning in shown] == ["this will go away"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 values in the DICOM headers are not as the standard demands; they were taken as they are."
    ]
    assert capfd.readouterr().err == ""
    logging.getLogger("pydicom").warning("shown again")
    assert "shown again" in caplog.text
