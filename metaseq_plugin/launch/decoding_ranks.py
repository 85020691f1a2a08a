"""A model over several ranks, for who only wants to decode with it: ``--model-parallel-size N``.

    ranks = gather_ranks(2, device, start=["-c", "…"])    (1) find or start the ranks, and meet them
    with ranks.agreeing():                                (2) each reads its part; one's mistake is all's
        model = …
    ranks.take_places([model])                       (3) rank 0 goes on; the others follow, and end
    …
    ranks.close()                                         (4) rank 0 lets them go

Under torchrun, and under SLURM with the variables that torchrun sets, the ranks are there already. Else this
process becomes rank 0 and starts the others on this machine, which run the same four steps. For
N = 1 there is one rank, and nothing happens in any of them.
"""

import logging
import os
import sys
import weakref
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

import torch
import torch.distributed as dist

from metaseq_plugin.compat.errors import EXIT_LOST_RANK, EXIT_USER_ERROR, LostRank, UserError
from metaseq_plugin.compat.last_words import lost_rank, meeting_place
from metaseq_plugin.generation.decoding import Decoding
from metaseq_plugin.generation.ranks import Channel, Leader, follow, lead
from metaseq_plugin.launch.started_ranks import (
    StartedRanks,
    is_started_here,
    say_met,
    threads_of_each,
)
from metaseq_plugin.layout.grid import SINGLE, Grid, build
from metaseq_plugin.layout.layout import check_divides
from metaseq_plugin.layout.peers import ALONE, GroupRanks, Ranks, agree
from metaseq_plugin.models.opt import OPTLanguageModel

logger = logging.getLogger(__name__)

TAKEN = "decoding_ranks/taken"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class DecodingRanks:
    """The ranks that hold a model together, as this one sees them.

    Attributes:
        peers: the ranks, to read files together.
        grid: this rank's place.
        device: where this rank computes.
        lost: on rank 0, why the model can be used no more; None while it can.
    """

    def __init__(
        self, device: torch.device, grid: Grid = SINGLE, started: Optional[StartedRanks] = None
    ) -> None:
        self.device = device
        self.grid = grid
        self.started = started
        self.channel = None if grid.model_group is None else Channel(grid.model_group)
        self.peers: Ranks = ALONE if self.channel is None else GroupRanks(self.channel.calls)
        self.leader: Optional[Leader] = None
        self.close: Callable[[], Any] = lambda: None

    @property
    def lost(self) -> Optional[str]:
        return None if self.leader is None else self.leader.lost

    def when_lost(self, call: Callable[[str], None]) -> None:
        """Have ``call`` told, from a thread, which of the started ranks has ended unasked, when one does.

        Under torchrun nothing needs to be told: it ends all ranks.
        """
        if self.started is not None:
            self.started.when_lost = call
            if self.started.lost is not None:  # since before
                call(self.started.lost)

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """A user's mistake within, on any rank, is raised on rank 0, and ends the others silently."""
        if self.channel is None:
            yield
            return
        problem = None
        try:
            try:
                yield
            except UserError as error:
                problem = str(error)
            agree(self.peers, problem)
        except UserError as error:
            self.end(EXIT_USER_ERROR)
            raise UserError(*error.sentences) from None
        except RuntimeError as error:
            sentence = self.loss(error)
            if sentence is None:
                raise
            self.end(EXIT_LOST_RANK)
            raise LostRank(sentence) from error
        except BaseException:
            close_all(None, self.started)
            raise

    def end(self, status: int) -> None:
        """Before the model was read: on rank 0, end the others; another rank says nothing and ends."""
        if self.peers.rank > 0:
            raise SystemExit(status)
        close_all(None, self.started)

    def loss(self, error: RuntimeError) -> Optional[str]:
        """The sentence for an exchange that failed; None: that is not why there was an ``error``."""
        sentence = lost_rank(error)
        if sentence is None or self.started is None:
            return sentence
        return self.started.reason() or sentence

    def take_places(self, models: Sequence[OPTLanguageModel]) -> None:
        """Rank 0 leads from now on; every other rank follows until it is let go, and its process ends.

        Args:
            models: this rank's parts.
        """
        if self.channel is None:
            return
        if self.peers.rank > 0:
            raise SystemExit(self.follow(models))
        self.leader = lead(models, self.channel)
        if self.started is not None:
            self.leader.reason = self.started.reason
        # At the latest when the model is forgotten, or the interpreter ends.
        self.close = weakref.finalize(models[0], close_all, self.leader, self.started)

    def follow(self, models: Sequence[OPTLanguageModel]) -> int:
        """The exit status of this rank, in the end."""
        assert self.channel is not None
        try:
            follow(partial(Decoding, models), self.device, self.channel)
        except RuntimeError as error:
            sentence = lost_rank(error)
            if sentence is None:
                raise
            if not is_started_here():  # else rank 0 is gone, or says it
                sys.stderr.write(f"metaseq: error: {sentence}\n")
            return EXIT_LOST_RANK
        dist.destroy_process_group()
        return 0


def close_all(leader: Optional[Leader], started: Optional[StartedRanks]) -> None:
    """Let the ranks go that follow ``leader``, and end those that were started."""
    if (
        started is None or started.lost is None
    ):  # else nobody follows, and their group cannot be left in order
        try:
            if leader is not None:
                leader.close()
        except RuntimeError as error:  # a rank is gone already
            logger.debug("while closing: %s", error)
        if dist.is_initialized():
            dist.destroy_process_group()
    if started is not None:
        started.close()


def gather_ranks(size: int, device: torch.device, start: Sequence[str]) -> DecodingRanks:
    """Meet the ranks that will hold a model of ``size`` parts.

    Args:
        device: "cpu" or "cuda", of which each rank takes its own.
        start: arguments of a Python interpreter that will meet this process as another rank.

    Raises:
        UserError: an impossible number, for these ranks or this machine.
        LostRank: a rank ended before it was met.
    """
    if size == 1:
        return DecodingRanks(device)
    check_size(size, device)
    num_there = dist.get_world_size() if dist.is_initialized() else number_in_environment()
    if num_there > 1:
        check_there(size, num_there)
        return meet(size, device, None)
    started = StartedRanks(size, start)
    try:
        started.wait_until_met()
        if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads_of_each(size))
        with variables(started.environment(0)):
            return meet(size, device, started)
    except BaseException:
        started.close()
        raise


def meet(size: int, device: torch.device, started: Optional[StartedRanks]) -> DecodingRanks:
    """Make the groups of all ranks, each of which knows its place from the environment; collective."""
    if is_started_here() and started is None:
        say_met()
    if not dist.is_initialized():
        dist.init_process_group(BACKENDS[device.type])
    check_free()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return DecodingRanks(device, build(size, device.type), started)


def number_in_environment() -> int:
    """How many ranks torchrun says that there are; 1 where it did not start this process."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "MASTER_PORT" in os.environ else 1


def own_rank() -> int:
    """Which of torchrun's ranks this process is; 0 where it did not start it."""
    return int(os.environ.get("RANK", 0)) if number_in_environment() > 1 else 0


def check_size(size: int, device: torch.device) -> None:
    """Refuse a number of parts that this machine has no devices for, or a device for all of them."""
    if size < 1:
        raise UserError(
            f"`--model-parallel-size` must be at least 1, but is {size}. Set 1 to not cut."
        )
    index: Optional[int] = device.index
    if index is not None or device.type not in BACKENDS:
        raise UserError(
            f"`--device` must be cpu or cuda with --model-parallel-size, but is {device}. "
            "Each rank takes a device of its own; set either."
        )
    num_here = size if number_in_environment() == 1 else 1
    if device.type == "cuda" and torch.cuda.device_count() < num_here:
        raise UserError(
            f"`--model-parallel-size` must be at most the number of GPUs ({torch.cuda.device_count()}), "
            f"but is {size}. Set --device cpu, or start ranks on several machines with torchrun."
        )


def check_there(size: int, num_there: int) -> None:
    """Refuse another number of parts than there are ranks."""
    if size != num_there:
        raise UserError(
            f"`--model-parallel-size` must be the number of ranks that are there ({num_there}), "
            f"but is {size}. Set it so, or start as many with torchrun."
        )


def check_cut(size: int, cfg: Any, vocab_size: int) -> None:
    """Refuse a number of parts that does not divide what they share out."""
    check_divides(
        size,
        {
            "the model's attention heads": cfg.decoder_attention_heads,
            "its feed-forward dimension": cfg.decoder_ffn_embed_dim,
            "its vocabulary": vocab_size,
        },
    )


def check_free() -> None:
    """Refuse a second model while the ranks hold one."""
    rank, _, store = meeting_place()
    if store is not None and store.add(f"{TAKEN}/{rank}", 1) > 1:
        raise UserError(
            "The ranks must be free, but they hold a model already. Close that one first."
        )


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """The environment with ``values``, within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
