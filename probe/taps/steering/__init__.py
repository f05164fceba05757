"""Steering: the mechanisms by which an edit changes the outputs of chosen layers, while others are never looked at."""
