"""The update of the weights; one registered optimizer a file, of the file's name."""
