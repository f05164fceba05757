"""The embedded sentiment classifier: a plain transformers model folder, and the scripts that trained it."""
