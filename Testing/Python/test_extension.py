"""What the Extensions Index of 3D Slicer asks for: one description in three files, links that lead somewhere, a small clone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
# The index takes up to 100 MB; below this there is room for another set of weights.
MOST_MB = 90


@pytest.fixture(scope="module")
def cmake() -> dict[str, str]:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"^project\((\w+)", text, re.MULTILINE)
    assert project is not None
    return {"PROJECT": project.group(1), **dict(re.findall(r'^set\((EXTENSION_\w+) "(.*)"\)$', text, re.MULTILINE))}


@pytest.fixture(scope="module")
def s4ext() -> dict[str, str]:
    lines = (ROOT / "RAUSlicer.s4ext").read_text(encoding="utf-8").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def entry() -> dict[str, object]:
    return json.loads((ROOT / "RAUSlicer.json").read_text(encoding="utf-8"))


def test_the_catalog_entry_has_what_its_schema_allows_and_no_revision(entry: dict[str, object]) -> None:
    allowed = {"$schema", "category", "scm_url", "scm_type", "build_dependencies", "build_subdirectory", "tier"}

    assert str(entry["$schema"]).endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    # With a revision the index clones the whole history, without one only the last commit.
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= allowed
    assert (entry["category"], entry["build_dependencies"], entry["tier"]) == ("Segmentation", ["PyTorch"], 1)
    assert str(entry["scm_url"]).rsplit("/", 1)[1].startswith("Slicer")


def test_cmake_catalog_entry_and_s4ext_agree(cmake: dict[str, str], s4ext: dict[str, str], entry: dict[str, object]) -> None:
    assert {path.stem for path in ROOT.iterdir() if path.suffix in (".s4ext", ".json")} == {cmake["PROJECT"]}
    assert entry["scm_url"] == s4ext["scmurl"] == cmake["EXTENSION_HOMEPAGE"] + ".git"
    assert s4ext["homepage"] == cmake["EXTENSION_HOMEPAGE"]
    assert [s4ext["depends"]] == [cmake["EXTENSION_DEPENDS"]] == entry["build_dependencies"]
    assert (s4ext["category"], s4ext["scm"]) == (entry["category"], entry["scm_type"])
    assert s4ext["build_subdirectory"] == entry["build_subdirectory"]
    for theirs, ours in (("contributors", "CONTRIBUTORS"), ("description", "DESCRIPTION"), ("iconurl", "ICONURL")):
        assert s4ext[theirs] == cmake[f"EXTENSION_{ours}"]
    assert s4ext["screenshoturls"] == cmake["EXTENSION_SCREENSHOTURLS"]


def test_icon_and_screenshots_are_files_of_the_repository(cmake: dict[str, str]) -> None:
    owner = urlsplit(cmake["EXTENSION_HOMEPAGE"]).path
    for url in [cmake["EXTENSION_ICONURL"], *cmake["EXTENSION_SCREENSHOTURLS"].split()]:
        path = urlsplit(url).path

        assert path.startswith(f"{owner}/main/")
        assert (ROOT / path.removeprefix(f"{owner}/main/")).is_file(), url


def test_home_page_and_description_name_both_licences(cmake: dict[str, str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in (readme, cmake["EXTENSION_DESCRIPTION"]):
        assert "Apache-2.0" in text and "non-commercial research use only" in text

    assert (ROOT / "LICENSE").is_file()


@pytest.mark.slow
def test_a_clone_of_depth_one_is_small_enough_for_the_index(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout, or git is missing")
    clone = tmp_path / "clone"

    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(clone)], check=True)

    size = sum(path.lstat().st_size for path in clone.rglob("*") if not path.is_dir())
    assert size < MOST_MB * 2**20, f"{size / 2**20:.0f} MB"
