"""Our own small models, one folder each: weights, tokenizer, model card and the scripts that made them."""
