"""Long masks made row by row for verified models, instead of as an N×N tensor."""
