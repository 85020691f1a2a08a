"""An evaluation recorded chunk by chunk: killed anywhere and resumed, or on several ranks, it leaves the same bytes."""

import json
import random
import threading
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.evaluate.comparing import compare
from metaseq_plugin.evaluate.data_folder import DataFolder
from metaseq_plugin.evaluate.requests import PairAnswer, Prompt, Whole
from metaseq_plugin.evaluate.results import Results, items_of, read_results
from metaseq_plugin.evaluate.running import Asked, Plan, chunks, evaluate, prepare
from metaseq_plugin.evaluate.task import Options
from metaseq_plugin.layout.peers import ALONE, Ranks
from tests.evaluate.lookalike import (
    ROWS,
    FakeModel,
    TinyPairs,
    TinyTexts,
    Vowels,
    answer,
    write_data,
)

OPTIONS = Options(scorer=Vowels())
TOKENS = 25  # a chunk of pairs has few items


def read(folder: Path, options: Options = OPTIONS) -> list[Asked]:
    data = DataFolder(write_data(folder / "data"), False, lambda line: None)
    return [prepare(task, data, options) for task in (TinyPairs(), TinyTexts())]


def plan(output: Path, **changes: Any) -> Plan:
    about = {"limit": None, "seed": 1, "scorer": dict(Vowels.about), "shots": None}
    return Plan(OPTIONS, about, {"torch": "2"}, {}, output, TOKENS, False)._replace(**changes)


@pytest.fixture
def asked(tmp_path: Path) -> list[Asked]:
    return read(tmp_path)


def whole(asked: list[Asked], folder: Path) -> tuple[bytes, bytes]:
    """Results and items of a run that nothing stopped."""
    folder.mkdir()
    assert evaluate(asked, FakeModel(), plan(folder / "out.json"), ALONE) is not None
    return (folder / "out.json").read_bytes(), (folder / "out.items.jsonl").read_bytes()


def test_the_figures_and_counts(asked: list[Asked], tmp_path: Path) -> None:
    results = evaluate(asked, FakeModel(), plan(tmp_path / "out.json"), ALONE)
    assert results is not None
    pairs, texts = results.tasks["tiny-pairs"], results.tasks["tiny-texts"]
    found = [[answer(request) for request in item.requests] for item in asked[0].items]
    wins = [100.0 * (a.log_likelihood > b.log_likelihood) for a, b in found]  # type: ignore[union-attr]
    assert (pairs.n, texts.n) == (len(ROWS), len(ROWS))
    assert pairs.measures[0].value == sum(wins) / len(wins)
    assert [measure.group for measure in pairs.measures] == ["overall", "even", "odd"]
    flat = [one for both in found for one in both if isinstance(one, PairAnswer)]
    assert pairs.ncut == sum(one.ncut > 0 for one in flat) > 0
    assert pairs.nmerged == sum(one.is_merged for one in flat) == 10
    assert pairs.data == {"pairs/pairs.jsonl": TinyPairs.files[0].sha256}
    assert read_results(tmp_path / "out.json") == results


def test_chunks_hold_all_items_in_order_and_about_a_batch(asked: list[Asked]) -> None:
    work = list(chunks(asked, TOKENS))
    names = [name for chunk in work for name in chunk.names()]
    assert names == [(one.task.name, item.id) for one in asked for item in one.items]
    assert len(work) > 10
    assert len({chunk.asked.task.name for chunk in work}) == 2
    assert len(list(chunks(asked, 10**9))) == 2


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_and_resumed_it_leaves_the_same_bytes(
    asked: list[Asked], tmp_path: Path, seed: int
) -> None:
    expected = whole(asked, tmp_path / "whole")
    draw, output = random.Random(seed), tmp_path / "out.json"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            evaluate(asked, FakeModel(stop_after=draw.randint(0, 3)), plan(output), ALONE)
        assert not output.exists()
        if items_of(output).exists():  # a SIGKILL cuts a line anywhere
            content = items_of(output).read_bytes()
            items_of(output).write_bytes(content[: draw.randint(0, len(content))])
    assert evaluate(asked, FakeModel(), plan(output), ALONE) is not None
    assert (output.read_bytes(), items_of(output).read_bytes()) == expected
    again = FakeModel()
    assert evaluate(asked, again, plan(output), ALONE) is not None
    assert not again.asked, "all is recorded"
    assert (output.read_bytes(), items_of(output).read_bytes()) == expected


def test_a_resumed_run_asks_the_chunks_that_the_first_one_would_have_asked(
    asked: list[Asked], tmp_path: Path
) -> None:
    """So their batches, and with them the last bits of floating point, are the same."""
    undisturbed = FakeModel()
    evaluate(asked, undisturbed, plan(tmp_path / "a.json"), ALONE)
    output, first = tmp_path / "b.json", FakeModel(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, first, plan(output), ALONE)
    lines = items_of(output).read_bytes().splitlines(keepends=True)
    items_of(output).write_bytes(b"".join(lines[:-1]))  # the third chunk is not whole
    second = FakeModel()
    evaluate(asked, second, plan(output), ALONE)
    assert second.asked == undisturbed.asked[2:]


class Threads(Ranks):
    """Ranks that are threads; one that has failed breaks the barrier for all."""

    def __init__(self, rank: int, barrier: threading.Barrier, values: list[Any]) -> None:
        self.rank, self.size = rank, barrier.parties
        self.barrier_, self.values = barrier, values

    def all_gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier_.wait()
        found = list(self.values)
        self.barrier_.wait()
        return found


def on_ranks(
    asked: list[Asked], output: Path, models: list[FakeModel]
) -> list[Optional[Results | BaseException]]:
    """What each rank returned or raised."""
    barrier, values = threading.Barrier(len(models)), [None] * len(models)
    ended: list[Any] = [None] * len(models)

    def run(rank: int) -> None:
        try:
            ranks = Threads(rank, barrier, values)
            ended[rank] = evaluate(asked, models[rank], plan(output), ranks)
        except (KeyboardInterrupt, threading.BrokenBarrierError) as error:
            ended[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(models))]
    for thread in threads:
        thread.start()
    while alive := sum(thread.is_alive() for thread in threads):
        if alive < len(threads) and barrier.n_waiting == alive:  # they wait for one that has ended
            barrier.abort()
        time.sleep(0.01)
    return ended


def test_ranks_share_the_work_and_leave_the_same_bytes(asked: list[Asked], tmp_path: Path) -> None:
    expected = whole(asked, tmp_path / "whole")
    output, models = tmp_path / "out.json", [FakeModel() for _ in range(3)]
    first, *others = on_ranks(asked, output, models)
    assert isinstance(first, Results)
    assert others == [None, None]
    assert min(len(model.asked) for model in models) >= 3
    assert (output.read_bytes(), items_of(output).read_bytes()) == expected
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.items.jsonl", "out.json"]


def test_what_ranks_of_a_killed_run_have_recorded_is_taken_over(
    asked: list[Asked], tmp_path: Path
) -> None:
    expected = whole(asked, tmp_path / "whole")
    output = tmp_path / "out.json"
    ended = on_ranks(asked, output, [FakeModel(stop_after=2), FakeModel(), FakeModel(stop_after=1)])
    assert isinstance(ended[0], KeyboardInterrupt)
    assert (tmp_path / "out.items.rank1.jsonl").exists()
    alone = FakeModel()
    evaluate(asked, alone, plan(output), ALONE)
    total = len(list(chunks(asked, TOKENS)))
    assert len(alone.asked) == total - 2 - (total + 1) // 3 - 1
    assert (output.read_bytes(), items_of(output).read_bytes()) == expected
    assert not list(tmp_path.glob("out*rank*"))


@pytest.mark.parametrize(
    ("changes", "fingerprint", "said"),
    [
        ({"about": {"limit": None, "seed": 2, "scorer": {}, "shots": None}}, "f00", "differs in options scorer, options seed"),
        ({}, "f01", "differs in model fingerprint"),
        ({"batch_tokens": 7}, "f00", "differs in batch_tokens"),
        ({"versions": {"torch": "3"}}, "f00", "differs in versions torch"),
    ],
)  # fmt: skip
def test_records_of_something_else_are_refused(
    asked: list[Asked], tmp_path: Path, changes: dict[str, Any], fingerprint: str, said: str
) -> None:
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, FakeModel(stop_after=1), plan(output), ALONE)
    before = items_of(output).read_bytes()
    with pytest.raises(UserError, match=f"{said}. Set another --output, or --fresh"):
        evaluate(asked, FakeModel(fingerprint), plan(output, **changes), ALONE)
    assert items_of(output).read_bytes() == before
    fresh = plan(output, fresh=True, **changes)
    assert evaluate(asked, FakeModel(fingerprint), fresh, ALONE) is not None


def test_a_model_that_was_moved_is_the_same_one(asked: list[Asked], tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    evaluate(asked, FakeModel(), plan(output), ALONE)
    moved = FakeModel()
    moved.about = {**moved.about, "path": "elsewhere/", "checkpoint": "elsewhere/best.pt"}
    evaluate(asked, moved, plan(output), ALONE)
    assert not moved.asked
    served = FakeModel()
    served.about = {**served.about, "fingerprint": None, "path": "http://a"}
    evaluate(asked, served, plan(output, fresh=True), ALONE)
    served.about = {**served.about, "path": "http://b"}
    with pytest.raises(UserError, match="differs in model path"):
        evaluate(asked, served, plan(output), ALONE)


def test_other_items_are_refused_and_more_tasks_are_not(asked: list[Asked], tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    evaluate(asked[:1], FakeModel(), plan(output), ALONE)
    fewer = asked[0]._replace(items=asked[0].items[:3])
    with pytest.raises(UserError, match="differs in tasks tiny-pairs items"):
        evaluate([fewer], FakeModel(), plan(output), ALONE)
    with pytest.raises(UserError, match="differs in tasks tiny-pairs"):
        evaluate(asked[1:], FakeModel(), plan(output), ALONE)
    model = FakeModel()
    evaluate(asked, model, plan(output), ALONE)
    assert model.asked == [[r for item in chunk.items for r in item.requests] for chunk in chunks(asked[1:], TOKENS)]  # fmt: skip
    assert (output.read_bytes(), items_of(output).read_bytes()) == whole(asked, tmp_path / "whole")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello\n", "has something else in line 1"),
        (b"hello", "has something else in line 1"),
        (b'{"id": "a", "ncut": 0, "nmerged": 0, "record": {}, "task": "t"}\n', "something else in line 1"),
        (b'{"header": {}}\n{"id": "a", "ncut": "x", "nmerged": 0, "record": {}, "task": "t"}\n', "something else in line 2"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left_as_it_is(
    asked: list[Asked], tmp_path: Path, content: bytes, said: str
) -> None:
    output = tmp_path / "out.json"
    items_of(output).write_bytes(content)
    with pytest.raises(UserError, match=said):
        evaluate(asked, FakeModel(), plan(output), ALONE)
    assert items_of(output).read_bytes() == content
    assert evaluate(asked, FakeModel(), plan(output, fresh=True), ALONE) is not None


def test_a_record_that_is_no_number_is_refused(asked: list[Asked], tmp_path: Path) -> None:
    class Broken(FakeModel):
        def answer(self, requests: Any) -> Any:
            for index, found in super().answer(requests):
                assert isinstance(found, PairAnswer)
                yield index, found._replace(log_likelihood=float("nan"))

    with pytest.raises(
        UserError, match="must answer tiny-pairs with finite numbers, but row-0 is not"
    ):
        evaluate(asked[:1], Broken(), plan(tmp_path / "out.json"), ALONE)


def test_what_the_model_cannot_answer_is_refused_before_it_is_asked(
    asked: list[Asked], tmp_path: Path
) -> None:
    """The last task has what cannot be answered: nothing of the first is asked, and no file is left."""

    class Short(FakeModel):
        def obstacle(self, request: Any) -> Optional[str]:
            return "it writes too much" if isinstance(request, Prompt) else None

    model = Short()
    with pytest.raises(UserError) as refused:
        evaluate(asked, model, plan(tmp_path / "out.json"), ALONE)
    assert str(refused.value) == (
        "`TASK` must be one that the model can answer, but of tiny-texts, item text-0, it writes too much. "
        "Name other tasks, or set a model that reads more."
    )
    assert model.asked == []
    assert not items_of(tmp_path / "out.json").exists()
    assert evaluate(asked[:1], model, plan(tmp_path / "out.json"), ALONE) is not None


def test_how_a_model_reads_whole_texts_is_in_the_protocol(
    asked: list[Asked], tmp_path: Path
) -> None:
    (item, *_) = asked[0].items
    texts = asked[0]._replace(items=[item._replace(requests=(Whole("one"), Whole("two")))])

    class Reader(FakeModel):
        def __init__(self, whole: str) -> None:
            super().__init__()
            self.about = {**self.about, "whole": whole}

        def answer(self, requests: Any) -> Any:
            return enumerate(PairAnswer(-1.0 - n, 1, False) for n in range(len(requests)))

    found = []
    for whole in ("windows", "one piece"):
        results = evaluate([texts], Reader(whole), plan(tmp_path / f"{whole}.json"), ALONE)
        assert results is not None
        found.append(results)
    assert found[0].tasks["tiny-pairs"].protocol == {**asked[0].protocol, "whole": "windows"}
    with pytest.raises(UserError, match="differ in protocol whole"):
        compare(["a", "b"], found)


def test_the_limit_takes_the_first_items(tmp_path: Path) -> None:
    (pairs, _) = read(tmp_path, OPTIONS.__class__(limit=3, scorer=Vowels()))
    assert [item.id for item in pairs.items] == ["row-0", "row-1", "row-2"]


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    row = {"id": "same", "more": "a", "less": "b"}
    data = DataFolder(write_data(tmp_path / "data", [row, row]), True, lambda line: None)
    with pytest.raises(
        UserError, match="must hold each item of tiny-pairs once, but same is there"
    ):
        prepare(TinyPairs(), data, OPTIONS)


def test_results_have_neither_time_nor_host(asked: list[Asked], tmp_path: Path) -> None:
    evaluate(asked, FakeModel(), plan(tmp_path / "out.json"), ALONE)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content.keys() == {
        "format",
        "model",
        "options",
        "versions",
        "tasks",
        "order",
        "left_out",
    }
    assert list(content) == sorted(content)
