"""Sentences that come up while files are read reach the run that reads them, and only that."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest
from pydicom.misc import warn_and_log

from RAUSlicerLib.support.notices import hushed, noticed, silent

_log = logging.getLogger("RAUSlicerLib.imaging.somewhere")


def test_sentences_of_this_thread_are_collected():
    with noticed() as sentences:
        _log.warning("%d slices", 3)
        _log.info("nothing to tell")
        other = threading.Thread(target=_log.warning, args=("of another run",))
        other.start()
        other.join()
    _log.warning("too late")

    assert sentences == ["3 slices"]


def test_when_reading_fails_they_are_logged(caplog):
    with pytest.raises(ValueError, match="damaged"), noticed():
        _log.warning("the first of two series")
        caplog.clear()
        raise ValueError("damaged")

    assert "the first of two series" in caplog.text


@pytest.mark.parametrize("stacklevel", [1, 2])
def test_the_dicom_libraries_words_are_counted_and_not_shown(stacklevel, caplog, capfd):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with hushed(), hushed():
            warn_and_log("Invalid value for VR UI: 'Mustermann'", stacklevel=stacklevel)
            warn_and_log("Invalid value for VR UI: 'Mustermann'", stacklevel=stacklevel)
            warnings.warn("this will go away", DeprecationWarning, stacklevel=1)
            logging.getLogger("highdicom.seg.sop").warning("Mustermann")

    assert [str(warning.message) for warning in shown] == ["this will go away"]
    assert [record.getMessage() for record in caplog.records] == [
        "3 values in the DICOM headers are not as the standard demands; they were taken as they are."
    ]
    assert capfd.readouterr().err == ""
    logging.getLogger("pydicom").warning("shown again")
    assert "shown again" in caplog.text


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, DeprecationWarning])
def test_what_others_warn_of_is_theirs(category, caplog):
    """Also in other threads, and whatever they have chosen to see."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with hushed():
            warnings.warn("of mine", category, stacklevel=1)
            other = threading.Thread(target=warnings.warn, args=("of a thread", category))
            other.start()
            other.join()
            # At once, not when the file has been read.
            assert [str(warning.message) for warning in shown] == ["of mine", "of a thread"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", category)
        with hushed(), pytest.raises(category, match="as an error"):
            warnings.warn("as an error", category, stacklevel=1)

    assert len(shown) == 2
    assert caplog.text == ""


def test_silence_is_of_one_thread(caplog):
    with noticed() as sentences, silent(), silent():
        _log.warning("told later")
        warn_and_log("Invalid value for VR UI: 'Mustermann'")
        other = threading.Thread(target=_log.warning, args=("of another run",))
        other.start()
        other.join()

    assert sentences == [] and [record.getMessage() for record in caplog.records] == ["of another run"]
    _log.warning("heard again")
    assert "heard again" in caplog.text
