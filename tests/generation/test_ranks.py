"""A model over several ranks gives what it gives on one, however it lies on disk, and says which rank is lost."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from metaseq_plugin.checkpoint.reshard import reshard
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.formats.fairseq import FAIRSEQ_CHECKPOINT
from metaseq_plugin.generation.batch import Batch, Request
from metaseq_plugin.generation.likelihood import likelihoods
from metaseq_plugin.generation.ranks import uninterrupted
from metaseq_plugin.generation.settings import Settings
from metaseq_plugin.hub import OPT
from metaseq_plugin.launch.decoding_ranks import DecodingRanks
from metaseq_plugin.launch.started_ranks import ended
from metaseq_plugin.layout.cuts import model_parallel_dim
from metaseq_plugin.models.opt import OPTLanguageModel
from tests.decoding_runs import counting_elements, on_ranks, save_hf
from tests.fairseq_runs import run_fairseq, write_data
from tests.formats.folders import run_convert, write_hf
from tests.generation.test_generator import random_prompts
from tests.opt_models import KINDS
from tests.rank_runs import train_ranks

VOCAB_SIZE = 40
SETTINGS = [
    Settings(temperature=0.0),
    Settings(seed=1),
    Settings(seed=2, temperature=0.7, top_p=0.9, num_samples=2),
    Settings(seed=3, top_k=5, with_prompt_scores=True),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in all that it can lie in, by kind, and one of the 350M's kind."""
    folder = tmp_path_factory.mktemp("sources")
    made = {"hf": save_hf(folder / "hf", VOCAB_SIZE, 0.3, **KINDS["pre-norm"])}
    made["350m"] = save_hf(folder / "350m", VOCAB_SIZE, 0.3, **KINDS["350m"])
    made["one file"], made["metaseq's parts"] = folder / "file", folder / "metaseq"
    run_convert(made["hf"], made["one file"], "--to", "fairseq")
    run_convert(made["hf"], made["metaseq's parts"], "--to", "metaseq", "--model-parallel-size", 2)
    made["set of 2 x 2"] = folder / "set"
    reshard(made["one file"] / FAIRSEQ_CHECKPOINT, made["set of 2 x 2"], 2, 2)
    return made


def mixed_batch(opt: OPT, count: int = 16, new_tokens: int = 12) -> list[list[int]]:
    """``count`` prompts of several settings, which join in four steps; the tokens of every row."""
    prompts = random_prompts(count, 9, VOCAB_SIZE)
    requests = [
        Request(prompt, new_tokens + number % 3, SETTINGS[number % len(SETTINGS)])
        for number, prompt in enumerate(prompts)
    ]
    batch = Batch([opt.model], opt.dictionary.pad(), opt.dictionary.eos())
    rows = []
    for first in range(0, count, count // 4):
        rows += batch.admit(requests[first : first + count // 4])
        batch.step()
    while batch.rows:
        batch.step()
    return [row.tokens for row in rows]


def everything(opt: OPT) -> Any:
    """What the hub can do with a model."""
    prompts = random_prompts(5, 9, VOCAB_SIZE)
    return (
        mixed_batch(opt),
        [c.tokens for found in opt.generate(prompts, 6, beam=3) for c in found],
        [*(scored.scores for scored in opt.score(prompts)), *ends(opt, prompts)],
    )


def ends(opt: OPT, prompts: list[list[int]]) -> list[list[float]]:
    """What the last tokens of rows score that share a beginning, or a part of it."""
    shared = prompts[0] + prompts[1][1:] + prompts[2][1:]
    rows = [[*shared[: len(shared) - n], 5 + n % 3, 7] for n in range(6)]
    found = dict(likelihoods(opt.generator, rows, [2] * len(rows)))
    return [found[number].scores for number in range(len(rows))]


def assert_same(found: Any, expected: Any) -> None:
    assert found[:2] == expected[:2]
    for one, other in zip(found[2], expected[2], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("source", "num_ranks"),
    [
        ("set of 2 x 2", 2),
        ("set of 2 x 2", 4),
        ("one file", 2),
        ("metaseq's parts", 4),
        ("hf", 2),
        ("350m", 2),
        ("350m", 4),
    ],
)
def test_several_ranks_give_what_one_gives(
    sources: dict[str, Path], tmp_path: Path, source: str, num_ranks: int
) -> None:
    expected = everything(OPT.from_pretrained(sources[source]))
    statuses, found, printed = on_ranks(num_ranks, sources[source], everything, tmp_path / "ranks")
    assert statuses == [0] * num_ranks, printed
    assert_same(found, expected)
    assert len({token for tokens in found[0] for token in tokens}) > 10


@pytest.mark.slow
def test_of_a_run_in_two_parts(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", VOCAB_SIZE)
    options = ("--max-update", 4, "--init-std", 0.3, "--decoder-attention-heads", 4,
               "--model-parallel-size", 2)  # fmt: skip
    trained = train_ranks(2, data, tmp_path / "run", *options)
    assert [rank.status for rank in trained] == [0, 0], trained
    expected = everything(OPT.from_pretrained(tmp_path / "run"))
    for num_ranks in (2, 4):
        folder = tmp_path / str(num_ranks)
        statuses, found, printed = on_ranks(num_ranks, tmp_path / "run", everything, folder)
        assert statuses == [0] * num_ranks, printed
        assert_same(found, expected)


@pytest.mark.slow
def test_of_the_size_of_125m(tmp_path: Path) -> None:
    shape = dict(
        decoder_layers=12, decoder_embed_dim=768, decoder_attention_heads=12,
        decoder_ffn_embed_dim=3072, decoder_max_positions=64,
    )  # fmt: skip
    # With smaller weights all tokens are about as likely, and a draw is decided by the last bits.
    path = save_hf(tmp_path / "hf", 50_272, 0.2, **shape)

    def tokens(opt: OPT) -> list[list[int]]:
        return mixed_batch(opt, new_tokens=6)

    expected = tokens(OPT.from_pretrained(path))
    for num_ranks in (2, 4):
        statuses, found, printed = on_ranks(num_ranks, path, tokens, tmp_path / str(num_ranks))
        assert statuses == [0] * num_ranks, printed
        assert found == expected


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_each_rank_holds_its_part(
    sources: dict[str, Path], tmp_path: Path, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {n: p.numel() for n, p in OPT.from_pretrained(sources["hf"]).model.named_parameters()}
    monkeypatch.setattr(DecodingRanks, "take_places", counting_elements(tmp_path))
    on_ranks(num_ranks, sources["hf"], lambda opt: None, tmp_path / "ranks")
    for rank in range(num_ranks):
        held = pickle.loads((tmp_path / f"elements{rank}.pickle").read_bytes())
        assert held.keys() == whole.keys()
        for name, count in whole.items():
            parts = 1 if model_parallel_dim(name) is None else num_ranks
            assert held[name] * parts == count, name


def kill_the_other(opt: OPT) -> None:
    """Once both ranks generate, end this one without a word."""
    opt.generate([[5, 6]], 3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_others_end_with_rank_0(sources: dict[str, Path], tmp_path: Path) -> None:
    started = time.monotonic()
    statuses, _, printed = on_ranks(2, sources["hf"], kill_the_other, tmp_path / "ranks")
    assert statuses == [-signal.SIGKILL, 1]
    assert time.monotonic() - started < 20
    assert "Another rank of this run ended, so this one must" in printed[1]
    assert "Traceback" not in printed[1]


def test_a_mistake_is_rank_0s_to_say(sources: dict[str, Path], tmp_path: Path) -> None:
    statuses, _, printed = on_ranks(3, sources["hf"], everything, tmp_path / "ranks")
    assert statuses[1:] == [2, 2]
    assert (
        "`--model-parallel-size` must divide the model's attention heads (4), but is 3"
        in printed[0]
    )
    assert printed[1:] == ["", ""]


def test_rows_of_users_mistakes_leave_the_ranks_in_step(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    def scenario(opt: OPT) -> Any:
        layer: Any = opt.model.decoder.layers[0]
        before = layer.fc2.bias.clone()
        with torch.inference_mode(False):
            layer.fc2.bias.fill_(torch.inf)
        said = ""
        try:
            opt.generate([[5, 6]], 3, temperature=0.0)
        except UserError as error:
            said = str(error)
        with torch.inference_mode(False):
            layer.fc2.bias.copy_(before)
        return said, everything(opt)

    statuses, found, printed = on_ranks(2, sources["hf"], scenario, tmp_path / "ranks")
    assert statuses == [0, 0], printed
    assert "logits must be finite" in found[0]
    assert_same(found[1], everything(OPT.from_pretrained(sources["hf"])))


def test_what_rank_0_forgets_is_forgotten(sources: dict[str, Path], tmp_path: Path) -> None:
    def scenario(opt: OPT) -> int:
        for _ in range(5):
            opt.generate([[5, 6]], 3)
        leader = opt.ranks.leader
        assert leader is not None
        assert leader.count >= 5
        return len(leader.numbers)

    statuses, held, printed = on_ranks(2, sources["hf"], scenario, tmp_path / "ranks")
    assert statuses == [0, 0], printed
    assert held == 0


def test_calls_come_from_any_thread(sources: dict[str, Path], tmp_path: Path) -> None:
    def scenario(opt: OPT) -> Any:
        found: dict[int, Any] = {}

        def work(number: int) -> None:
            found[number] = [c[0].tokens for c in opt.generate([[5, number]], 8, seed=number)]

        threads = [threading.Thread(target=work, args=(number,)) for number in (6, 7, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    _, found, printed = on_ranks(2, sources["hf"], scenario, tmp_path / "ranks")
    one = OPT.from_pretrained(sources["hf"])
    expected = {n: [c[0].tokens for c in one.generate([[5, n]], 8, seed=n)] for n in (6, 7, 8)}
    assert found == expected, printed


def test_ctrl_c_waits_for_the_end_of_an_exchange() -> None:
    reached = []

    def interrupted() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end"]


def test_idle_ranks_use_no_processor(sources: dict[str, Path], tmp_path: Path) -> None:
    def scenario(opt: OPT) -> float:
        opt.generate([[5, 6]], 3)
        other = int((tmp_path / "pid").read_text())
        before = processor_seconds(other)
        time.sleep(2.0)
        return processor_seconds(other) - before

    def noting(ranks: DecodingRanks, models: list[OPTLanguageModel]) -> None:
        if ranks.peers.rank == 1:
            (tmp_path / "pid").write_text(str(os.getpid()))
        take_places(ranks, models)

    take_places = DecodingRanks.take_places
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodingRanks, "take_places", noting)
        statuses, used, printed = on_ranks(2, sources["hf"], scenario, tmp_path / "ranks")
    assert statuses == [0, 0], printed
    assert used < 0.2


def processor_seconds(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"model_parallel_size": 0}, "`--model-parallel-size` must be at least 1, but is 0"),
        ({"model_parallel_size": 2, "device": "cpu:1"}, "`--device` must be cpu or cuda"),
        ({"model_parallel_size": 2, "device": "meta"}, "`--device` must be cpu or cuda"),
    ],
)
def test_refused_before_anything_starts(tmp_path: Path, asked: Any, sentence: str) -> None:
    write_hf(tmp_path)
    with pytest.raises(UserError, match=sentence):
        OPT.from_pretrained(tmp_path, **asked)


def test_more_parts_than_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hf(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"must be at most the number of GPUs \(1\), but is 2"):
        OPT.from_pretrained(tmp_path, device="cuda", model_parallel_size=2)


def test_another_number_than_torchrun_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hf(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match=r"must be the number of ranks that are there \(4\)"):
        OPT.from_pretrained(tmp_path, device="cpu", model_parallel_size=2)


def test_words_for_a_rank_that_ended() -> None:
    assert "rank 1 ended by SIGKILL. See" in ended(1, 2, -signal.SIGKILL)
    assert "All 4 ranks that hold the model must run, but rank 3 ended with status 1." in ended(
        3, 4, 1
    )


@pytest.mark.parametrize("command", ["generate", "interactive"])
def test_fairseqs_commands_refuse_parts(
    sources: dict[str, Path], tmp_path: Path, command: str
) -> None:
    data = write_data(tmp_path / "data", VOCAB_SIZE)
    done = run_fairseq(
        command, data, "--user-dir", "metaseq_plugin", "--task", "opt_language_modeling", "--path",
        sources["one file"] / FAIRSEQ_CHECKPOINT, "--model-parallel-size", 2, "--cpu",
        log_dir=tmp_path,
    )  # fmt: skip
    assert done.status == 2, done.output
    assert done.last_line.startswith(
        f"fairseq-{command}: error: `--model-parallel-size` must be left out with fairseq-generate"
    )
