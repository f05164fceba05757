"""A small LLaVA of our own that answers questions about generated scenes: weights, card, and the scripts that made them."""
