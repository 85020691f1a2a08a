"""``metaseq data clean``."""
