"""From matched priors to masks: the 3D mask refiner, fusion of references, the label map."""
