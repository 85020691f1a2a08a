"""OPT as fairseq builds it; one registered model a file, of the file's name."""
