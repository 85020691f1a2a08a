"""``metaseq prepare``: text to a data folder that ``fairseq-train`` reads."""
