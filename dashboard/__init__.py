"""What a person touches: the command `probe`, and the modules behind its output."""
