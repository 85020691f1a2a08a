"""The checkpoints of training: sets of files, saved whole and loaded in any layout."""
