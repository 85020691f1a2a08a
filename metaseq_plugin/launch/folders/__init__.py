"""Run folders: what explains a run, and how all runs of a folder stand."""
