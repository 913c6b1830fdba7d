"""The panel. Imports qt and slicer; everything heavier is imported when the first run starts."""
