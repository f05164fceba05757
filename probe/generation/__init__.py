"""Capture of `generate()`: watched from outside, every pass heard, one record of all positions that were fed."""
