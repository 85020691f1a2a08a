"""What a run trains on and how it is put together; one registered task a file, of the file's name."""
