"""What was seen of each corpus: as JSON for the state, and as a sentence for the log.

Two shares are told, because they differ where one corpus has longer documents: of the documents, which
mixing sets, and of the tokens, which the model learns from.
"""

from typing import Dict, Sequence

import numpy as np

from metaseq_plugin.data.streaming.packing import BAD, DOCUMENTS, EMPTY, TALLY, TOKENS

NamedTally = Dict[str, Dict[str, int]]  # corpus → column of a tally → count


def named(names: Sequence[str], tally: np.ndarray) -> NamedTally:
    """A tally (C, 4) as JSON."""
    return {name: dict(zip(TALLY, map(int, row))) for name, row in zip(names, tally)}


def numbers(names: Sequence[str], seen: NamedTally) -> np.ndarray:
    """The tally (C, 4) that ``named`` was given."""
    return np.array([[seen[name][column] for column in TALLY] for name in names], dtype=np.int64)


def percentages(counts: np.ndarray) -> np.ndarray:
    return 100 * counts / max(int(counts.sum()), 1)


def sentence(names: Sequence[str], tally: np.ndarray, drawn: np.ndarray) -> str:
    """Documents and tokens of each corpus, with the shares asked for and those seen."""
    drawn_documents = tally[:, [DOCUMENTS, EMPTY, BAD]].sum(axis=1)
    wanted, documents, tokens = map(percentages, (drawn, drawn_documents, tally[:, TOKENS]))
    said = []
    for number, name in enumerate(names):
        row = tally[number]
        text = (
            f"{name}: {row[DOCUMENTS]:,} documents ({documents[number]:.1f}% of those drawn, "
            f"{wanted[number]:.1f}% asked for), {row[TOKENS]:,} tokens ({tokens[number]:.1f}%)"
        )
        for column in (EMPTY, BAD):
            if row[column]:
                text += f", {row[column]:,} {TALLY[column]}"
        said.append(text)
    return "; ".join(said)
