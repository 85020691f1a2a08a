"""The tests mirror the package; ``fairseq_runs`` and ``opt_models`` are what they share."""
