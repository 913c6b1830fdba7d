"""Slice and 3D views of the scene, drawn offscreen by Slicer's own displayable managers."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_MANAGERS_2D = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)
_MANAGERS_3D = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
)


class _View:
    """A render window that is never shown, with a group of displayable managers."""

    def __init__(self, factory, managers: tuple[str, ...], image_actor=None) -> None:
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetShowWindow(False)
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(4)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        if image_actor is not None:
            # Before the managers: a segment's fill blends over what was added earlier, and over black where that is nothing.
            self.renderer.AddViewProp(image_actor)
        registry = factory.GetInstance()
        for manager in managers:
            if not registry.IsDisplayableManagerRegistered(manager):
                registry.RegisterDisplayableManager(manager)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(registry, self.renderer)

    def image(self) -> np.ndarray:
        """What the view shows, RGB, shape (height, width, 3), top row first."""
        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.SetInputBufferTypeToRGB()
        grabber.ReadFrontBufferOff()
        grabber.Update()
        output = grabber.GetOutput()
        width, height, _depth = output.GetDimensions()
        return vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)[::-1].copy()


class SliceView(_View):
    """One of the red, green and yellow views."""

    def __init__(self, name: str, orientation: str, color: tuple[float, float, float]) -> None:
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.SetVisibility(False)
        super().__init__(slicer.vtkMRMLSliceViewDisplayableManagerFactory, _MANAGERS_2D, self._actor)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._overlay = vtk.vtkRenderer()
        self._overlay.SetLayer(1)
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(self._overlay)
        self.logic = slicer.vtkMRMLSliceLogic()
        application_logic = slicer.app.applicationLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetLayoutColor(color)
        self.node.SetLayoutLabel(name[0])
        self.group.SetMRMLDisplayableNode(self.node)

    def resize(self, width: int, height: int) -> None:
        self.window.SetSize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def show(self, volume) -> None:
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())

    def fit(self) -> None:
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def image(self) -> np.ndarray:
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        if connection:
            self._actor.GetMapper().SetInputConnection(connection)
            self._actor.SetVisibility(True)
        return super().image()


class ThreeDView(_View):
    """The 3D view."""

    def __init__(self) -> None:
        super().__init__(slicer.vtkMRMLThreeDViewDisplayableManagerFactory, _MANAGERS_3D)
        self.logic = slicer.vtkMRMLViewLogic()
        application_logic = slicer.app.applicationLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddViewNode("1")
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.group.SetMRMLDisplayableNode(self.node)

    def resize(self, width: int, height: int) -> None:
        self.window.SetSize(width, height)

    def fit(self) -> None:
        """Look at everything, from the patient's left front and a little above."""
        self.window.Render()
        bounds = [0.0] * 6
        self.renderer.ComputeVisiblePropBounds(bounds)
        centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(*centre)
        camera.SetPosition(centre[0] - 175, centre[1] + 500, centre[2] + 125)
        camera.SetViewUp(0, 0, 1)
        self.renderer.ResetCamera()
        camera.Zoom(1.2)
