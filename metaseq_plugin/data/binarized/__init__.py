"""fairseq's binarised data: written, and cut into blocks."""
