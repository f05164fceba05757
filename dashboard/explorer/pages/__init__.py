"""One page a module; each has a `PAGE` and is found by itself."""
