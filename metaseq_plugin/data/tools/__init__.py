"""``metaseq data inspect`` and ``metaseq data clean``: a look at a corpus, and its hygiene.

Both read what ``fairseq-train`` would stream: the files of a folder, cut into documents.

    corpus_files    which files there are, in which order, and which corpus each belongs to
    inspect/        command; census counts, lengths makes histograms and pictures of them, report says it
    clean/          command; judging is what workers do, with repairs of a text; duplicates finds copies,
                    writing writes, report says what was dropped
    tables          tables and numbers as both print them
"""
