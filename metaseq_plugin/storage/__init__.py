"""The disk: files read by mapping, written whole or not at all."""
