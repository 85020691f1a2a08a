"""One registered optimizer a file; the file's name is the optimizer's name."""
