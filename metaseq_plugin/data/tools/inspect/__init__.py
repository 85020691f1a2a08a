"""``metaseq data inspect``: ``census`` counts, ``lengths`` makes histograms, ``report`` says it."""
