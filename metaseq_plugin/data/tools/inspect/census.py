"""The numbers of ``metaseq data inspect``: counted chunk by chunk, added up corpus by corpus.

Copies are counted by 64-bit hashes of the texts, 8 bytes a document in memory: among 100 million documents
one false copy is to be expected with probability 3e-4.

Where only a sample of the documents is tokenised, the tokens T of a corpus are estimated by its bytes B and the
sample's tokens t and bytes b: T = B · Σt / Σb. With r = Σt / Σb, n of N documents sampled, f = n / N and b̄ their
mean bytes, the estimate's standard error is B / b̄ · √((1 - f) / n · Σ(t - r b)² / (n - 1)); twice that is told
(Cochran 1977, "Sampling Techniques", section 6.4). Whether a document is sampled follows from its hash.
"""

from hashlib import blake2b
from typing import NamedTuple, Optional, Sequence

import numpy as np

from metaseq_plugin.data.documents.chunks import Chunk
from metaseq_plugin.data.documents.parsing import BadDocumentError, Fault, parse
from metaseq_plugin.data.documents.reading import RawDocument
from metaseq_plugin.data.tools.corpus_files import CorpusFile
from metaseq_plugin.data.tools.inspect.lengths import Lengths
from metaseq_plugin.tokenizers.base import Tokenizer

NUM_LONGEST = 10
MAX_FAULTS = 1_000  # that are kept; all are counted
HASH_BYTES = 8
NOT_SAMPLED = -1  # tokens of a document that was not tokenised


class Long(NamedTuple):
    """A document and its length."""

    length: int
    path: str
    line: int


class Counts(NamedTuple):
    """Of the D documents of one chunk that have text."""

    num_input_bytes: int
    paths: list[str]
    file: np.ndarray  # (D,) which of ``paths``
    line: np.ndarray  # (D,)
    bytes: np.ndarray  # (D,) of text in UTF-8
    tokens: np.ndarray  # (D,) with </s>, or NOT_SAMPLED
    hashes: np.ndarray  # (D,) uint64
    empty: list[str]  # the path of each document without text
    faults: list[Fault]


def count(chunk: Chunk, tokenizer: Optional[Tokenizer], token_sample: float) -> Counts:
    """The counts of a chunk; a worker's part.

    Args:
        tokenizer: none counts no tokens.
        token_sample: the share of the documents to tokenise, in (0, 1].
    """
    kept: list[RawDocument] = []
    texts: list[str] = []
    empty: list[str] = []
    faults: list[Fault] = []
    for document in chunk.documents:
        try:
            text = parse(document).rstrip()
        except BadDocumentError as error:
            faults.append(error.fault)
            continue
        if text:
            kept.append(document)
            texts.append(text)
        else:
            empty.append(document.path)
    encoded = [text.encode() for text in texts]
    digests = b"".join(blake2b(text, digest_size=HASH_BYTES).digest() for text in encoded)
    hashes = np.frombuffer(digests, dtype="<u8")
    paths = sorted({document.path for document in kept})
    numbers = {path: number for number, path in enumerate(paths)}
    return Counts(
        chunk.num_input_bytes,
        paths,
        np.array([numbers[document.path] for document in kept], dtype=np.int64),
        np.array([document.line for document in kept], dtype=np.int64),
        np.array([len(text) for text in encoded], dtype=np.int64),
        _tokens(texts, hashes, tokenizer, token_sample),
        hashes,
        empty,
        faults,
    )


def _tokens(
    texts: Sequence[str], hashes: np.ndarray, tokenizer: Optional[Tokenizer], token_sample: float
) -> np.ndarray:
    counts = np.full(len(texts), NOT_SAMPLED, dtype=np.int64)
    if tokenizer is not None:
        highest = min(int(token_sample * 2**64), 2**64 - 1)
        chosen = np.flatnonzero(hashes <= np.uint64(highest))
        ids = tokenizer.encode_batch([texts[number] for number in chosen.tolist()])
        counts[chosen] = [len(tokens) + 1 for tokens in ids]
    return counts


class CorpusCensus:
    """The counts of one corpus."""

    def __init__(self, name: str, split: Optional[str]) -> None:
        self.name, self.split = name, split
        self.documents = self.bytes = self.empty = self.failing = self.copies = 0
        self.in_train: Optional[int] = None  # documents that are in the split "train" too
        self.lengths = Lengths()
        self.hashes = np.zeros(0, dtype=np.uint64)
        self._pieces: list[np.ndarray] = []
        self.sampled = 0
        # Σ over the sampled documents of t, b, t t, t b, b b for tokens t and bytes b.
        self._sums = np.zeros(5)

    def add(self, bytes_: np.ndarray, tokens: np.ndarray, hashes: np.ndarray) -> None:
        """Count D documents, all (D,)."""
        self.documents += len(bytes_)
        self.bytes += int(bytes_.sum())
        self._pieces.append(hashes)
        is_sampled = tokens != NOT_SAMPLED
        t, b = tokens[is_sampled].astype(float), bytes_[is_sampled].astype(float)
        self.sampled += len(t)
        self._sums += [t.sum(), b.sum(), t @ t, t @ b, b @ b]

    def finish(self) -> None:
        self.hashes = np.sort(np.concatenate([self.hashes, *self._pieces]))
        self._pieces = []
        self.copies = len(self.hashes) - len(np.unique(self.hashes))

    @property
    def tokens(self) -> float:
        """With </s>, estimated unless every document was tokenised; NaN where none was."""
        t, b = self._sums[:2]
        if self.sampled == self.documents:
            return float(t)
        return self.bytes * t / b if self.sampled else float("nan")

    @property
    def tokens_error(self) -> float:
        """What the estimate may be off by: two standard errors; NaN where fewer than two are sampled."""
        n = self.sampled
        if n == self.documents:
            return 0.0
        if n < 2:
            return float("nan")
        t, b, tt, tb, bb = self._sums
        ratio = t / b
        residuals = max(tt - 2 * ratio * tb + ratio**2 * bb, 0.0)
        variance = (1 - n / self.documents) / n * residuals / (n - 1)
        return float(2 * self.bytes / (b / n) * variance**0.5)


class Census:
    """The counts of all corpora.

    Args:
        has_tokens: whether documents are tokenised, all or some.
        token_sample: which share of them.
    """

    def __init__(self, files: Sequence[CorpusFile], has_tokens: bool, token_sample: float) -> None:
        self.files = list(files)
        self.corpora = {file.corpus: CorpusCensus(file.corpus, file.split) for file in files}
        self.has_tokens, self.is_exact = has_tokens, token_sample == 1
        # Lengths are exact: tokens only where all are known.
        self.unit = "tokens" if has_tokens and self.is_exact else "bytes"
        self.longest: list[Long] = []  # the longest first
        self.faults: list[Fault] = []
        self.copies = 0
        self._corpus_of = {str(file.path): self.corpora[file.corpus] for file in files}

    def add(self, counts: Counts) -> None:
        """Count a chunk."""
        lengths = counts.tokens if self.unit == "tokens" else counts.bytes
        for number, path in enumerate(counts.paths):
            here = counts.file == number
            corpus = self._corpus_of[path]
            corpus.add(counts.bytes[here], counts.tokens[here], counts.hashes[here])
            corpus.lengths.add(lengths[here])
        for place in np.argsort(-lengths, kind="stable")[:NUM_LONGEST].tolist():
            path = counts.paths[counts.file[place]]
            self.longest.append(Long(int(lengths[place]), path, int(counts.line[place])))
        # Of equals the first of the corpus, wherever chunks end.
        self.longest = sorted(self.longest, key=lambda long: -long.length)[:NUM_LONGEST]
        for path in counts.empty:
            self._corpus_of[path].empty += 1
        for fault in counts.faults:
            self.add_fault(fault)

    def add_fault(self, fault: Fault) -> None:
        self._corpus_of[fault.path].failing += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    def finish(self) -> None:
        """Compare the hashes, once all chunks are counted."""
        for corpus in self.corpora.values():
            corpus.finish()
        every = np.concatenate([corpus.hashes for corpus in self.corpora.values()])
        self.copies = len(every) - len(np.unique(every))
        of_train = [c.hashes for c in self.corpora.values() if c.split == "train"]
        if of_train:
            train = np.concatenate(of_train)
            for corpus in self.corpora.values():
                if corpus.split not in (None, "train"):
                    corpus.in_train = int(np.isin(corpus.hashes, train).sum())

    def lengths(self) -> dict[str, Lengths]:
        return {name: corpus.lengths for name, corpus in self.corpora.items()}
