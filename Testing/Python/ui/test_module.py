import subprocess
import sys

import nodes
import pytest
import slicer
from clicks import MILZ, load_case
from host import modules

from RAUSlicerLib.errors import RAUSlicerError


@pytest.fixture
def logic(scene, hosted):
    logic = hosted[0].RAUSlicerLogic()
    yield logic
    logic.controller.stop()


def test_loading_and_opening_the_module_imports_nothing_heavy():
    code = (
        f"import sys; sys.path.insert(0, {str(modules.repository() / 'Testing')!r})\n"
        "from host import environment; environment.prepare()\n"
        "from host import modules; modules.install()\n"
        "before = set(sys.modules)\n"
        "_, entry = modules.load_module(modules.repository() / 'RAUSlicer' / 'RAUSlicer.py')\n"
        "entry.widgetRepresentation().self().enter()\n"
        "heavy = {'torch', 'SimpleITK', 'transformers', 'skimage', 'scipy', 'sam2', 'highdicom', 'pydicom'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)), flush=True)\n"
        "modules.close_panel(entry)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_the_module_registers_under_segmentation_and_says_what_it_is_for(hosted):
    parent = hosted[1].parent

    assert (parent.title, parent.categories) == ("RAUSlicer", ["Segmentation"])
    assert "Research use only" in parent.helpText


def test_a_script_gets_the_segmentation_node(logic, scripted, scene):
    reference, segmentation, target = load_case()

    node = logic.transfer(reference, segmentation, target, structures=["milz"])

    assert [node.GetSegmentation().GetNthSegmentID(i) for i in range(node.GetSegmentation().GetNumberOfSegments())] == ["Milz"]


def test_a_script_can_add_to_its_own_segmentation(logic, scripted, scene):
    reference, segmentation, target = load_case()
    own = nodes.segmentation(target, {"mine": MILZ}, "Own")

    assert logic.transfer(reference, segmentation, target, output_node=own) is own
    assert own.GetSegmentation().GetNumberOfSegments() == 3


def test_a_script_gets_an_exception_it_can_read(logic, scripted, scene):
    reference, segmentation, target = load_case()

    with pytest.raises(RAUSlicerError, match="no structure named 'kidney'"):
        logic.transfer(reference, segmentation, target, structures=["kidney"])
    with pytest.raises(RAUSlicerError, match="damaged"):
        logic.transfer(reference, segmentation, target, model="model")


def test_another_python_can_be_chosen_in_the_settings(scene, hosted, own_settings, tmp_path):
    from RAUSlicerLib.ui.run import worker_client
    from RAUSlicerLib.ui.settings import ComputerSettings, save

    save(ComputerSettings(python=str(tmp_path / "other-python")))
    with pytest.raises(RAUSlicerError, match="other-python"):
        worker_client().start()
    save(ComputerSettings(python=sys.executable))
    client = worker_client()
    client.start()
    assert client.running
    client.stop()


@pytest.mark.slow
def test_the_self_test_passes(hosted, scene, capsys):
    slicer.selfTests["RAUSlicer"]()

    assert "test: Test passed" in capsys.readouterr().out
