"""``metaseq plan``: the screen, the JSON, what it refuses, and that it takes neither torch nor fairseq."""

import json
import re
import subprocess
from typing import Any, Callable

import pytest

from metaseq_plugin.cli import main
from metaseq_plugin.compat.errors import UserError
from metaseq_plugin.launch.plan.options import read_count
from metaseq_plugin.launch.plan.report import lines
from metaseq_plugin.launch.rank_bytes import LAYOUTS
from metaseq_plugin.sizes import SIZES
from tests.launch.plan.plans import OPT_175B, plan

A_SIZE = "--arch opt_125m --gpus 8 --gpu a100-80gb"
RunPython = Callable[..., subprocess.CompletedProcess[str]]
LIGHT = """
import sys
from metaseq_plugin.compat.commands import main
status = main({words})
print("loaded:", *sorted({{"torch", "fairseq", "yaml"}} & set(sys.modules)))
sys.exit(status)
"""


def test_it_answers_without_torch_and_fairseq(run_python: RunPython) -> None:
    done = run_python(LIGHT.format(words=["plan", *OPT_175B.split(), "--suggest"]))
    assert done.returncode == 0, done.stderr
    assert "opt_175b: 174,604,468,224 parameters" in done.stdout
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize(
    "line", [OPT_175B, A_SIZE, f"{A_SIZE} --zero 0 --fp32 --mfu 0.3", "--arch opt_350m --gpus 1 --gpu h200",
             "--arch opt_66b --gpus 1024 --gpu h100-sxm --model-parallel-size 8 --sequence-parallel --zero 2"],
)  # fmt: skip
def test_the_screen_has_80_columns(line: str) -> None:
    assert [line for line in lines(plan(line)) if len(line) > 80] == []


@pytest.mark.parametrize("name", SIZES)
def test_every_size_in_its_layout(name: str) -> None:
    layout = LAYOUTS[name]
    result = plan(
        f"--arch opt_{name} --gpus {layout.num_ranks} --gpu a100-80gb "
        f"--model-parallel-size {layout.model_parallel_size} --checkpoint-activations"
    )
    assert result.fits
    assert 0 < result.time.days < result.wall_days


def test_json_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *OPT_175B.split(), "--json", "--suggest"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    result = plan(OPT_175B)
    assert told["parameters"] == 174_604_468_224
    assert told["flops"]["total"] == result.total_flops
    assert told["memory"]["planned"]["peak"] == result.memory.peak
    assert told["time"]["days"] == result.time.days
    assert told["carbon"] == {"kg": result.carbon_kg, "g_per_kwh": 385.0}
    assert told["suggestions"][0]["peak"] <= 80e9


def test_a_run_that_fails_before_it_trains_is_never_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    never = [*A_SIZE.split(), "--mtbf", "0.0001"]
    assert main(["plan", *never]) == 0
    screen = capsys.readouterr().out
    assert "never done with saves and failures" in screen
    assert not re.search(r"\binf\b", screen)
    assert main(["plan", *never, "--json"]) == 0
    text = capsys.readouterr().out
    assert "Infinity" not in text  # which JSON does not have
    assert json.loads(text)["time"]["wall_days"] is None


def test_a_batch_with_a_letter_is_a_round_number() -> None:
    """2M are 2,097,152; 124 ranks of 2,048 tokens take 8.26 sequences each of it: 8."""
    assert plan(OPT_175B).planned.batch == (8, 1, 2_031_616)
    assert plan(OPT_175B.replace("2M", "2031616")).planned.batch == (8, 1, 2_031_616)
    with pytest.raises(
        UserError,
        match=r"must be a multiple of 253,952 .* but is 2,097,152. Set --batch-tokens 2031616 or 2285568",
    ):
        plan(OPT_175B.replace("2M", "2097152"))
    with pytest.raises(
        UserError, match=r"must be a multiple of 253,952"
    ):  # it would have to double
        plan(OPT_175B.replace("2M", "128K"))


def test_the_batch_is_the_recipes_where_none_is_given() -> None:
    assert plan(A_SIZE).planned.batch.batch_tokens == 524_288
    assert plan(f"{A_SIZE} --batch-size 2 --update-freq 3").planned.batch == (
        2,
        3,
        2 * 3 * 8 * 2048,
    )


def test_dimensions_of_ones_own() -> None:
    result = plan(
        "--arch opt --decoder-layers 2 --decoder-embed-dim 64 --decoder-attention-heads 4 "
        "--decoder-ffn-embed-dim 100 --vocab-size 80 --decoder-max-positions 30 --tokens-per-sample 30 "
        "--gpus 2 --gpu a100-80gb --batch-tokens 120"
    )
    layer = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 100 + 100 + 64 + 4 * 64
    assert result.planned.num_parameters == 2 * layer + 80 * 64 + 32 * 64 + 2 * 64


def test_counts() -> None:
    assert [read_count(text) for text in ("300B", "1.5K", "2_000", "1T")] == [
        300e9,
        1500,
        2000,
        1e12,
    ]


# fmt: off
# What is typed behind `metaseq plan` -> what the sentence says.
WRONG = {
    "arch unknown": ("--arch opt_9b --gpus 8 --gpu h200", "`--arch` must be one of opt, .*, but is opt_9b"),
    "no GPUs": ("--arch opt_125m --gpus 0 --gpu h200", "`--gpus` must be from 1 to 1000000000, but is 0"),
    "no GPU of a node": (f"{A_SIZE} --gpus-per-node 0", "`--gpus-per-node` must be from 1"),
    "device mistyped": ("--arch opt_125m --gpus 8 --gpu a100-80", "Did you mean a100-80gb?"),
    "device missing": ("--arch opt_125m --gpus 8", "`--gpu` must name the device, .* neither"),
    "device and CPU": (f"{A_SIZE} --cpu", "`--gpu` must name the device, .* both"),
    "CPU without a run": ("--arch opt_125m --gpus 8 --cpu", "`--measured` must name a run with --cpu"),
    "type that it lacks": ("--arch opt_125m --gpus 8 --gpu v100-32gb --bf16 --mfu 0.3", "`--bf16` must be a type that the v100-32gb multiplies"),
    "parts that do not divide": (f"{A_SIZE} --model-parallel-size 3", "`--model-parallel-size` must divide `--gpus`"),
    "parts of the vocabulary": (f"{A_SIZE} --model-parallel-size 2 --vocab-size 50271", r"must divide `--vocab-size` \(50271\)"),
    "heads do not divide": ("--arch opt --decoder-embed-dim 100 --decoder-attention-heads 3 --gpus 1 --gpu h200 --batch-tokens 2048", "`--decoder-attention-heads` must divide"),
    "batch that does not divide": (f"{A_SIZE} --batch-tokens 100000", "`--batch-tokens` must be a multiple of 16,384"),
    "batch that is no number": (f"{A_SIZE} --batch-tokens many", "`--batch-tokens` must be a number of tokens"),
    "batch missing": ("--arch opt --gpus 1 --gpu h200", "`--batch-tokens` must be set with --arch opt"),
    "tokens that are no number": (f"{A_SIZE} --tokens all", "`--tokens` must be a number of tokens, but is all"),
    "no tokens": (f"{A_SIZE} --tokens 0", "`--tokens` must be a number of tokens, but is 0"),
    "samples too long": (f"{A_SIZE} --tokens-per-sample 4096", "`--tokens-per-sample` must be at most"),
    "tokens cut between nobody": (f"{A_SIZE} --sequence-parallel", "`--sequence-parallel` must come with"),
    "recompute alone": (f"{A_SIZE} --recompute selective", "`--recompute` must come with"),
    "layers alone": (f"{A_SIZE} --checkpoint-layers 2", "`--checkpoint-layers` must come with"),
    "more layers": (f"{A_SIZE} --checkpoint-activations --checkpoint-layers 999", "`--checkpoint-layers` must be from 1 to"),
    "selective offload": (f"{A_SIZE} --checkpoint-activations --recompute selective --offload-activations", "`--recompute` must be whole"),
    "offload alone": (f"{A_SIZE} --offload-activations", "`--offload-activations` must come with"),
    "offload of nothing": (f"{A_SIZE} --zero 0 --cpu-offload", "`--cpu-offload` must come with --zero 2 or 3"),
    "no masters in shards": (f"{A_SIZE} --memory-efficient-fp16", "`--memory-efficient-fp16` must come with --zero 0"),
    "plain loss in parts": (f"{A_SIZE} --model-parallel-size 2 --criterion cross_entropy", "`--criterion` must be chunked_cross_entropy with --model-parallel-size"),
    "utilisation of more than all": (f"{A_SIZE} --mfu 1.5", "`--mfu` must be above 0 and at most 1, but is 1.5"),
    "two utilisations": (f"{A_SIZE} --mfu 0.5 --measured runs/a", "`--mfu` must be left out with --measured"),
    "run missing": (f"{A_SIZE} --measured no/run", "`--measured` must name the folder of a run, but no/run/config.yaml does not exist"),
    "building that gives energy": (f"{A_SIZE} --pue 0.9", "`--pue` must be at least 1, but is 0.9"),
    "no number of grams": (f"{A_SIZE} --intensity green", "`--intensity` must be g/kWh"),
    "failures all the time": (f"{A_SIZE} --mtbf 0", "`--mtbf` must be above 0, but is 0"),
    "failures that are none": (f"{A_SIZE} --device-mtbf nan", "`--device-mtbf` must be above 0, but is nan"),
    "disk that takes nothing": (f"{A_SIZE} --write-rate 0", "`--write-rate` must be above 0"),
    "going back in time": (f"{A_SIZE} --restart-minutes -1", "`--restart-minutes` must be at least 0"),
    "dropping everything": (f"{A_SIZE} --dropout 1", r"`--dropout` must be in \[0, 1\), but is 1"),
    "suggestions for nothing": ("--arch opt_125m --gpus 8 --cpu --measured runs/a --suggest", "`--suggest` must come with --gpu"),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, sentence = WRONG[name]
    assert main(["plan", *line.split()]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "Traceback" not in printed.err
    assert re.search(rf"^metaseq plan: error: .*{sentence}", printed.err), printed.err  # fmt: skip
