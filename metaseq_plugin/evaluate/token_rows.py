"""From requests to rows of token ids: where a continuation begins, what is cut, and the windows of a long text.

    encoded(pair, tokenizer)             the tokens of context and continuation, joined
    pair_row(pair, tokenizer, 2, 2048)   the row that is scored
    windows([2, 31414, …], 2, 2048)      the rows of a text of any length

Tokens are those of lm-evaluation-harness 0.4's class ``hf`` for the same model (``TemplateLM._encode_pair``,
``get_rolling_token_windows``): ``</s>`` before every text, what is too long cut on the left.
"""

from typing import Iterator, NamedTuple, Sequence

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.requests import Pair
from metaseq_plugin.tokenizers.base import Tokenizer


class Row(NamedTuple):
    """Token ids of which the last ``num_scored`` are scored, each behind all before it."""

    tokens: Sequence[int]
    num_scored: int
    is_merged: bool = False  # as ``PairAnswer`` has it
    ncut: int = 0  # tokens that were left out on the left, its </s> among them


class Encoded(NamedTuple):
    """The tokens of a joined text, without ``</s>``."""

    tokens: list[int]
    num_scored: int  # of the continuation
    is_merged: bool


def boundary(pair: Pair) -> tuple[str, str]:
    """Context and continuation, blanks between them counted to the continuation.

    OPT's tokens of words begin with the blank before them, so that a context which ends with one would end
    within a word's token.
    """
    context = pair.context.rstrip()
    return context, pair.context[len(context) :] + pair.continuation


def encoded(pair: Pair, tokenizer: Tokenizer) -> Encoded:
    """Tokens of the joined text, and how many are of the continuation: from the first that reaches into it.

    lm_eval takes off as many tokens as the context has by itself. That is the same wherever these begin the joined
    text; where the last of them is another one there, because its word goes on, lm_eval leaves out the
    token that lies on both sides, and here it counts.

    Raises:
        UserError: a continuation without tokens.
    """
    context, continuation = boundary(pair)
    tokens: list[int] = tokenizer.encode(context + continuation).tolist()
    wanted, read = continuation.encode(), b""
    count = 0
    while len(read) < len(wanted) and count < len(tokens):
        count += 1
        read = tokenizer.token_bytes(tokens[-count]) + read
    is_merged = len(read) > len(wanted)
    if not read.endswith(
        wanted
    ):  # a tokenizer that changes texts, whose tokens have no place in them
        alone = tokenizer.encode(context).tolist()
        same = next((n for n, both in enumerate(zip(alone, tokens)) if both[0] != both[1]), None)
        first = min(len(alone), len(tokens)) if same is None else same
        count, is_merged = len(tokens) - first, first < len(alone)
    if count == 0:
        raise UserError(
            "A continuation must have at least one token, but that behind "
            f"{pair.context[-40:]!r} has none. Leave its item out."
        )
    return Encoded(tokens, count, is_merged)


def pair_row(pair: Pair, tokenizer: Tokenizer, eos: int, longest: int) -> Row:
    """The row of a pair; the last token is scored, not read, so that one more than ``longest`` fits.

    Raises:
        UserError: a continuation of no token, or of more than the model reads.
    """
    tokens, count, is_merged = encoded(pair, tokenizer)
    if count > longest:
        raise UserError(
            f"A continuation must have from 1 to {longest} tokens, which the model reads, "
            f"but {pair.continuation[:40]!r}… has {count}. Leave its item out."
        )
    kept = [eos, *tokens][-(longest + 1) :]
    return Row(kept, count, is_merged, len(tokens) + 1 - len(kept))


def windows(tokens: Sequence[int], eos: int, longest: int) -> Iterator[Row]:
    """Rows in which every one of ``tokens`` is scored once, the first ones behind ``</s>``.

    As many as the model reads at once: the next row begins with the last token of the one before, and the last
    row, which scores fewer, reads as many tokens before them as fit.
    """
    for first in range(0, len(tokens), longest):
        end = min(first + longest, len(tokens))
        begin = max(0, end - longest - 1)
        row = [eos, *tokens[:end]] if first == 0 else list(tokens[begin:end])
        yield Row(row, end - first)
