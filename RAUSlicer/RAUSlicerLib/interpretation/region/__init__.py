"""The region model: where each anatomical region of a 2D image lies, and how well any phrase fits it."""
