"""How much of attention's scores ``attention_rows.py`` makes at a time; the plan of memory reads it without torch."""

BLOCK_ELEMENTS = (
    1_048_576  # of (B, H, r, T): 4 MiB in fp32, or one row of each head where that is more
)
