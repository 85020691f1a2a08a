"""A save counts as a whole or not at all, wherever it is interrupted."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import pytest
import torch
import torch.distributed as dist

from metaseq_plugin.checkpoint.commit import Save, commit, delete, recover
from metaseq_plugin.checkpoint.manifest import FileName, SetName
from metaseq_plugin.checkpoint.set import CheckpointSet
from metaseq_plugin.checkpoint.set_file import layout_entry
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.layout.layout import Layout
from metaseq_plugin.layout.peers import ALONE, Ranks, ranks_of
from metaseq_plugin.layout.piece import Piece
from metaseq_plugin.storage import atomic, torch_file
from tests.checkpoint.cut_sets import run_ranks

NAME = "decoder.layer_norm.weight"
STEMS = ("checkpoint_1_50", "checkpoint_last")
ROWS = 12


class Killed(BaseException):
    """What a test raises in the place of a SIGKILL: nothing of ours catches it."""


def files(number: int, shards: int, stem: str = STEMS[0]) -> Iterator[tuple[FileName, Any]]:
    """The files of save ``number``: every value in them is the number."""
    for shard in range(shards):
        rows = ROWS // shards
        piece = Piece((ROWS,), (shard * rows,), (rows,))
        layout = layout_entry(Layout(1, shards, shards), 0, shard, {NAME: piece}, None)
        state = {"model": {NAME: torch.full((rows,), float(number))}, "layout": layout}
        yield FileName(stem, shard=shard if shards > 1 else None), state


def save(folder: Path, number: int, shards: int, ranks: Ranks = ALONE) -> None:
    """Save ``number`` under both stems, this rank its own share of the files."""
    mine = list(files(number, shards))[ranks.rank :: ranks.size]
    what = Save(folder, STEMS, number, 1, float(number), Layout(1, shards, shards))
    commit(what, mine, ranks)


def number_in(folder: Path, stem: str) -> int:
    """Which save the set is of, all of it."""
    values = CheckpointSet.open(folder / f"{stem}.pt").whole()["model"][NAME]
    assert values.shape == (ROWS,)
    assert values.min() == values.max()
    return int(values[0])


def leftovers(folder: Path) -> list[str]:
    return sorted(
        p.name for p in folder.iterdir() if p.suffix in (atomic.TEMPORARY_SUFFIX, ".pending")
    )


# What changes the disk: a kill right before each call is a kill after the one before it.
STEPS: tuple[tuple[Any, str], ...] = (
    (torch_file, "write"),
    (atomic, "flush"),
    (atomic, "link"),
    (atomic, "rename"),
    (atomic, "remove"),
)


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``kill_at(k)``: the k-th step from now on raises."""
    left = [1_000_000]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*args, **kwargs)

        return step

    def arm(steps: int) -> None:
        left[0] = steps

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counted(vars(owner)[name]))
    return arm


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2), (0, 2)])
def test_killed_at_every_step(
    tmp_path: Path, before: int, after: int, kill_at: Callable[[int], None]
) -> None:
    """Whatever the layout before and after, both names are of the old save or of the new one."""
    outcomes = set()
    for step in range(1000):
        folder = tmp_path / str(step)
        if before:
            save(folder, 1, before)
        try:
            kill_at(step)
            save(folder, 2, after)
            break
        except Killed:
            kill_at(1_000_000)
            recover(folder)
        for stem in STEMS:
            if not before and not SetName(folder, stem).exists:
                outcomes.add(0)
                continue
            outcomes.add(number_in(folder, stem))
        save(folder, 3, after)
        assert [number_in(folder, stem) for stem in STEMS] == [3, 3]
        assert leftovers(folder) == []
    else:
        pytest.fail("the save never ended")
    kill_at(1_000_000)
    assert step > 15
    assert outcomes == {1 if before else 0, 2}
    expected = [str(n._replace(stem=stem)) for n, _ in files(2, after) for stem in STEMS]
    expected += [f"{stem}.manifest.json" for stem in STEMS]
    assert sorted(p.name for p in folder.iterdir()) == sorted(expected)


def test_a_reader_leaves_recovering_to_the_run(
    tmp_path: Path, kill_at: Callable[[int], None]
) -> None:
    save(tmp_path, 1, 2)
    kill_at(9)  # the second save counts, and no file is renamed yet
    with pytest.raises(Killed):
        save(tmp_path, 2, 2)
    kill_at(1_000_000)
    names = sorted(tmp_path.iterdir())
    assert number_in(tmp_path, STEMS[0]) == 1
    first = tmp_path / "checkpoint_1_50-shard0.pt"
    os.replace(atomic.temporary(first), first)
    with pytest.raises(UserError, match="resuming it completes the checkpoint"):
        number_in(tmp_path, STEMS[0])
    recover(tmp_path)
    assert len(names) > len(list(tmp_path.iterdir()))
    assert [number_in(tmp_path, stem) for stem in STEMS] == [2, 2]


def test_killed_while_recovering(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    for step in range(30):
        folder = tmp_path / str(step)
        save(folder, 1, 2)
        kill_at(11)  # the second save counts, and no file is renamed yet
        with pytest.raises(Killed):
            save(folder, 2, 3)
        kill_at(step)
        try:
            recover(folder)
            break
        except Killed:
            kill_at(1_000_000)
            recover(folder)
        assert {number_in(folder, stem) for stem in STEMS} <= {1, 2}
    kill_at(1_000_000)
    assert step > 3


def test_deleting_is_of_the_whole_set(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    save(tmp_path, 1, 2)
    kill_at(3)  # the manifest and one file are gone
    with pytest.raises(Killed):
        delete(SetName(tmp_path, STEMS[0]))
    kill_at(1_000_000)
    assert len(SetName(tmp_path, STEMS[0]).files()) == 1
    with pytest.raises(UserError, match=r"manifest checkpoint_1_50\.manifest\.json is missing"):
        number_in(tmp_path, STEMS[0])
    assert number_in(tmp_path, STEMS[1]) == 1


def test_names_of_one_save_share_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "linked", 1, 2)
    for name, _ in files(1, 2):
        paths = [tmp_path / "linked" / str(name._replace(stem=stem)) for stem in STEMS]
        assert paths[0].samefile(paths[1])

    def no_links(*paths: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    save(tmp_path / "copied", 1, 2)
    assert [number_in(tmp_path / "copied", stem) for stem in STEMS] == [1, 1]


def test_a_view_is_saved_without_the_rest(tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    what = Save(tmp_path, ["checkpoint_last"], 1, 1, 1.0, Layout())
    commit(what, [(FileName("checkpoint_last"), {"model": {"w": large[:10]}})], ALONE)
    assert (tmp_path / "checkpoint_last.pt").stat().st_size < 10_000


def test_one_rank_without_room_ends_the_save_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    write = torch_file.write

    def write_but_one(path: Path, state: Any) -> Any:
        if "shard1" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, state)

    monkeypatch.setattr(torch_file, "write", write_but_one)
    results = run_ranks(2, lambda ranks: save(tmp_path, 2, 2, ranks))
    for result in results:
        assert isinstance(result, UserError)
        assert "1_50-shard1.pt.metaseq-tmp could not be written (No space left on device)" in str(
            result
        )
    assert [number_in(tmp_path, stem) for stem in STEMS] == [1, 1]
    assert leftovers(tmp_path) == []


HOSTILE_NAMES = [
    "../outside.pt",
    "{tmp}/outside.pt",
    "other.pt",
    "checkpoint_last/../../outside.pt",
]
DEEP = "[" * 100_000


def pending_of(stem: str, named: Iterable[str], **changed: Any) -> str:
    facts = {name: {"bytes": 3, "sha256": hashlib.sha256(b"old").hexdigest()} for name in named}
    layout = Layout()._asdict()
    content = {"version": 1, "stem": stem, "num_updates": 9, "epoch": 1, "saved_at": 9.0}
    return json.dumps({**content, "layout": layout, "files": facts, **changed})


@pytest.mark.parametrize(
    "content",
    [
        *(pending_of(STEMS[1], [name]) for name in HOSTILE_NAMES),
        pending_of("other", ["checkpoint_last.pt"]),
        pending_of("../outside", ["../outside.pt"]),
        pending_of(STEMS[1], []),
        pending_of(STEMS[1], ["checkpoint_last.pt"], saved_at=float("nan")),
        pending_of(STEMS[1], ["checkpoint_last.pt"], saved_at=10**400),
        pending_of(STEMS[1], ["checkpoint_last.pt"], layout=[]),
        pending_of(STEMS[1], ["checkpoint_last.pt"], files={"checkpoint_last.pt": DEEP}),
        pending_of(STEMS[1], ["checkpoint_last.pt"], version=2),
        DEEP,
        "",
        "null",
        "\x1b[2J",
    ],
)
def test_a_strangers_pending_manifest_moves_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    save(folder, 1, 1)
    outside = [tmp_path / "outside.pt", folder / "other.pt"]
    for path in outside:
        path.write_bytes(b"old")
        atomic.temporary(path).write_bytes(b"old")
    pending = folder / "checkpoint_last.manifest.json.pending"
    pending.write_text(content.replace("{tmp}", str(tmp_path)))
    inodes = [path.stat().st_ino for path in outside]
    recover(folder)
    assert not pending.exists()
    assert (folder / f"{pending.name}.unreadable").exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "\x1b" not in caplog.text
    assert [path.stat().st_ino for path in outside] == inodes
    assert [number_in(folder, stem) for stem in STEMS] == [1, 1]
    save(folder, 2, 1)
    assert [number_in(folder, stem) for stem in STEMS] == [2, 2]
    assert [path.read_bytes() for path in outside] == [b"old", b"old"]
    assert atomic.temporary(outside[0]).read_bytes() == b"old"


def test_a_link_where_a_save_writes_is_not_followed(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "run"
    save(folder, 1, 1)
    precious.write_text("weights")
    places = ["checkpoint_1_50.pt", "checkpoint_last.pt", "checkpoint_last.manifest.json.pending"]
    for name in places:
        atomic.temporary(folder / name).symlink_to(precious)
    # A pending manifest names one, so that it is not swept away before.
    named = {"checkpoint_1_50.pt": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    text = pending_of(STEMS[0], named, files=named)
    (folder / "checkpoint_1_50.manifest.json.pending").write_text(text)
    (folder / "checkpoint_1_50.manifest.json").unlink()
    save(folder, 2, 1)
    assert precious.read_text() == "weights"
    assert [number_in(folder, stem) for stem in STEMS] == [2, 2]
    assert not any(path.is_symlink() for path in folder.iterdir())


def save_without_room(folder: Path, report: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    state = {"model": {NAME: torch.zeros(1_000_000)}}
    what = Save(folder, STEMS, 2, 1, 2.0, Layout())
    try:
        commit(what, [(FileName(STEMS[0]), state)], ALONE)
    except UserError as error:
        report.put(str(error))


def test_a_full_disk_is_one_sentence_and_leaves_the_old_set(tmp_path: Path) -> None:
    save(tmp_path, 1, 1)
    context = multiprocessing.get_context("fork")
    report = context.SimpleQueue()
    process = context.Process(target=save_without_room, args=(tmp_path, report))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "checkpoint_1_50.pt.metaseq-tmp could not be written (File too large)" in report.get()
    assert [number_in(tmp_path, stem) for stem in STEMS] == [1, 1]
    assert leftovers(tmp_path) == []


def save_forever(folder: Path, rank: int, store: Path, start: int) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    ranks = ranks_of(dist.group.WORLD)
    for number in range(start, start + 1000):
        save(folder, number, 2 if number % 2 else 4, ranks)


@pytest.mark.slow
def test_kill_9_of_two_ranks_at_random_moments(tmp_path: Path) -> None:
    """50 times: the next start finds a whole save, never one before the last that was whole."""
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    folder, number, interrupted = tmp_path / "run", 0, 0
    save(folder, 0, 2)
    for attempt in range(50):
        processes = [
            context.Process(
                target=save_forever, args=(folder, r, tmp_path / f"s{attempt}", number + 1)
            )
            for r in range(2)
        ]
        for process in processes:
            process.start()
        before = (folder / f"{STEMS[0]}.manifest.json").stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while (folder / f"{STEMS[0]}.manifest.json").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "no save in a minute"
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        for process in chance.sample(processes, 2):
            os.kill(process.pid or 0, signal.SIGKILL)
            time.sleep(chance.random() * 0.002)
        for process in processes:
            process.join()
        interrupted += bool(leftovers(folder))
        recover(folder)
        found = [number_in(folder, stem) for stem in STEMS]
        assert min(found) > number, (found, number)
        assert max(found) - min(found) <= 1
        number = max(found)
    assert interrupted > 5
