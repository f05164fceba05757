"""Convolutional networks: maps at named modules, where their cells lie on the picture, and gates."""
