"""Documents out of text and JSONL files."""
