"""From text to batches, prepared on disk first or streamed while a run trains.

    documents/      which files there are, cut into documents; the text of one, or what is wrong with it
    binarized/      fairseq's binarised data: written, read as one stream of tokens, cut into blocks
    prepare/        the command that makes it
    streaming/      from text to batches without it, in a chain that resumes at the very sample
    tools/          ``metaseq data inspect`` and ``metaseq data clean``
    processes       worker processes of all of these
    empty_batch     what a rank computes that gets no samples

Nothing here knows of models or checkpoints: the tasks hand batches on to fairseq.
"""
