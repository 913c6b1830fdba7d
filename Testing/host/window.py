"""A window with the module's panel and four live views, as users see it."""

from __future__ import annotations

import numpy as np
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from . import modules
from .views import SliceView, ThreeDView

_PANEL_WIDTH = 380
_REDRAW_MS = 15


class _Picture(QtWidgets.QLabel):
    """Shows a view's offscreen picture and draws it anew when the view asks for it."""

    def __init__(self, view) -> None:
        super().__init__()
        self._view = view
        self.setMinimumSize(120, 120)
        self.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Ignored)
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MS)
        self._timer.timeout.connect(self.redraw)
        view.group.AddObserver(vtk.vtkCommand.UpdateEvent, lambda *_arguments: self._timer.start())

    def redraw(self) -> None:
        picture = np.ascontiguousarray(self._view.image())
        height, width, _channels = picture.shape
        self.setPixmap(QtGui.QPixmap.fromImage(QtGui.QImage(picture.data, width, height, 3 * width, QtGui.QImage.Format_RGB888)))

    def resizeEvent(self, event) -> None:
        self._view.resize(event.size().width(), event.size().height())
        self._timer.start()


class Window(QtWidgets.QMainWindow):
    """Panel on the left; axial, 3D, coronal and sagittal views on the right."""

    def __init__(self, panel, width: int = 1280, height: int = 860) -> None:
        super().__init__()
        self.setWindowTitle("Slicer module host")
        self.slices = (
            SliceView("Red", "Axial", (0.95, 0.29, 0.24)),
            SliceView("Green", "Coronal", (0.43, 0.69, 0.29)),
            SliceView("Yellow", "Sagittal", (0.93, 0.84, 0.25)),
        )
        self.three_d = ThreeDView()
        red, green, yellow = self.slices
        grid = QtWidgets.QWidget()
        layout = QtWidgets.QGridLayout(grid)
        layout.setSpacing(2)
        layout.setContentsMargins(2, 2, 2, 2)
        self._pictures = [_Picture(view) for view in (red, self.three_d, green, yellow)]
        for index, picture in enumerate(self._pictures):
            layout.addWidget(picture, index // 2, index % 2)
        scroll = QtWidgets.QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
        scroll.setFixedWidth(_PANEL_WIDTH)
        scroll.setWidget(panel)
        self._scroll = scroll
        centre = QtWidgets.QWidget()
        row = QtWidgets.QHBoxLayout(centre)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(scroll)
        row.addWidget(grid, 1)
        self.setCentralWidget(centre)
        self.resize(width, height)

    def show_volume(self, volume) -> None:
        for view in self.slices:
            view.show(volume)
            view.fit()

    def scroll_to(self, widget) -> None:
        """Scroll the panel so that a widget is seen."""
        modules.settle(50)
        self._scroll.ensureWidgetVisible(widget, 0, 8)

    def screenshot(self, path) -> None:
        modules.settle(50)
        for picture in self._pictures:
            picture.redraw()
        modules.settle()
        self.grab().save(str(path))
