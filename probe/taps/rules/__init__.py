"""From the arguments of an attention call to its `ScoreSpec`: rules worth trying, and the proof against the mask."""
