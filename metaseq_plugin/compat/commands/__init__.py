"""Commands that must answer where torch or fairseq cannot be imported."""
