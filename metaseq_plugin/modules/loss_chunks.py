"""How many tokens' logits the chunked loss has in memory at a time; ``chunked_loss.py`` computes them."""

import math

# Bounds of the automatic chunk, in tokens. Below 512 the products lose speed (dW is read and
# written once a chunk); above 4,096 nothing is gained and a GPU's memory goes into logits.
MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS = 512, 4_096


def automatic_chunk_tokens(num_tokens: int) -> int:
    """The chunk size, in tokens, for a batch of ``num_tokens``: a sixteenth, within the bounds."""
    return min(max(num_tokens // 16, MIN_CHUNK_TOKENS), MAX_CHUNK_TOKENS)


def equal_chunk_tokens(num_tokens: int, chunk_tokens: int) -> int:
    """Tokens of each chunk where none is larger than ``chunk_tokens`` (0: automatic): a short last one is slow."""
    num_chunks = math.ceil(num_tokens / (chunk_tokens or automatic_chunk_tokens(num_tokens)))
    return math.ceil(num_tokens / num_chunks)
