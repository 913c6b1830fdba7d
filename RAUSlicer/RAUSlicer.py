"""The module as 3D Slicer sees it: registration, wiring, the script interface and the self test."""

import time

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from RAUSlicerLib.errors import RAUSlicerError
from RAUSlicerLib.scene import record
from RAUSlicerLib.ui import sample_data
from RAUSlicerLib.ui.panel import Panel
from RAUSlicerLib.ui.run import Inputs, Listener, RunController, worker_client


class RAUSlicer(ScriptedLoadableModule):
    """Registers the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("RAUSlicer")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["RAUSlicer contributors"]
        self.parent.helpText = _(
            "Transfers the structures of an annotated reference case to a new case, as draft segments. "
            "Research use only, not a medical device."
        )
        self.parent.helpText += self.getDefaultModuleDocumentationLink()
        self.parent.acknowledgementText = _("Built on SAM2, SimpleITK, PyTorch and 3D Slicer; the README lists licences and papers.")
        # The Sample Data module may be loaded after this one.
        slicer.app.connect("startupCompleted()", self._registerSampleData)

    def _registerSampleData(self):
        sample_data.register(self.resourcePath("Icons/RAUSlicer.png"))


class RAUSlicerWidget(ScriptedLoadableModuleWidget):
    """Loads the panel and passes on what the application says."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = RAUSlicerLogic()
        widget = slicer.util.loadUI(self.resourcePath("UI/RAUSlicer.ui"))
        self.layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(widget, self.logic.controller, self.logic.getParameterNode)

    def enter(self):
        self.panel.enter()

    def exit(self):
        self.panel.exit()

    def cleanup(self):
        self.panel.cleanup()
        self.logic.controller.stop()


class RAUSlicerLogic(ScriptedLoadableModuleLogic):
    """Runs transfers, for the panel and for scripts."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        # Several sets of settings may be kept in one scene.
        self.isSingletonParameterNode = False
        self.controller = RunController(worker_client)

    def transfer(self, referenceVolumeNode, referenceSegmentationNode, targetVolumeNode, structures=None, **options):
        """Find a reference's structures in a target and return the segmentation node with them, None where nothing was found.

        Waits for the result while the application stays alive. ``structures`` are names, None for all. ``options`` are fields of
        ``RAUSlicerLib.ui.jobs.Inputs``: ``localizer``, ``model``, ``device``, ``output_node``, ``threads``, ``memory_mb``. What is known of
        each structure (confidence, status, volumes) is read with ``RAUSlicerLib.scene.record.rows_of(node)``. The worker stays warm for the
        next call on the same logic; ``logic.controller.stop()`` ends it.

        Raises:
            RAUSlicerLib.errors.RAUSlicerError: the run ended without a result; problem, explanation and solution say why.
        """
        outcome = _Outcome()
        self.controller.start(Inputs(referenceVolumeNode, referenceSegmentationNode, targetVolumeNode, structures, **options), outcome)
        try:
            return outcome.wait()
        except KeyboardInterrupt:
            self.controller.cancel()
            raise


class _Outcome(Listener):
    """Waits for a run while the application stays alive."""

    def __init__(self):
        self._done = False
        self._node = None
        self._failure = None

    def finished(self, node, transfer):
        self._done, self._node = True, node

    def failed(self, problem, explanation, solution):
        self._done, self._failure = True, (problem, explanation, solution)

    def wait(self):
        while not self._done:
            # The controller's timer delivers the outcome.
            slicer.app.processEvents()
            time.sleep(0.01)
        if self._failure is not None:
            raise RAUSlicerError(*self._failure)
        return self._node


class RAUSlicerTest(ScriptedLoadableModuleTest):
    """Runs a transfer on two small synthetic volumes, in the application."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (self.test_panel, self.test_a_ball):
            self.setUp()
            test()

    def test_panel(self):
        """The sample data loads, pairs itself, and the button says what it will do."""
        self.delayDisplay("Loading the sample data")
        widget = slicer.modules.rauslicer.widgetRepresentation().self()
        widget.enter()
        try:
            nodes = sample_data.load()
            slicer.app.processEvents()
            parameters = widget.panel.parameters
            chosen = (parameters.referenceVolume, parameters.referenceSegmentation, parameters.targetVolume)
            self.assertEqual([node.GetID() for node in chosen], [node.GetID() for node in nodes])
            self.assertTrue(widget.panel.ui.transferButton.enabled)
            self.assertIn("116", widget.panel.ui.transferButton.text)
        finally:
            widget.exit()

    def test_a_ball(self):
        """Worker, model and scene work together; what is written lies where the ball is.

        How good the embedded model is on so plain a picture is not tested here: it may say that it did not find the ball.
        """
        import numpy as np

        self.delayDisplay("Making two volumes and a segmentation")
        distance = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
        ball = distance < 8
        picture = np.where(ball, 200, np.where(distance < 14, 80, 0)).astype(np.int16)
        reference = slicer.util.addVolumeFromArray(picture, name="Reference")
        target = slicer.util.addVolumeFromArray(picture + 5, name="Target")
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Reference segmentation")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        segmentation.GetSegmentation().AddEmptySegment("ball", "Ball")
        slicer.util.updateSegmentBinaryLabelmapFromArray(ball.astype(np.uint8), segmentation, "ball", reference)

        self.delayDisplay("Transferring")
        logic = RAUSlicerLogic()
        try:
            node = logic.transfer(reference, segmentation, target, localizer="registration", device="cpu")
        finally:
            logic.controller.stop()

        if node is None:
            self.delayDisplay("Test passed: the model did not find the ball and said so")
            return
        self.assertEqual([(row.name, row.accepted) for row in record.rows_of(node)], [("Ball", False)])
        result = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), target) > 0
        self.assertGreater(np.sum(result & ball) / np.sum(result), 0.5)
        self.delayDisplay("Test passed")
