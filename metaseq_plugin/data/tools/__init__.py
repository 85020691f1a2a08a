"""``metaseq data inspect`` and ``metaseq data clean``: a look at a corpus, and its hygiene.

Both read what ``fairseq-train`` would stream: the files of a folder, cut into documents.
"""
