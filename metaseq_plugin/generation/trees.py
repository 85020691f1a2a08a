"""Rows of tokens that begin alike, as trees: what they share is in one only once.

    for tree in trees(rows, dim):
        print(tree.tokens, tree.rows, tree.paths)

Legend: T tokens of a tree, D the model's dimension.

What a tree costs: its T tokens go through the weights, 12·D² products each and layer, and each of them is held
against all T, 2·T·D products. So rows are read together where they share enough, and a tree of many that
share little would cost more than its rows.
"""

from dataclasses import dataclass, field
from typing import Iterator, Sequence

# A larger tree's mask, T × T numbers, would take more than 64 MB.
MAX_TREE_TOKENS = 4096
# Rows are read together where that saves at least such a share: a mask takes time of its own.
LEAST_SAVED = 0.1


@dataclass
class Tree:
    """Some rows; ``grow`` takes in one more.

    Attributes:
        tokens: T of them, each behind the one that it follows in its rows.
        depths: of each token, its place in its rows.
        ends: of each token, the place behind the last of those that follow it in any row.
        rows: numbers of the rows.
        paths: of each row, the places of its tokens.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    @property
    def is_row(self) -> bool:
        """Whether each token sees all that stand before it."""
        return all(end == len(self.tokens) for end in self.ends)

    def shared(self, row: Sequence[int]) -> int:
        """How many tokens ``row`` begins with as the row that was taken in last does."""
        count = 0
        for place, token in zip(self.paths[-1] if self.paths else (), row):
            if self.tokens[place] != token:
                break
            count += 1
        return count

    def grow(self, number: int, row: Sequence[int], shared: int) -> None:
        """Take in ``row``, which begins with so many tokens of the last one's."""
        size = len(self.tokens) + len(row) - shared
        before = self.paths[-1][:shared] if self.paths else []
        path = [*before, *range(len(self.tokens), size)]
        self.tokens += row[shared:]
        self.depths += range(shared, len(row))
        self.ends += [size] * (len(row) - shared)
        for place in before:
            self.ends[place] = size
        self.rows.append(number)
        self.paths.append(path)


def cost(num_tokens: int, dim: int) -> float:
    """What T tokens cost that are held against each other, in tokens that are held against none."""
    return num_tokens * (1 + num_tokens / (6 * dim))


def trees(rows: Sequence[list[int]], dim: int, can_share: bool = True) -> Iterator[Tree]:
    """All rows, each in one tree.

    Args:
        dim: D.
        can_share: false gives a tree for each row.
    """
    tree = Tree()
    for number in sorted(range(len(rows)), key=lambda i: rows[i]):
        row = rows[number]
        shared = tree.shared(row)
        size = len(tree.tokens) + len(row) - shared
        apart = cost(len(tree.tokens), dim) + cost(len(row), dim)
        saves = apart - cost(size, dim) >= LEAST_SAVED * cost(len(row), dim)
        if tree.rows and not (can_share and saves and size <= max(MAX_TREE_TOKENS, len(row))):
            yield tree
            tree, shared = Tree(), 0
        tree.grow(number, row, shared)
    if tree.rows:
        yield tree
