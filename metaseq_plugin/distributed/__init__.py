"""A run over its ranks: from fairseq's flags to the plans that cut one plain model."""
