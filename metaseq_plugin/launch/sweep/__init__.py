"""Sweeps: one file, many runs."""
