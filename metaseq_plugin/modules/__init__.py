"""Parts that models and criterions share and that fairseq registers nothing of."""
