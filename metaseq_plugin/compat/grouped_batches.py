"""fairseq's ``GroupedIterator`` leaves a stream of unknown length to group itself.

It gathers ``--update-freq`` batches an update and counts up to a length that it asks for at the start.
A stream learns its length at its end, so ours has a ``grouped`` of its own.
"""

from typing import Any


def let_streams_group(iterators: Any) -> None:
    original = iterators.GroupedIterator

    class GroupedIterator(original):  # type: ignore[misc, valid-type]
        def __new__(cls, iterable: Any, chunk_size: int, skip_remainder_batch: bool = False) -> Any:
            if hasattr(iterable, "grouped"):
                return iterable.grouped(chunk_size, skip_remainder_batch)
            return super().__new__(cls)

    GroupedIterator.__doc__ = original.__doc__
    iterators.GroupedIterator = GroupedIterator
