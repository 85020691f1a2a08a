"""``metaseq data inspect``."""
