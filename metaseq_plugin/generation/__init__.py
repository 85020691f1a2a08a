"""Writing with a model: key-value cache, sampling and the generator."""
