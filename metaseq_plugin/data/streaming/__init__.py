"""Raw text to batches while a run trains: a chain of small steps that resumes at the very sample.

    DATA/train/00/wiki.jsonl          files        which corpora and shards a split has
    DATA/train/00/books.txt.gz   ──►  index        where each document begins in its file
    DATA/train/01/wiki.jsonl                          │
                                                      ▼
    mixing     how often an epoch draws from each corpus: M documents in all
    order      number 0 … M-1 of the epoch ──► (corpus, document), by a permutation that is computed
               for any number on the spot and stored nowhere
                                                      │  runs of numbers, about a megabyte of text
                                                      ▼
    tokens     text, tokens and </s>: in worker processes, given back in order
                                                      │  tokens and the sizes of their documents
                                                      ▼
    packing    blocks of at most --tokens-per-sample   state: {document, token, block} of the next
                                                      │
                                                      ▼
    shuffling  windows of S blocks, permuted           state: where its window starts, blocks taken
                                                      │
                                                      ▼
    rounds     B blocks a batch, a batch a rank        state: the above, and what was seen
                                                      │
                                                      ▼
    epochs     what fairseq's trainer iterates over    state: the above, epoch, batches skipped

Every step is a pure function of the files, the settings, the seed, the epoch and its state. So the
samples come in ONE order, whatever the number of ranks and workers: a rank takes its share of each
round, and a worker never decides anything. To resume is to build the chain from the state: it reads
the window of blocks that it stopped in, and nothing that went by before.
"""
