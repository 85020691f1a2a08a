"""What models and losses are made of: layers, positions, cache, the loss in chunks; nothing registered."""
