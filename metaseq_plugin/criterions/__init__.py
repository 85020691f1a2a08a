"""The loss of a batch; one registered criterion a file, of the file's name."""
