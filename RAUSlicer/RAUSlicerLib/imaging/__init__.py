"""Volumes, segmentations, geometry, slicing, intensity, files and DICOM."""
