"""The list of installed models in the panel."""

import time

import pytest


@pytest.fixture
def section(panel, tmp_path, monkeypatch):
    monkeypatch.setenv("RAUSLICER_MODELS", str(tmp_path / "models"))
    panel._advanced.models.refresh()
    yield panel._advanced.models
    panel._advanced.models.close()


def rows(section):
    return [[section.table.item(row, column).text() for column in range(4)] for row in range(len(section._models))]


def finish(section):
    from host import modules

    until = time.monotonic() + 300
    while section._process is not None and time.monotonic() < until:
        modules.settle()
        time.sleep(0.05)
    assert section._process is None


def test_installed_models_are_listed_with_size_licence_and_state(section):
    name, size, licence, state = rows(section)[0]
    assert name == "embedded" and size.endswith(" MB") and "CC-BY-NC" in licence and state == "sound"


def test_the_embedded_model_cannot_be_removed(section):
    section.table.selectRow(0)
    assert section._selected().name == "embedded" and not section.remove_button.isEnabled()


def test_a_model_is_added_and_removed_in_the_background(section, panel, tiny_model, monkeypatch):
    monkeypatch.setattr("slicer.util.confirmYesNoDisplay", lambda _question: True, raising=False)
    section.run("add", str(tiny_model))
    assert not section.add_button.isEnabled()
    finish(section)
    assert [row[0] for row in rows(section)] == ["embedded", "regions", "tiny"]
    offered = [panel.ui.modelBox.itemText(index) for index in range(panel.ui.modelBox.count)]
    # The region model carries nothing over.
    assert "tiny" in offered and "regions" not in offered
    section.table.selectRow(2)
    section._remove()
    finish(section)
    assert [row[0] for row in rows(section)] == ["embedded", "regions"]


def test_what_goes_wrong_is_said(section, tmp_path):
    section.run("add", str(tmp_path / "nothing"))
    finish(section)
    assert "does not exist" in section.message.text and section.add_button.isEnabled()


def started(section, hub, wait_until):
    hub.stalls.set()
    section.run("download", "Qwen/tiny")
    wait_until(lambda: section.progress.value > 30 if not callable(section.progress.value) else section.progress.value() > 30, 90)


def test_a_download_shows_how_far_it_is_can_be_cancelled_and_goes_on(section, hub, wait_until, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for variable in ("RAUSLICER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    started(section, hub, wait_until)
    assert not section.download_button.isEnabled() and section.cancel_button.isEnabled() and section.resume_button.isHidden()
    megabytes = sum(path.stat().st_size for path in hub.folder.iterdir()) / 1e6
    assert "Qwen/tiny" in section.message.text and section.progress.text == f"{section.progress.value} % of {megabytes:.0f} MB"
    section.cancel_button.click()
    finish(section)
    assert "Cancelled" in section.message.text
    assert rows(section)[-1][0] == "Qwen/tiny" and rows(section)[-1][3] == "unfinished"
    hub.stalls.clear()
    before = hub.sent
    section.resume_button.click()
    assert section.resume_button.isHidden()
    finish(section)
    assert [row[0] for row in rows(section)] == ["embedded", "regions", "tiny"]
    assert hub.sent - before < 0.7 * before
    assert not section.cancel_button.isVisible() and section.resume_button.isHidden()
    # What the command says of itself to those at a terminal is left out.
    assert section.message.text.startswith("Added tiny")


def test_only_an_unfinished_download_can_be_resumed_and_the_panel_gets_no_wider(section, tmp_path):
    (tmp_path / "models" / ".downloading-facebook--sam2.1-hiera-large").mkdir(parents=True)
    section.refresh()
    narrow = section.table.parentWidget().minimumSizeHint().width()
    assert rows(section)[-1] == ["facebook/sam2.1-hiera-large", "0 MB", "Apache-2.0", "unfinished"]
    section.table.selectRow(0)
    assert section.resume_button.isHidden()
    section.table.selectRow(len(section._models) - 1)
    assert not section.resume_button.isHidden()
    assert section.table.parentWidget().minimumSizeHint().width() <= narrow


def test_offline_the_panel_says_so(section, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("RAUSLICER_OFFLINE", "1")
    section.run("download", "Qwen/tiny")
    finish(section)
    assert "RAUSLICER_OFFLINE" in section.message.text and hub.requests == []
