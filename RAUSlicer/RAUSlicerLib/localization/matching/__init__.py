"""Dense correspondence between reference and target, in 3D."""
