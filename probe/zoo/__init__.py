"""Our own small models, one folder each: weights, configuration, tokenizer, model card and the script that made them."""
