"""A start says ten lines and no more; a refusal stands alone; the configuration is kept in files."""

import math
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metaseq_plugin.distributed.start_report import CONFIGURATION
from tests.fairseq_runs import Ended, run_fairseq, train, training_arguments, write_data
from tests.rank_runs import train_ranks

FSDP = ("--ddp-backend", "fully_sharded", "--use-sharded-state")
PARAMETERS = (
    40 * 16 + 2050 * 16 + 2 * (4 * (16 * 16 + 16) + 2 * 64 * 16 + 64 + 16 + 4 * 16) + 2 * 16
)
STOCK = (
    "--task", "language_modeling", "--arch", "transformer_lm_gpt2_tiny", "--criterion", "cross_entropy",
    "--optimizer", "adam",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("start") / "data")


def started(ended: Ended) -> list[str]:
    """What is said before the first update, without the time and the logger."""
    assert ended.status == 0, ended.output
    lines = ended.said.split("begin training epoch")[0].splitlines()[:-1]
    return [line.rsplit(" | ", 1)[-1] for line in lines]


def test_a_start_is_short_and_says_what_matters(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "all.log"  # a folder that is not there yet
    options = (
        "--max-update",
        2,
        "--update-freq",
        3,
        "--save-interval-updates",
        2,
        "--log-file",
        log,
    )
    ended = train(data, tmp_path / "run", *options)
    versions, *lines, peak, energy = started(ended)
    # Two bytes a token; the last one is a target only.
    sizes = {split: (data / f"{split}.bin").stat().st_size // 2 for split in ("train", "valid")}
    blocks = {split: math.ceil((tokens - 1) / 32) for split, tokens in sizes.items()}
    pattern = r"versions   metaseq-plugin [\d.]+, fairseq 0.12.2, torch 2\.\S+, Python 3\.\d+\.\d+"
    assert re.fullmatch(pattern, versions)
    assert lines == [
        f"model      opt: 2 layers × 16 wide × 2 heads, {PARAMETERS:,} parameters",
        f"data       {data}: train {blocks['train']}, valid {blocks['valid']} blocks",
        "batch      at most 4 rows a rank × 1 data-parallel rank × --update-freq 3: up to 384 tokens an update",
        "precision  fp32 on cpu",
        "optimizer  adamw, --lr 0.01 with schedule fixed, until update 2",
        "starts     at update 0, in epoch 1",
        f"saves      in {tmp_path}/run, every 2 updates and after epochs; all options in its config.yaml",
    ]
    assert re.fullmatch(r"peak       [\d.]+ TFLOP/s a device in fp32 \(measured product\)", peak)
    assert re.match(r"energy     (measured|estimated): ", energy)
    assert "Start iterating" not in ended.output
    kept = log.read_text()
    assert "'sample_break_mode': " in kept
    assert "(embed_tokens): Embedding(40, 16" in kept
    assert "model      opt: 2 layers" in kept


@pytest.mark.slow
def test_the_configuration_is_that_of_the_latest_start(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", "--max-update", 1)
    ended = train(data, tmp_path / "run", "--max-update", 2, "--weight-decay", 0.3)
    assert "starts     at update 1, in epoch 1" in started(ended)
    cfg = OmegaConf.load(tmp_path / "run" / CONFIGURATION)
    assert (cfg.optimization.max_update, cfg.optimizer.weight_decay) == (2, 0.3)
    assert (cfg.model._name, cfg.model.decoder_ffn_embed_dim) == ("opt", 64)
    assert cfg.optimizer.lr == cfg.optimization.lr == [0.01]
    assert cfg.task.data == str(data)


@pytest.mark.slow
def test_a_refusal_stands_alone(data: Path, tmp_path: Path) -> None:
    ended = train(data, tmp_path / "run", "--lr", -1)
    assert ended.status == 2
    assert ended.said == (
        "fairseq-train: error: `--lr` must be at least 0, but is -1.0. OPT-125M's is 6e-4.\n"
    )
    assert not (tmp_path / "run" / CONFIGURATION).exists()


@pytest.mark.slow
def test_without_saving_there_is_no_configuration(data: Path, tmp_path: Path) -> None:
    ended = train(data, tmp_path / "run", "--max-update", 1, "--no-save")
    assert "saves      nothing (--no-save)" in started(ended)
    assert not (tmp_path / "run" / CONFIGURATION).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "options", "layout", "precision"),
    [
        (1, (*FSDP, "--bf16"), "", "bf16"),
        (2, FSDP, "2 = 2 data-parallel (fully_sharded) × 1 model part", "fp32"),
        (2, ("--model-parallel-size", 2), "2 = 1 data-parallel (pytorch_ddp) × 2 model parts", "fp32"),
    ],
)  # fmt: skip
def test_the_whole_model_is_counted_however_it_is_cut(
    data: Path, tmp_path: Path, ranks: int, options: tuple, layout: str, precision: str
) -> None:
    options = (*options, "--max-update", 1, "--disable-validation")
    run = tmp_path / "run"
    first, *others = (
        [train(data, run, *options)] if ranks == 1 else train_ranks(ranks, data, run, *options)
    )
    said = dict(line.split(maxsplit=1) for line in started(first) if line[:1].islower())
    model = said["model"].partition(": ")[2]
    pattern = rf"2 layers × 16 wide × 2 heads, {PARAMETERS:,} parameters" + (
        r", of which rank 0 holds ([\d,]+)" if ranks > 1 else ""
    )
    match = re.fullmatch(pattern, model)
    assert match is not None, model
    if ranks > 1:
        assert PARAMETERS / 2 <= int(match[1].replace(",", "")) < PARAMETERS
        assert said["ranks"] == layout
    assert said["precision"] == f"{precision} on cpu"
    assert OmegaConf.load(run / CONFIGURATION).common.bf16 == (precision == "bf16")
    assert not any("versions" in other.output for other in others)


@pytest.mark.slow
def test_fairseqs_models_start_as_ever(data: Path, tmp_path: Path) -> None:
    arguments = training_arguments(data, tmp_path / "run", *STOCK, "--max-update", 1)
    dropped = arguments.index("--arch") + 2, arguments.index("--decoder-attention-heads") + 2
    del arguments[dropped[0] : dropped[1]]
    del arguments[arguments.index("--arch") : arguments.index("--arch") + 2]
    ended = run_fairseq("train", *arguments, log_dir=tmp_path)
    assert ended.status == 0, ended.output
    for said in (
        "{'_name': None, 'common': ",
        "num. shared model params: ",
        "TransformerLanguageModel(",
    ):
        assert said in ended.output
    assert "versions   " not in ended.output
    assert not (tmp_path / "run" / CONFIGURATION).exists()
