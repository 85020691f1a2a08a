"""Text to token ids and back: the tokenizers, their files in every form, fairseq's dictionary.

Read in this order: ``tokenizer_file`` (how a stranger's file is read), ``dictionary`` (which symbol has
which id), ``base`` (what every tokenizer can do),
``files`` (a byte-level BPE on disk), ``byte_level`` and ``sentencepiece`` (the two kinds), ``open`` (the
door), ``train``, and ``fairseq_bpe`` (the same behind fairseq's ``--bpe``).
"""
