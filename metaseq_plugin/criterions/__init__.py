"""One registered criterion a file; the file's name is the criterion's name."""
