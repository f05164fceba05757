"""Taps: one mechanism each for listening to a model's attention; context managers that change nothing."""
