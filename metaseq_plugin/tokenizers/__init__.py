"""Text to token ids and back: the tokenizers, their files in every form, fairseq's dictionary."""
