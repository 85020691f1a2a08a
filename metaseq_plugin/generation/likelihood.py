"""How likely the ends of rows are, where only these are wanted and many rows begin alike.

    for index, found in likelihoods(opt.generator, [[2, 31414, 232], [2, 31414, 328]], [1, 1]):
        print(index, found.scores, found.is_greedy)

(1) Rows that share their beginnings become trees, in which each beginning is read once (``trees.py``);
(2) trees of like size are read together, the largest first, so that memory runs out at once or never;
(3) logits are computed behind the tokens before those that are wanted, and nowhere else.

Scores are computed in fp32 and added up in fp64.
"""

import math
from typing import Iterator, NamedTuple, Optional, Sequence

import torch

from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.generator import MAX_BATCH_TOKENS, Generator, batches
from metaseq_plugin.generation.trees import Tree, trees


class Likelihood(NamedTuple):
    """Of a row's last tokens."""

    scores: list[float]  # natural log-probability of each behind all before it
    is_greedy: bool  # whether each is the likeliest of its place

    @property
    def total(self) -> float:
        """Log-probability of them all."""
        return math.fsum(self.scores)


def likelihoods(
    generator: Generator,
    rows: Sequence[Sequence[int]],
    counts: Sequence[int],
    max_tokens: int = MAX_BATCH_TOKENS,
    batch_size: Optional[int] = None,
) -> Iterator[tuple[int, Likelihood]]:
    """Each row's index and the likelihood of its last tokens, as they are found.

    Args:
        rows: token ids, at most one more than the models read: a row's last token is not read.
        counts: of each row, how many of its last tokens are wanted: from 1 to all but its first.
        max_tokens: of a batch, padding included.
        batch_size: most trees at once; None: as many as fit.

    Raises:
        UserError: a row that is empty, too long, or outside the vocabulary; logits that are not finite.
    """
    generator.check_prompts(rows, generator.longest + 1)
    decoding = Decoding(generator.models, generator.pad)
    dim = generator.models[0].decoder.embed_positions.weight.size(1)
    # Of models with --document-attention a token may see less than what stands before it.
    can_share = decoding.separator is None
    found = list(trees([list(row[:-1]) for row in rows], dim, can_share))
    grouped = batches([len(tree.tokens) for tree in found], 0, 1, batch_size, max_tokens)
    for batch in list(grouped)[::-1]:
        yield from score(decoding, [found[number] for number in batch], rows, counts)


@torch.inference_mode()
def score(
    decoding: Decoding,
    batch: Sequence[Tree],
    rows: Sequence[Sequence[int]],
    counts: Sequence[int],
) -> list[tuple[int, Likelihood]]:
    """What the rows of some trees are given."""
    width = max(len(tree.tokens) for tree in batch)
    wanted = [
        (number * width + place, target, row)
        for number, tree in enumerate(batch)
        for row, path in zip(tree.rows, tree.paths)
        for place, target in zip(path[-counts[row] :], rows[row][-counts[row] :])
    ]
    wanted.sort(key=lambda one: one[0])  # those of a row stay in order
    places, targets, owners = zip(*wanted)
    scores, are_likeliest = decoding.score_trees(batch, places, targets)
    of_rows: dict[int, list[float]] = {row: [] for tree in batch for row in tree.rows}
    missed = set()
    for row, score_of, is_likeliest in zip(owners, scores, are_likeliest):
        of_rows[row].append(score_of)
        if not is_likeliest:
            missed.add(row)
    return [(row, Likelihood(found, row not in missed)) for row, found in of_rows.items()]
