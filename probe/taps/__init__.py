"""Taps: one mechanism each for listening to attention inside a model. They are context managers and change nothing."""
