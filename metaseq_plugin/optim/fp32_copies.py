"""How much of 16-bit parameters AdamW copies to fp32 at a time; ``adamw.py`` does it, and a plan counts it."""

# Elements in all: 256 MB, twice, of parameters and gradients.
ELEMENTS_IN_FP32 = 67_108_864
