"""Runs that are killed, run out of disk or find their checkpoints spoilt: the next start goes on from the
newest complete set, bit for bit, or stops with one sentence that names the file. Never from scratch."""

import json
import random
import re
import resource
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest

from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.storage import atomic
from tests.distributed.faults import Kill, remember_settings, step_hit
from tests.fairseq_runs import Ended, train, write_data
from tests.rank_runs import train_ranks
from tests.recorder import Recorder

FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
LAYOUTS: dict[str, tuple[Any, ...]] = {"fsdp2": FSDP, "tp2": ("--model-parallel-size", 2)}
KILLS = 25  # of each layout
DONE = 70  # updates; more than so many kills let a run reach
KEEP = ("--save-interval-updates", 1, "--keep-interval-updates", 2, "--keep-last-epochs", 1)
COMMON = ("--disable-validation", "--num-workers", 0, "--dropout", 0.1, "--max-update")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("faults") / "data", documents=100, longest=24)


def said_once(ranks: list[Ended], *sentences: str) -> None:
    """Every rank ended with exit status 2, and one of them said why."""
    assert [rank.status for rank in ranks] == [2] * len(ranks), ranks
    lines = [line for r in ranks for line in r.output.splitlines() if "error: " in line]
    assert len(lines) == 1, lines
    said = ranks[0].output[ranks[0].output.index(lines[0]) :]  # one line a problem
    for sentence in sentences:
        assert re.search(sentence, said), said
    assert not any("Traceback" in rank.output for rank in ranks)


def loaded(ended: Ended) -> list[tuple[str, int]]:
    """(file, updates) of what a run said that it loaded."""
    found = re.findall(r"Loaded checkpoint (\S+) \(epoch \d+ @ (\d+) updates\)", ended.output)
    return [(Path(path).name, int(updates)) for path, updates in found]


def newest_update(folder: Path) -> int:
    """Updates of the newest set that counts, also one whose files still wait to be renamed."""
    counted = (".manifest.json", ".manifest.json.pending")
    files = [path for path in folder.glob("*") if path.name.endswith(counted)]
    manifests = [json.loads(path.read_text()) for path in files]
    return max((m["num_updates"] for m in manifests), default=0)


def same_updates(found: list[dict], first: int, expected: list[dict]) -> None:
    """``found`` are updates ``first``, ``first`` + 1, … of the run ``expected``, to the bit."""
    assert found == expected[first - 1 : first - 1 + len(found)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[[str], Recorder]:
    """``whole_run(layout)`` was never interrupted and saved nothing."""
    made: dict[str, Recorder] = {}

    def run(layout: str) -> Recorder:
        if layout not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[layout] = Recorder(folder / "rows", weights=True)
            arguments = (*LAYOUTS[layout], "--no-save", *COMMON, DONE)
            ranks = train_ranks(2, data, folder, *arguments, prepare=made[layout])
            assert [rank.status for rank in ranks] == [0, 0], ranks
            assert len(made[layout].rows()) == DONE
        return made[layout]

    return run


def a_kill(chance: random.Random) -> Kill:
    """Of one rank or all, at any step of the first two saves, at once or up to 3 ms later."""
    killer = chance.randrange(2)
    victims = chance.choice([(killer,), (killer,), (0, 1), (1, 0)])
    num_steps = (30, 10)[killer]  # a little more than a save has, so that the next is reached too
    delay = chance.choice([0.0, 0.0, chance.random() * 3e-3])
    return Kill(chance.choice([1, 2]), chance.randint(1, num_steps), killer, victims, delay)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kill_9_in_25_saves(
    tmp_path: Path, data: Path, whole_run: Callable[[str], Recorder], layout: str
) -> None:
    chance, expected = random.Random(layout), whole_run(layout).rows()
    folder, remember = tmp_path / "run", remember_settings(tmp_path)
    options = (*LAYOUTS[layout], *KEEP, *COMMON, DONE)
    hit: Counter[str] = Counter()
    for number in range(KILLS):
        saved = newest_update(folder)
        recorder, kill = Recorder(tmp_path / f"rows{number}"), a_kill(chance)

        def prepare(rank: int, kill: Kill = kill, recorder: Recorder = recorder) -> None:
            remember(rank)
            recorder(rank)
            kill.prepare(tmp_path)(rank)

        ranks = train_ranks(2, data, folder, *options, prepare=prepare)
        for rank, ended in enumerate(ranks):
            expected_status = -signal.SIGKILL if rank in kill.victims else 1
            assert ended.status == expected_status, (kill, ended.output)
            assert "Traceback" not in ended.output, ended.output
        # Killed before any save counted, it starts anew; ever after it goes on.
        assert [n for _, n in loaded(ranks[0])] == ([saved] if saved else []), (kill, ranks[0])
        same_updates(recorder.rows(), saved + 1, expected)
        assert len(recorder.rows()) > 0
        hit[f"rank {kill.killer} {step_hit(tmp_path, kill.killer)}"] += 1
    print(f"{layout}: {newest_update(folder)} updates; hit", dict(hit))  # noqa: T201
    assert len(hit) >= KILLS // 2, hit  # spread over the save
    saved, last = newest_update(folder), Recorder(tmp_path / "last", weights=True)
    assert KILLS // 2 < saved < DONE
    ranks = train_ranks(2, data, folder, *options, prepare=last)
    assert [rank.status for rank in ranks] == [0, 0], ranks
    same_updates(last.rows(), saved + 1, expected)
    assert last.rows()[-1] == expected[-1]
    whole = whole_run(layout).weights()
    assert all(tensor.equal(whole[name]) for name, tensor in last.weights().items())
    assert not [p for p in folder.iterdir() if p.suffix in (atomic.TEMPORARY_SUFFIX, ".pending")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run folder of 2 sharded ranks with the sets of updates 2 and 4, and checkpoint_last of 4."""
    folder = tmp_path_factory.mktemp("good") / "run"
    ranks = train_ranks(2, data, folder, *FSDP, "--save-interval-updates", 2, *COMMON, 4)
    assert [rank.status for rank in ranks] == [0, 0], ranks
    return folder


LAST = "checkpoint_last-shard1.pt"


def change(how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A spoiler of the newest set's second file, under all names of that save."""

    def spoil(folder: Path) -> None:
        path = folder / LAST
        content = how(path.read_bytes())
        path.unlink()  # the other names of the same bytes stay as they are
        path.write_bytes(content)

    return spoil


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def swap(folder: Path) -> None:
    first, second = folder / "checkpoint_last-shard0.pt", folder / LAST
    contents = first.read_bytes(), second.read_bytes()
    for path, content in zip((second, first), contents):
        path.unlink()
        path.write_bytes(content)


def manifest_of_another(folder: Path) -> None:
    shutil.copy(folder / "checkpoint_1_2.manifest.json", folder / "checkpoint_last.manifest.json")


SPOILERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (change(lambda content: content[:-1000]), LAST),
    "empty": (change(lambda content: b""), LAST),
    "one bit flipped": (change(flip), LAST),
    "swapped": (swap, r"checkpoint_last-shard[01]\.pt"),
    "missing": (lambda folder: (folder / LAST).unlink(), LAST),
    "no manifest": (
        lambda folder: (folder / "checkpoint_last.manifest.json").unlink(),
        r"checkpoint_last\.manifest\.json",
    ),
    "manifest of another set": (manifest_of_another, "checkpoint_last"),
}


def only_last_and_older(good: Path, folder: Path) -> Path:
    """A copy of ``good`` in which only checkpoint_last is of update 4; it is the newest."""
    shutil.copytree(good, folder)
    for path in folder.glob("checkpoint_1_4*"):
        path.unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILERS)
def test_a_damaged_set_is_named_and_skipped_only_when_asked(
    tmp_path: Path, data: Path, good: Path, name: str
) -> None:
    spoil, file = SPOILERS[name]
    folder = only_last_and_older(good, tmp_path / "run")
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("checkpoint*")}

    said_once(train_ranks(2, data, folder, *FSDP, *COMMON, 5), file, "--skip-damaged-checkpoints")
    assert {path.name: path.read_bytes() for path in folder.glob("checkpoint*")} == before

    options = (*FSDP, "--skip-damaged-checkpoints", "--no-save", *COMMON, 5)
    ranks = train_ranks(2, data, folder, *options)
    assert [rank.status for rank in ranks] == [0, 0], ranks
    assert [updates for _, updates in loaded(ranks[0])] == [2]
    assert re.search(f"skipped a damaged checkpoint: .*{file}", ranks[0].output)


@pytest.mark.slow
def test_nothing_whole_is_left(tmp_path: Path, data: Path, good: Path) -> None:
    """Of two damaged sets each is named, and asking to skip them is not answered by asking to skip."""
    folder = only_last_and_older(good, tmp_path / "run")
    for stem in ("checkpoint_last", "checkpoint_1_2"):
        (folder / f"{stem}-shard0.pt").unlink()
    ranks = train_ranks(2, data, folder, *FSDP, "--skip-damaged-checkpoints", *COMMON, 5)
    said_once(
        ranks, r"checkpoint_last-shard0\.pt .* is missing\. No other one in .* is whole, either"
    )
    assert "set --skip-damaged-checkpoints" not in ranks[0].output
    skipped = [line for r in ranks for line in r.output.splitlines() if "skipped a damaged" in line]
    assert len(skipped) == 2, skipped


@pytest.mark.slow
def test_a_file_is_missing_of_a_set_from_more_ranks(tmp_path: Path, data: Path, good: Path) -> None:
    folder = tmp_path / "run"
    reshard(good / "checkpoint_last.pt", folder, 2, 2)
    (folder / "checkpoint_last-model_part-1-shard1.pt").unlink()
    ranks = train_ranks(2, data, folder, *FSDP, *COMMON, 5)
    said_once(ranks, r"checkpoint_last-model_part-1-shard1\.pt must be .* is missing")


@pytest.mark.slow
def test_a_full_disk_leaves_the_set_before(tmp_path: Path, data: Path, good: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(good, folder)

    def fill_disk(rank: int) -> None:
        if rank == 1:  # for its files, there is room for less than one
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            half = (folder / LAST).stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))

    options = (*FSDP, "--save-interval-updates", 1, *COMMON)
    said_once(train_ranks(2, data, folder, *options, 6, prepare=fill_disk), r"shard1\.pt", "large")
    assert newest_update(folder) == 4
    assert not list(folder.glob(f"*{atomic.TEMPORARY_SUFFIX}"))
    ranks = train_ranks(2, data, folder, *options, 5)
    assert [rank.status for rank in ranks] == [0, 0], ranks
    assert [updates for _, updates in loaded(ranks[0])] == [4]


BAD_INPUT: dict[str, tuple[tuple[Any, ...], str]] = {
    "ranks": (("--model-parallel-size", 3), r"must divide the number of ranks \(2\), but is 3"),
    "heads": (
        ("--model-parallel-size", 2, "--decoder-attention-heads", 1),
        r"must divide `--decoder-attention-heads` \(1\), but is 2. Set one of 1\.",
    ),
    "criterion": (
        ("--model-parallel-size", 2, "--criterion", "cross_entropy"),
        "`--criterion` must be chunked_cross_entropy",
    ),
    "sharded state alone": (("--use-sharded-state",), "`--use-sharded-state` must come with"),
    "another size": (
        (*FSDP, "--decoder-embed-dim", 32, "--restore-file", "CHECKPOINT"),
        r"run/checkpoint_last\.pt, but has --decoder-embed-dim 32 instead of 16, .*Set --arch opt ",
    ),
    "no such checkpoint": (
        (*FSDP, "--restore-file", "nowhere/checkpoint_last.pt"),
        "`--restore-file` must name a checkpoint, but nowhere/checkpoint_last.pt does not exist",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_said_once(tmp_path: Path, data: Path, good: Path, name: str) -> None:
    options, sentence = BAD_INPUT[name]
    options = tuple(str(o).replace("CHECKPOINT", str(good / "checkpoint_last.pt")) for o in options)
    said_once(train_ranks(2, data, tmp_path / "run", *options, *COMMON, 2), sentence)


@pytest.mark.slow
def test_a_dictionary_that_does_not_divide(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", vocab_size=40)
    ended = train_ranks(
        3, data, tmp_path / "run", "--model-parallel-size", 3, "--decoder-embed-dim", 12,
        "--decoder-attention-heads", 3, *COMMON, 2,
    )  # fmt: skip
    said_once(ended, r"must divide the number of types in dict.txt \(40\), but is 3. Set one of")


@pytest.mark.slow
def test_files_of_two_layouts_under_one_name(tmp_path: Path, data: Path, good: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    assert train(data, tmp_path / "other", *COMMON, 1).status == 0
    shutil.copy(tmp_path / "other" / "checkpoint_last.pt", folder)
    # The manifest says which files belong to the set; the stranger is not one of them.
    ranks = train_ranks(2, data, folder, *FSDP, "--no-save", *COMMON, 5)
    assert [rank.status for rank in ranks] == [0, 0], ranks
    assert [updates for _, updates in loaded(ranks[0])] == [4]
    (folder / "checkpoint_last.manifest.json").unlink()
    said_once(train_ranks(2, data, folder, *FSDP, "--no-save", *COMMON, 5), "checkpoint_last")
