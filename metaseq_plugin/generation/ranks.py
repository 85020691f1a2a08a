"""Decoding with a model that is cut over several ranks: rank 0 decides, the others do as it says.

    rank 0:            lead([model], channel)       then Batch([model], …) and all else as always
    every other rank:  follow(make, device, channel)    returns when rank 0 has closed

What a rank has to do with the others is the model's work: reading tokens with its own part of the weights
and of the cache. So exactly the methods of ``Decoding`` that read, or change a cache, are done by all ranks
(``on_all_ranks``): rank 0 sends the name and the arguments, and every rank calls the same method of its own
``Decoding``. Choosing, random numbers, stop texts and finishing rows stay on rank 0 alone; no rounding
that differs elsewhere can send two ranks different ways, and nothing above ``Decoding`` knows of ranks.

The others wait for the next call in a gloo broadcast, which neither computes nor times out; it fails at once
where rank 0 is gone. Where anything but a user's mistake ends a call on rank 0, the others may be in
the middle of an exchange: the ranks are lost, and every later call says so.
"""

import signal
import threading
import weakref
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from metaseq_plugin.compat.errors import LostRank, UserError
from metaseq_plugin.compat.last_words import lost_rank

Method = TypeVar("Method", bound=Callable[..., Any])

# A service may have nothing to do for as long as it likes.
FOR_EVER = timedelta(days=3650)
LEADER = "leader"  # of the model's attributes, on rank 0


class Sent(NamedTuple):
    """In the place of a tensor, which comes by itself: through the host it would make an accelerator wait."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str


class Named(NamedTuple):
    """In the place of a ``Decoding``, of which every rank has its own."""

    number: int
    made_with: tuple[Any, ...]  # what its constructor is given beside the models


class Call(NamedTuple):
    """What all ranks are to do next."""

    target: Named
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    forgotten: list[int]  # numbers of what rank 0 no longer holds


class Channel:
    """How rank 0 reaches the others. Making one is a collective call of all ranks.

    Args:
        group: of the ranks that hold the model's parts, on the device that they compute on.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.calls = dist.new_group(backend="gloo", timeout=FOR_EVER)

    def send(self, call: Optional[Call], tensors: Sequence[Tensor] = ()) -> None:
        dist.broadcast_object_list([call], src=0, group=self.calls)
        for tensor in tensors:
            dist.broadcast(tensor.contiguous(), src=0, group=self.group_of(tensor))

    def receive(self, device: torch.device) -> Optional[Call]:
        """The next call, its tensors on ``device`` where they are on rank 0's; None: there is none."""
        held: list[Any] = [None]
        dist.broadcast_object_list(held, src=0, group=self.calls)
        call: Optional[Call] = held[0]

        def take(part: Any) -> Any:
            if not isinstance(part, Sent):
                return part
            place = device if part.device == device.type else torch.device(part.device)
            tensor = torch.empty(part.shape, dtype=part.dtype, device=place)
            dist.broadcast(tensor, src=0, group=self.group_of(tensor))
            return tensor

        if call is None:
            return None
        args, kwargs = mapped(take, (call.args, call.kwargs))
        return call._replace(args=args, kwargs=kwargs)

    def group_of(self, tensor: Tensor) -> dist.ProcessGroup:
        return self.calls if tensor.device.type == "cpu" else self.group


def mapped(replace: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``replace`` of each of its leaves, in an order that all ranks share."""
    return tree_map(replace, tree, is_leaf=lambda part: isinstance(part, (Sent, Named)))


class Leader:
    """Rank 0's side; one call at a time, from any thread.

    Attributes:
        reason: asked why a rank is gone, in a sentence; None: it is not known.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.reason: Callable[[], Optional[str]] = lambda: None
        self.lock = threading.RLock()
        self.is_calling = False
        self.lost: Optional[str] = None  # why no call can be made any more
        self.count = 0
        self.numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.forgotten: list[int] = []

    def call(self, target: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """``method`` of ``target`` on every rank; what it returns here.

        Raises:
            UserError: of the method; the other ranks have met it too.
            LostRank: a rank is gone, now or before.
        """
        with self.lock:
            if self.is_calling:  # a method that calls another
                return method(target, *args, **kwargs)
            if self.lost is not None:
                raise LostRank(self.lost)
            self.is_calling = True
            try:
                with uninterrupted():
                    self.tell(target, method.__name__, args, kwargs)
                    return method(target, *args, **kwargs)
            except UserError:
                raise
            except BaseException as error:
                sentence = lost_rank(error)
                if sentence is None:  # this rank's own, in the middle of an exchange
                    self.lost = f"The ranks must be in step, but one failed: {error}. Start again."
                    raise
                self.lost = self.reason() or sentence
                raise LostRank(self.lost) from error
            finally:
                self.is_calling = False

    def tell(self, target: Any, name: str, args: Any, kwargs: Any) -> None:
        tensors: list[Tensor] = []

        def encoded(part: Any) -> Any:
            if isinstance(part, Tensor):
                tensors.append(part)
                return Sent(tuple(part.shape), part.dtype, part.device.type)
            return self.named(part) if isinstance(part, type(target)) else part

        args, kwargs = mapped(encoded, (args, kwargs))
        forgotten, self.forgotten = self.forgotten, []
        self.channel.send(Call(self.named(target), name, args, kwargs, forgotten), tensors)

    def named(self, target: Any) -> Named:
        if target not in self.numbers:
            self.count += 1
            self.numbers[target] = self.count
            weakref.finalize(target, self.forgotten_soon, self.count)
        return Named(self.numbers[target], target.made_with)

    def forgotten_soon(self, number: int) -> None:
        self.forgotten.append(number)

    def close(self) -> None:
        """Let the other ranks go."""
        with self.lock:
            if self.lost is None:
                self.lost = "The model must be open, but was closed. Load it again."
                self.channel.send(None)


def lead(models: Sequence[Any], channel: Channel) -> Leader:
    """From now on, what these models decode on rank 0 is decoded by all ranks."""
    leader = Leader(channel)
    for model in models:
        vars(model)[LEADER] = leader
    return leader


def on_all_ranks(method: Method) -> Method:
    """A method of ``Decoding`` that each rank does in its turn, where the models are cut over several."""

    @wraps(method)
    def wrapper(decoding: Any, *args: Any, **kwargs: Any) -> Any:
        leader: Optional[Leader] = vars(decoding.models[0]).get(LEADER)
        if leader is None:
            return method(decoding, *args, **kwargs)
        return leader.call(decoding, method, args, kwargs)

    return cast(Method, wrapper)


@torch.inference_mode()
def follow(make: Callable[..., Any], device: torch.device, channel: Channel) -> None:
    """Do what rank 0 does, until it closes.

    Args:
        make: a new ``Decoding`` of this rank's models, given what rank 0's was ``made_with``.
        device: of those models.
    """
    held: dict[int, Any] = {}

    def named(part: Any) -> Any:
        if not isinstance(part, Named):
            return part
        if part.number not in held:
            held[part.number] = make(*part.made_with)
        return held[part.number]

    while (call := channel.receive(device)) is not None:
        for number in call.forgotten:
            held.pop(number, None)
        target = named(call.target)
        args, kwargs = mapped(named, (call.args, call.kwargs))
        try:
            getattr(target, call.method)(*args, **kwargs)
        except UserError:
            continue  # rank 0 has met it too, and says it


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C within takes effect at the end: in the middle of an exchange it would lose the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # not Python's
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)
