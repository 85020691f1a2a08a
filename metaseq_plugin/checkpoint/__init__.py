"""Checkpoint names and formats: fairseq's and Hugging Face's, and the way between them."""
