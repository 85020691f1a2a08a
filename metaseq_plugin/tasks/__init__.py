"""One registered task a file; the file's name is the task's name."""
