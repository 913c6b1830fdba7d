"""Checkpoints: find, verify, load, place on a device."""
