"""Stands in for the 3D Slicer application around slicer-core's real scene, so that the module can be tested without the application."""
