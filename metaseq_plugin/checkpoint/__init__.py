"""Checkpoint names and formats: fairseq's, Hugging Face's and metaseq's, and the way between them."""
