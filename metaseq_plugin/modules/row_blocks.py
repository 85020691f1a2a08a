"""How much of attention's scores ``attention_rows.py`` makes at a time; the plan of memory reads it without torch."""

# Of (B, H, r, T) in fp32: about what two cores' second-level caches hold.
BLOCK_ELEMENTS = 1_048_576
