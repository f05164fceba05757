"""What differs between model families: how tokens read, which are special, where towers are."""
