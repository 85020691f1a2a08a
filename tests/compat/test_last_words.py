"""What a rank says at its end: one sentence for a mistake of all, and for a rank that is lost."""

import time

import pytest
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException

from metaseq_plugin.compat import last_words

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError(f"{GLOO}pair.cc:537] Read error: Connection reset by peer"), "ended, so"),
        (RuntimeError(f"{GLOO}pair.cc:547] Connection closed by peer [127.0.0.1]:1"), "ended, so"),
        (RuntimeError(f"{GLOO}x.cc:78] Timed out waiting 4500ms for recv"), "answer for 4.5 sec"),
        (dist.DistStoreError("wait timeout after 5000ms, keys: /a"), "answer for 5 seconds"),
        (dist.DistBackendError("NCCL error: remote process exited or network error"), "ended, so"),
        (
            dist.DistBackendError("WorkNCCL(SeqNum=1) ran for 5100 milliseconds before timing out"),
            "answer for 5.1 seconds",
        ),
        (ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 7, -9), "SIGKILL"),
        (RuntimeError("Connection reset by peer"), None),  # of anything, by anyone
        (dist.DistNetworkError("EADDRINUSE: address already in use"), None),
        (RuntimeError("a bug"), None),
        (ValueError("Timed out waiting 4500ms"), None),
    ],
)
def test_only_a_lost_rank_is_called_one(error: Exception, sentence: str) -> None:
    said = last_words.lost_rank(error)
    assert said is None if sentence is None else said is not None and sentence in said


def test_one_process_says_its_mistake_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    last_words.say_once("mistake", said.append)
    assert said == ["mistake"]


@pytest.mark.parametrize(("theirs", "printed"), [("mistake", []), ("another", ["mistake"])])
def test_rank_0_speaks_for_those_with_the_same_mistake(
    monkeypatch: pytest.MonkeyPatch, theirs: str, printed: list[str]
) -> None:
    store = dist.HashStore()
    store.set(last_words.SENTENCE, theirs)
    monkeypatch.setattr(last_words, "meeting_place", lambda: (1, 2, store))
    said: list[str] = []
    last_words.say_once("mistake", said.append)
    assert said == printed
    assert store.add(last_words.HEARD, 0) == 1


def test_a_rank_speaks_where_rank_0_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(last_words, "meeting_place", lambda: (1, 2, dist.HashStore()))
    said: list[str] = []
    last_words.say_once("mistake", said.append)
    assert said == ["mistake"]


def test_rank_0_waits_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(last_words, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(last_words, "meeting_place", lambda: (0, 2, store))
    for heard, shortest, longest in ((0, 0.2, 5.0), (1, 0.0, 0.15)):
        store.add(last_words.HEARD, heard)
        started = time.monotonic()
        last_words.say_once("mistake", lambda sentence: None)
        assert shortest <= time.monotonic() - started < longest
    assert store.get(last_words.SENTENCE) == b"mistake"
