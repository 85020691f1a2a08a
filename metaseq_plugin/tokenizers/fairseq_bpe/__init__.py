"""fairseq's ``--bpe`` choices, one registered class a file, each a thin face of a tokenizer."""
