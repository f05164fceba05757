"""Models by name: the catalogue, installing from carrier packages, folders, hub ids, and models without weights."""
