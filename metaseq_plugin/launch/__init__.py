"""What comes before a run: layouts for the sizes, and what they cost."""
