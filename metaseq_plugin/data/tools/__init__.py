"""``metaseq data inspect`` and ``metaseq data clean``: a look at a corpus, and its hygiene.

Both read what ``fairseq-train`` would stream: the files of a folder, cut into documents.

    corpora              which files there are, in which order, and which corpus each belongs to
    inspection           the command; census counts, lengths makes histograms and pictures of them,
                         inspection_report says it
    cleaning             the command; judging is what workers do, with repairs of a text; duplicates finds
                         copies, writing writes, cleaning_report says what was dropped
    reports              tables and numbers as both print them
"""
