"""``--measured RUN``: the rate of a real run, and what a folder that does not say is answered."""

import statistics
from pathlib import Path

import pytest

from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.plan.measured import SPEED, measured, vocabulary
from metaseq_plugin.ledger.flops import model_flops
from metaseq_plugin.sizes import SIZES, OPTSize
from tests.fairseq_runs import train, write_data
from tests.launch.plan.plans import plan

VOCAB = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    data = write_data(folder / "data", vocab_size=VOCAB)
    ended = train(
        data, folder / "run", "--max-update", 8, "--log-interval", 1, "--log-format", "json",
        "--log-file", folder / "run/log.jsonl", "--checkpoint-activations", "--disable-validation",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    return folder / "run"


def logged(run: Path) -> list[float]:
    return [float(found) for found in SPEED.findall((run / "log.jsonl").read_text())]


def test_the_rate_is_the_runs_own(run: Path) -> None:
    """The model of ``fairseq_runs.py``: 2 layers of 16, 32 tokens, its own vocabulary; recomputed."""
    flops = model_flops(OPTSize(layers=2, embed_dim=16, heads=2), 32, VOCAB).hardware(True)
    speed = statistics.median(logged(run)[1:])
    rate = measured(run)
    assert rate.flops == pytest.approx(speed * flops)
    assert rate.source == f"{run}: {speed:,.0f} tokens/s, median of 7, 1 rank on cpu"


def test_the_same_run_is_predicted_to_take_as_long(run: Path) -> None:
    result = plan(
        "--arch opt --decoder-layers 2 --decoder-embed-dim 16 --decoder-attention-heads 2 --gpus 1 --cpu "
        f"--tokens-per-sample 32 --vocab-size {VOCAB} --batch-size 4 --update-freq 1 --tokens 1M "
        f"--checkpoint-activations --measured {run}"
    )
    assert result.time.tokens_per_second == pytest.approx(statistics.median(logged(run)[1:]))
    assert result.energy is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("125m", 125_239_296), ("350m", 331_196_416), ("175b", 174_604_468_224)],
)
def test_the_vocabulary_follows_from_the_parameters(name: str, parameters: int) -> None:
    assert vocabulary(SIZES[name], parameters, position_rows=2050) == 50_272


def test_lines_of_both_formats_and_no_others() -> None:
    text = '{"wps": "4614.7"} wps=12.5, valid_wps=3 "train_wps": "4" "valid_wps": "5" wpb=6'
    assert SPEED.findall(text) == ["4614.7", "12.5"]


def test_what_a_folder_can_lack(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.yaml does not exist. Name a --save-dir."):
        measured(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text("a: [")
    with pytest.raises(UserError, match=r"config.yaml can be read, but"):
        measured(tmp_path)
    config.write_text("- a")
    with pytest.raises(UserError, match=r"must hold the options of a run"):
        measured(tmp_path)
    config.write_text((run / "config.yaml").read_text().replace(str(run), str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"must name a run with a log"):
        measured(tmp_path)
    (tmp_path / "launch/logs").mkdir(parents=True)
    (tmp_path / "launch/logs/rank-0.log").write_text("nothing yet\n")
    with pytest.raises(UserError, match=r"rank-0.log holds no wps"):
        measured(tmp_path)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("_name: transformer_lm", "tokens_per_sample: 32"),
        ("_name: opt_125m", "tokens_per_sample: 32"),
        ("_name: opt_125m, decoder_max_positions: 9", "data: x"),
        ("_name: opt_125m, decoder_max_positions: 9, dropout: 0, checkpoint_activations: no", "tokens_per_sample: null"),
    ],
)  # fmt: skip
def test_a_run_of_something_else(model: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"common: {{}}\ndistributed_training: {{distributed_world_size: 1}}\nmodel: {{{model}}}\ntask: {{{task}}}\n"
    )
    (tmp_path / "launch/logs").mkdir(parents=True)
    (tmp_path / "launch/logs/rank-0.log").write_text("wps=10\nwps=12\n")
    with pytest.raises(UserError, match=r"must name a run of an OPT, but .*config.yaml is of none"):
        measured(tmp_path)
