"""Hugging Face's OPT folders."""
